-- Remember a not-before, or that a probe after it was answered. It only grows, until an operator's resume begins a new
-- epoch.
-- KEYS: hold
-- ARGV: epoch, problem type, until (ms since the epoch, on the exchange's clock), 1 once a probe was answered, ms to
--       remember it
local stored = redis.call('HMGET', KEYS[1], 'epoch', 'until', 'opened')
local theirs = { tonumber(stored[1] or '') or 0, tonumber(stored[2] or '') or 0, tonumber(stored[3] or '') or 0 }
local ours = { tonumber(ARGV[1]), tonumber(ARGV[3]), tonumber(ARGV[4]) }
for place = 1, 3 do
    if theirs[place] > ours[place] then
        return 0
    elseif theirs[place] < ours[place] then
        redis.call('HSET', KEYS[1], 'epoch', ARGV[1], 'problem', ARGV[2], 'until', ARGV[3], 'opened', ARGV[4])
        redis.call('PEXPIRE', KEYS[1], ARGV[5])
        return 1
    end
end
return 0
