-- Remember a not-before. It only grows, until a probe or an operator's resume begins a new epoch.
-- KEYS: hold
-- ARGV: epoch, problem type, until (ms since the epoch, on the exchange's clock), ms to remember it
local stored = redis.call('HMGET', KEYS[1], 'epoch', 'until')
local epoch, until_ms = tonumber(stored[1] or '') or 0, tonumber(stored[2] or '') or 0
if epoch > tonumber(ARGV[1]) or (epoch == tonumber(ARGV[1]) and until_ms >= tonumber(ARGV[3])) then
    return 0
end
redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'problem', ARGV[2], 'until', ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return 1
