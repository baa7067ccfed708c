-- Forget a not-before, and begin a new epoch so that replicas that remember it forget it too.
-- KEYS: hold
-- ARGV: ms to remember the epoch, and the least it may be: the time, so that it is later than any that Redis lost
-- Gives what was forgotten.
local stored = redis.call('HMGET', KEYS[1], 'epoch', 'problem', 'until', 'opened')
local epoch = (tonumber(stored[1] or '') or 0) + 1
if epoch < tonumber(ARGV[2]) then
    epoch = ARGV[2]
end
redis.call('DEL', KEYS[1])
redis.call('HSET', KEYS[1], 'epoch', epoch)
redis.call('PEXPIRE', KEYS[1], ARGV[1])
return stored
