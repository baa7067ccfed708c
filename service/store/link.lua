-- The exchange has accepted a credential in the hands of a replica that used another until now: the other is replaced.
-- KEYS: the account's credentials, failures of the accepted one
-- ARGV: the accepted identity, the replaced one, now (ms), ms that a credential is remembered, channel, the messages that
--       tell those who use either
local accepted, replaced, now, memory = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local known = credentials_at(KEYS[1])
local before = known[accepted] or {}
if leads_to(known, accepted, replaced) then
    before.successor = nil -- a rotation back to an earlier one: it replaces those that had replaced it
end
known[accepted] = { used = now, successor = before.successor }
known[replaced] = { used = known[replaced] and known[replaced].used or 0, successor = accepted }
remember(KEYS[1], known, now, memory)
redis.call('DEL', KEYS[2])
redis.call('PUBLISH', ARGV[5], ARGV[6])
redis.call('PUBLISH', ARGV[5], ARGV[7])
return 1
