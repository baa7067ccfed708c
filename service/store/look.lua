-- One look at what the replicas share about an account, and a try for its lease, in one round trip.
-- KEYS: snapshot, hold on the address, hold on the credential, failures, lease, credential
-- ARGV: format version, asked_at (ms) of the snapshot the caller has, token ('' just looks), ms of the lease,
--       age (ms) below which a snapshot spares the call, the caller's credential and its generation (0: not known)
-- Gives the body only where it is newer than the caller's: a snapshot is tens of kilobytes.
local entry = redis.call('HMGET', KEYS[1], 'format', 'asked_at', 'generation', 'life', 'margin_assets')
local left = redis.call('PTTL', KEYS[1])
local body = false
if entry[1] == ARGV[1] and (tonumber(entry[2] or '') or 0) > tonumber(ARGV[2]) then
    body = redis.call('HGET', KEYS[1], 'body')
end
local known = redis.call('HMGET', KEYS[6], 'newest', 'of:' .. ARGV[6])
local newest, own = tonumber(known[1] or '') or 0, tonumber(known[2] or '') or 0
if tonumber(ARGV[7]) > own then
    own = tonumber(ARGV[7])
end
local lease = 'not-tried'
if ARGV[3] ~= '' then
    local life = tonumber(entry[4] or '')
    if body and life and left > 0 and left <= life and life - left < tonumber(ARGV[5]) then
        lease = 'needless'
    elseif own > 0 and own < newest then
        lease = 'superseded'
    elseif redis.call('SET', KEYS[5], ARGV[3], 'NX', 'PX', ARGV[4]) or redis.call('GET', KEYS[5]) == ARGV[3] then
        lease = 'taken'
    else
        lease = 'busy'
    end
end
return {
    entry,
    left,
    body,
    redis.call('HMGET', KEYS[2], 'epoch', 'problem', 'until', 'opened'),
    redis.call('PTTL', KEYS[2]),
    redis.call('HMGET', KEYS[3], 'epoch', 'problem', 'until', 'opened'),
    redis.call('PTTL', KEYS[3]),
    redis.call('HMGET', KEYS[4], 'count', 'error'),
    redis.call('PTTL', KEYS[4]),
    own,
    newest,
    lease,
}
