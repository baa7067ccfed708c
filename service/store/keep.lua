-- Keep a snapshot, tell the replicas, and give the lease back. The exchange has just accepted the credential it was
-- asked with: one that has not been seen before begins a new generation.
-- Refused: without the lease, and where what is there was asked for later or by a newer credential.
-- KEYS: snapshot, lease, failures, credential
-- ARGV: format version, asked_at (ms), life (ms), margin assets, body, ms to live, token, channel, message, credential,
--       its generation as far as the caller knows (0: not at all), ms to remember it
-- Gives what became of the snapshot, and the credential's generation.
local asked_at, life, token, identity = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[7], ARGV[10]
local own = tonumber(ARGV[11])
if redis.call('GET', KEYS[2]) ~= token then
    return { 'lost', own }
end
local stored = redis.call('HMGET', KEYS[1], 'asked_at', 'generation')
local known = redis.call('HMGET', KEYS[4], 'newest', 'of:' .. identity)
local stored_at, newest = tonumber(stored[1] or '') or 0, tonumber(known[1] or '') or 0
local by_snapshot, recorded = tonumber(stored[2] or '') or 0, tonumber(known[2] or '') or 0
if by_snapshot > newest then
    newest = by_snapshot
end
if recorded > own then
    own = recorded
end
if own == 0 then
    own = newest + 1
end
local verdict = 'kept'
if own < newest then
    verdict = 'superseded'
-- What claims to be later by more than a snapshot can live was not stored by a replica, and must not stand for ever.
elseif stored_at > asked_at and stored_at <= asked_at + life then
    verdict = 'older'
else
    redis.call('HSET', KEYS[1], 'format', ARGV[1], 'asked_at', asked_at, 'generation', own, 'life', life,
        'margin_assets', ARGV[4], 'body', ARGV[5])
    redis.call('PEXPIRE', KEYS[1], ARGV[6])
    redis.call('HSET', KEYS[4], 'newest', own, 'of:' .. identity, own)
    redis.call('PEXPIRE', KEYS[4], ARGV[12])
    redis.call('DEL', KEYS[3])
end
redis.call('DEL', KEYS[2])
redis.call('PUBLISH', ARGV[8], ARGV[9])
return { verdict, own }
