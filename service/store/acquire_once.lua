-- Acquire the sole right to do something, for so many ms, whatever comes of it. Returns 1 if the caller has it now.
-- KEYS: the claim
-- ARGV: token, ms
-- A claim without an end, or with one far beyond any that a replica sets, is foreign and doesn't count.
local milliseconds = tonumber(ARGV[2])
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', milliseconds) then
    return 1
end
local left = redis.call('PTTL', KEYS[1])
if left >= 0 and left <= 10 * milliseconds then
    return 0
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', milliseconds)
return 1
