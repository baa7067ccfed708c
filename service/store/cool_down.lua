-- Store a cooldown, or that a probe after it was answered, or a resume, merged with the stored one by the rule of
-- `budget.merged`. Returns 1 if that changed anything.
-- KEYS: the cooldown
-- ARGV: resumed, imposed, until, 1 once a probe was answered, problem type, now (all times in ms since the epoch, on the
--       exchange's clock), the latest of a moment and of an until that a replica can have written by now, ms to remember
--       it past its end
local now, latest, memory = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[9])
local stored = fields(KEYS[1], 64, 'resumed', 'imposed', 'until', 'opened', 'problem')
local theirs = {
    resumed = whole(stored[1], latest) or 0,
    imposed = math.min(whole(stored[2], 1e14) or 0, latest),
    deadline = whole(stored[3], tonumber(ARGV[8])) or 0,
    opened = 0,
    problem = stored[5] or '',
}
if theirs.deadline <= latest then
    theirs.opened = whole(stored[4], 1) or 0
end
local ours = {
    resumed = tonumber(ARGV[1]),
    imposed = tonumber(ARGV[2]),
    deadline = tonumber(ARGV[3]),
    opened = tonumber(ARGV[4]),
    problem = ARGV[5],
}
local both = { resumed = math.max(theirs.resumed, ours.resumed), imposed = 0, deadline = 0, opened = 0, problem = '' }
for _, each in ipairs({ theirs, ours }) do
    if each.deadline > 0 and each.imposed >= both.resumed then
        both.imposed = math.max(both.imposed, each.imposed)
        if each.deadline > both.deadline or (each.deadline == both.deadline and each.opened > both.opened) then
            both.deadline, both.opened, both.problem = each.deadline, each.opened, each.problem
        end
    end
end
local news = 0
for name, value in pairs(both) do
    news = (name ~= 'problem' and value ~= theirs[name]) and 1 or news
end
if news == 1 then
    redis.call('HSET', KEYS[1], 'resumed', string.format('%.0f', both.resumed), 'imposed',
        string.format('%.0f', both.imposed), 'until', string.format('%.0f', both.deadline), 'opened', both.opened,
        'problem', both.problem)
    -- Replicas compute the time from what is left of a cooldown's life; a resume alone gives none.
    local life = both.deadline > 0 and both.deadline - now + memory or memory
    redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.max(1, life)))
end
return news
