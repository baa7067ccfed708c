-- Forget a cooldown, and store when, so that replicas which have a copy of it forget it too.
-- KEYS: the cooldown
-- ARGV: ms to remember the resume, now (ms since the epoch, on the exchange's clock), the latest that a replica can have
--       written by now
-- Returns what was forgotten.
local latest = tonumber(ARGV[3])
local stored = fields(KEYS[1], 64, 'resumed', 'imposed')
local imposed = math.min(whole(stored[2], 1e14) or 0, latest)
-- Later than the cooldown, whichever replica's clock dated it.
local resumed = math.max(tonumber(ARGV[2]), whole(stored[1], latest) or 0, imposed > 0 and imposed + 1 or 0)
local forgotten = cooldown_at(KEYS[1])
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'resumed', string.format('%.0f', resumed))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return forgotten
