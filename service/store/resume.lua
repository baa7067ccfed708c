-- Forget a not-before, and begin a new epoch so that replicas that remember it forget it too.
-- KEYS: hold
-- ARGV: ms to remember the epoch, and the least it may be: the time, so that it is later than any that Redis lost
-- Gives what was forgotten.
local stored = hold_at(KEYS[1])
local epoch = math.max((whole(stored[1][1], 1e14) or 0) + 1, tonumber(ARGV[2]))
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'epoch', string.format('%.0f', epoch))
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return stored
