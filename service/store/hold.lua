-- Remember a not-before, or that a probe after it was answered. It only grows, until an operator's resume begins a new
-- epoch.
-- KEYS: hold
-- ARGV: epoch, problem type, until (ms since the epoch, on the exchange's clock), 1 once a probe was answered, ms to
--       remember it, the latest epoch and the latest until that a replica can have written by now
local stored = fields(KEYS[1], 64, 'epoch', 'until', 'opened')
local epoch, deadline = whole(stored[1], tonumber(ARGV[6])) or 0, whole(stored[2], tonumber(ARGV[7])) or 0
local theirs = { epoch, deadline, whole(stored[3], 1) or 0 }
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
