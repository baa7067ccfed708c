-- Keep a snapshot, unless what is there was asked for later or by a newer credential.
-- KEYS: snapshot
-- ARGV: format version, asked_at (ms), generation, life (ms), margin assets, body, ms to live
local stored = redis.call('HMGET', KEYS[1], 'asked_at', 'generation')
local asked_at, generation = tonumber(stored[1] or '') or 0, tonumber(stored[2] or '') or 0
-- What claims to be later by more than a snapshot can live was not stored by a replica, and must not stand for ever.
local later = asked_at > tonumber(ARGV[2]) and asked_at <= tonumber(ARGV[2]) + tonumber(ARGV[4])
if later or generation > tonumber(ARGV[3]) then
    return 0
end
redis.call('HSET', KEYS[1], 'format', ARGV[1], 'asked_at', ARGV[2], 'generation', ARGV[3], 'life', ARGV[4],
    'margin_assets', ARGV[5], 'body', ARGV[6])
redis.call('PEXPIRE', KEYS[1], ARGV[7])
return 1
