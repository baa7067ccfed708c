-- Forget a not-before, and begin a new epoch so that replicas that remember it forget it too.
-- KEYS: hold
-- ARGV: ms to remember the epoch; and, to forget just the one that a probe was sent after, its epoch and its until
-- Gives what was there.
local stored = redis.call('HMGET', KEYS[1], 'epoch', 'problem', 'until')
if ARGV[2] and (stored[1] ~= ARGV[2] or stored[3] ~= ARGV[3]) then
    return stored
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'epoch', (tonumber(stored[1] or '') or 0) + 1)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return stored
