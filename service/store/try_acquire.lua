-- Read what the replicas share about a document of an account, and try for its lease.
-- KEYS: snapshot and failures of the credential that the caller follows, the caller's own lease, the account's credentials
-- ARGV: format version, request time (ms) of the snapshot that the caller has, token ('' only reads), ms of the lease,
--       age (ms) below which a snapshot makes a call unnecessary, the caller's identity, the identity that it follows,
--       now (ms), ms for which a credential is remembered, most bytes of a body, most ms that a failure is
--       remembered
-- Returns the body only if it is newer than the caller's: a snapshot is tens of kilobytes.
local token, lease_ms, own, followed, now = ARGV[3], tonumber(ARGV[4]), ARGV[6], ARGV[7], tonumber(ARGV[8])
local memory = tonumber(ARGV[9])
local known = credentials_at(KEYS[4], now, memory)
local newest = newest_of(known, own, now, memory)
local uses = {}
for identity, credential in pairs(known) do
    uses[#uses + 1] = { identity, credential.used, credential.successor or '', credential.ends and 1 or 0 }
end

local entry, left, body = fields(KEYS[1], 64, 'format', 'identity', 'asked_at', 'life'), redis.call('PTTL', KEYS[1]), false
local life, listed = whole(entry[4], 1e12), false
local valid = entry[1] == ARGV[1] and entry[2] == followed and life and left > 0 and left <= life
if valid and (whole(entry[3], 1e14) or 0) > tonumber(ARGV[2]) then
    if redis.call('HSTRLEN', KEYS[1], 'body') + redis.call('HSTRLEN', KEYS[1], 'margin_assets') <= tonumber(ARGV[10]) then
        body, listed = redis.call('HGET', KEYS[1], 'body'), redis.call('HGET', KEYS[1], 'margin_assets')
    end
end

-- A failure without an end, or with one beyond any that a replica sets, would bar every replica for ever.
local failure, failure_left = fields(KEYS[2], 256, 'count', 'error'), redis.call('PTTL', KEYS[2])
if failure_left == -1 or failure_left > tonumber(ARGV[11]) then
    redis.call('DEL', KEYS[2])
    failure = {}
end

local lease = 'not-tried'
if token ~= '' then
    if body and life - left < tonumber(ARGV[5]) then
        lease = 'not-needed'
    elseif newest ~= own then
        lease = 'superseded'
    elseif redis.call('SET', KEYS[3], token, 'NX', 'PX', lease_ms) then
        lease = 'acquired'
    else
        local holder = read('GET', KEYS[3])
        if not holder then
            redis.call('SET', KEYS[3], token, 'PX', lease_ms)
            lease = 'acquired'
        elseif holder == token then
            lease = 'acquired'
        else
            lease = 'held'
            if redis.call('PTTL', KEYS[3]) > lease_ms or redis.call('PTTL', KEYS[3]) < 0 then
                redis.call('PEXPIRE', KEYS[3], lease_ms) -- no replica sets a longer life: this one must expire too
            end
        end
    end
end
return { newest, uses, entry, left, body, listed, failure, failure_left, lease }
