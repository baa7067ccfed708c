-- For wrk: requests at full speed, or with `-- MILLISECONDS` between two of a connection, on an average; paths after
-- that are requested in turn, instead of the URL's. The outcome is one line of JSON. Pauses differ at random,
-- exponentially, as independent callers come: equal ones would bring all whose answers came together together again.
local pause = 0

function init(args)
  pause = tonumber(args[1]) or 0
  if #args > 1 then
    local last = 1
    -- A script with a `request` calls it for each one, which costs this process more; hence only where it is needed.
    request = function()
      last = last < #args and last + 1 or 2
      return wrk.format(nil, args[last])
    end
  end
end

function delay()
  return math.floor(-pause * math.log(1 - math.random()) + 0.5)
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"microseconds":%d,"failed":%d,"p50":%.1f,"p99":%.1f,"p999":%.1f}\n',
    summary.requests, summary.duration, errors.connect + errors.read + errors.write + errors.status + errors.timeout,
    latency:percentile(50), latency:percentile(99), latency:percentile(99.9)))
end
