-- The exchange has accepted a credential from a replica that used another one until now: the other is replaced.
-- KEYS: the account's credentials, failures of the accepted one, the claim to try it out
-- ARGV: the accepted identity, the replaced one, now (ms), ms for which a credential is remembered, channel, the
--       messages for the users of either, the link from the replaced one to it: 'permanent', 'temporary' or 'none'
local accepted, replaced, now, memory = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local known, link = credentials_at(KEYS[1], now, memory), ARGV[8]
local before = known[accepted] or {}
if leads_to(known, accepted, replaced) then
    before.successor = nil -- a rotation back to an earlier one: it replaces those that replaced it
end
known[accepted] = { used = now, successor = before.successor, ends = before.ends }
if link ~= 'none' then
    local ends = link == 'temporary' and now + memory or nil
    known[replaced] = { used = known[replaced] and known[replaced].used or 0, successor = accepted, ends = ends }
end
remember(KEYS[1], known, now, memory)
redis.call('DEL', KEYS[2])
if link == 'none' then
    redis.call('DEL', KEYS[3]) -- no replica is led to it: each tries it out itself, without waiting
end
redis.call('PUBLISH', ARGV[5], ARGV[6])
redis.call('PUBLISH', ARGV[5], ARGV[7])
return 1
