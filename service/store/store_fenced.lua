-- Store a snapshot, notify the replicas, and release the lease. The exchange has just accepted the credential that the
-- snapshot was requested with, so that credential is in use.
-- Refused: without the lease; if a credential in use replaced this one; if the stored snapshot was requested later.
-- KEYS: snapshot, lease, failures, the account's credentials
-- ARGV: format version, request time (ms), life (ms), margin assets, body, ms to live, token, channel, message, the
--       credential's identity, the identity that it replaced in the caller's own process ('' none), now (ms), ms for which
--       a credential is remembered
-- Returns what became of the snapshot.
local asked_at, life, own, replaced = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[10], ARGV[11]
local now, memory = tonumber(ARGV[12]), tonumber(ARGV[13])
if read('GET', KEYS[2]) ~= ARGV[7] then
    return 'lost'
end
local known, verdict = credentials_at(KEYS[4], now, memory), 'kept'
local stored_at = whole(fields(KEYS[1], 64, 'asked_at')[1], 1e14) or 0
if newest_of(known, own, now, memory) ~= own then
    verdict = 'superseded'
-- A stored time that is ahead by more than a snapshot's life was not written by a replica, and must not stay for ever.
elseif stored_at > asked_at and stored_at <= asked_at + life then
    verdict = 'older'
else
    redis.call('DEL', KEYS[1], KEYS[3])
    redis.call('HSET', KEYS[1], 'format', ARGV[1], 'identity', own, 'asked_at', ARGV[2], 'life', ARGV[3],
        'margin_assets', ARGV[4], 'body', ARGV[5])
    redis.call('PEXPIRE', KEYS[1], ARGV[6])
    known[own] = { used = now }
    -- Redis may have lost the link from the replaced credential; a replica that has used both writes it again.
    if replaced ~= '' and replaced ~= own and not (known[replaced] and known[replaced].successor) then
        known[replaced] = { used = known[replaced] and known[replaced].used or 0, successor = own }
    end
    remember(KEYS[4], known, now, memory)
end
redis.call('DEL', KEYS[2])
redis.call('PUBLISH', ARGV[8], ARGV[9])
return verdict
