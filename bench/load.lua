-- For wrk: requests at full speed, or with `-- MILLISECONDS` between two of a connection, on an average; the outcome as
-- one line of JSON. Pauses differ at random, exponentially, as independent callers come: equal ones would bring all
-- whose answers came together together again.
local pause = 0

function init(args)
  pause = tonumber(args[1]) or 0
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
