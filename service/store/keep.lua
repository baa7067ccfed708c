-- Keep a snapshot, tell the replicas, and give the lease back.
-- Refused: without the lease, and where what is there was asked for later or by a newer credential.
-- KEYS: snapshot, lease, failures
-- ARGV: format version, asked_at (ms), generation, life (ms), margin assets, body, ms to live, token, channel, message
if redis.call('GET', KEYS[2]) ~= ARGV[8] then
    return 'lost'
end
local stored = redis.call('HMGET', KEYS[1], 'asked_at', 'generation')
local asked_at, generation = tonumber(stored[1] or '') or 0, tonumber(stored[2] or '') or 0
-- What claims to be later by more than a snapshot can live was not stored by a replica, and must not stand for ever.
local later = asked_at > tonumber(ARGV[2]) and asked_at <= tonumber(ARGV[2]) + tonumber(ARGV[4])
local verdict = 'kept'
if generation > tonumber(ARGV[3]) then
    verdict = 'superseded'
elseif later then
    verdict = 'older'
else
    redis.call('HSET', KEYS[1], 'format', ARGV[1], 'asked_at', ARGV[2], 'generation', ARGV[3], 'life', ARGV[4],
        'margin_assets', ARGV[5], 'body', ARGV[6])
    redis.call('PEXPIRE', KEYS[1], ARGV[7])
    redis.call('DEL', KEYS[3])
end
redis.call('DEL', KEYS[2])
redis.call('PUBLISH', ARGV[9], ARGV[10])
return verdict
