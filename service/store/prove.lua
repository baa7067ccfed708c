-- The exchange has accepted a credential that is to replace another: it begins a generation, unless it has the newest.
-- What it replaces gets the one before, if it is not known, so that who signs with that knows itself superseded.
-- KEYS: credential, snapshot, failures
-- ARGV: the credential, what it replaces, the generation of that as far as the caller knows (0: not at all), ms to
--       remember it, channel, message
-- Gives the credential's generation.
local known = redis.call('HMGET', KEYS[1], 'newest', 'of:' .. ARGV[1], 'of:' .. ARGV[2])
local newest, own = tonumber(known[1] or '') or 0, tonumber(known[2] or '') or 0
local by_snapshot = tonumber(redis.call('HGET', KEYS[2], 'generation') or '') or 0
local replaced = tonumber(ARGV[3])
for _, other in ipairs({ by_snapshot, replaced, 1 }) do
    if other > newest then
        newest = other
    end
end
if own < newest or own == 0 then
    if not known[3] then
        redis.call('HSET', KEYS[1], 'of:' .. ARGV[2], newest)
    end
    own = newest + 1
    redis.call('HSET', KEYS[1], 'newest', own, 'of:' .. ARGV[1], own)
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
redis.call('DEL', KEYS[3])
redis.call('PUBLISH', ARGV[5], ARGV[6])
return own
