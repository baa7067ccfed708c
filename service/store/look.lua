-- One look at what the replicas share about an account, in one round trip.
-- KEYS: snapshot, hold on the address, hold on the credential
-- ARGV: format version, asked_at (ms) of the snapshot the caller has
-- Gives the body only where it is newer than that: a snapshot is tens of kilobytes.
local entry = redis.call('HMGET', KEYS[1], 'format', 'asked_at', 'generation', 'life', 'margin_assets')
local body = false
if entry[1] == ARGV[1] and (tonumber(entry[2] or '') or 0) > tonumber(ARGV[2]) then
    body = redis.call('HGET', KEYS[1], 'body')
end
return {
    entry,
    redis.call('PTTL', KEYS[1]),
    body,
    redis.call('HMGET', KEYS[2], 'epoch', 'problem', 'until'),
    redis.call('HMGET', KEYS[3], 'epoch', 'problem', 'until'),
}
