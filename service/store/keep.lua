-- Keep a snapshot, tell the replicas, and give the lease back. The exchange has just accepted the credential it was
-- asked with: another one than the last begins a new generation.
-- Refused: without the lease, and where what is there was asked for later or by a newer credential.
-- KEYS: snapshot, lease, failures, credential
-- ARGV: format version, asked_at (ms), life (ms), margin assets, body, ms to live, token, channel, message, credential,
--       its generation as far as the caller knows (0: not at all), ms to remember it
-- Gives what became of the snapshot, and the generation.
local own = tonumber(ARGV[11])
if redis.call('GET', KEYS[2]) ~= ARGV[7] then
    return { 'lost', own }
end
local stored = redis.call('HMGET', KEYS[1], 'asked_at', 'generation')
local credential = redis.call('HMGET', KEYS[4], 'identity', 'generation')
local asked_at, generation = tonumber(stored[1] or '') or 0, tonumber(credential[2] or '') or 0
if (tonumber(stored[2] or '') or 0) > generation then
    generation = tonumber(stored[2])
end
local superseded = false
if credential[1] == ARGV[10] or (not credential[1] and own > 0) then
    superseded = not credential[1] and generation > own
    generation = (own > generation) and own or generation
elseif own > 0 and generation > own then
    superseded = true
else
    generation = (own > generation) and own or generation + 1
end
-- What claims to be later by more than a snapshot can live was not stored by a replica, and must not stand for ever.
local later = asked_at > tonumber(ARGV[2]) and asked_at <= tonumber(ARGV[2]) + tonumber(ARGV[3])
local verdict = 'kept'
if superseded then
    verdict, generation = 'superseded', own
elseif later then
    verdict = 'older'
else
    redis.call('HSET', KEYS[1], 'format', ARGV[1], 'asked_at', ARGV[2], 'generation', generation, 'life', ARGV[3],
        'margin_assets', ARGV[4], 'body', ARGV[5])
    redis.call('PEXPIRE', KEYS[1], ARGV[6])
    redis.call('HSET', KEYS[4], 'identity', ARGV[10], 'generation', generation)
    redis.call('PEXPIRE', KEYS[4], ARGV[12])
    redis.call('DEL', KEYS[3])
end
redis.call('DEL', KEYS[2])
redis.call('PUBLISH', ARGV[8], ARGV[9])
return { verdict, generation }
