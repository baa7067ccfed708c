-- Forget a not-before, and begin a new epoch so that replicas that remember it forget it too.
-- KEYS: hold
-- ARGV: ms to remember the epoch
-- Gives what was forgotten.
local stored = redis.call('HMGET', KEYS[1], 'epoch', 'problem', 'until')
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'epoch', (tonumber(stored[1] or '') or 0) + 1)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return stored
