-- On an operator's order: forget what keeps a document from a refresh, and the account's credentials. Its snapshot stays.
-- KEYS: failures, lease, the claim to try the credential out, the account's credentials
-- ARGV: ms of a lease; the caller's identity; now (ms), ms for which a credential is remembered
-- Returns how many failures in a row were remembered, whether the lease was foreign (it would not have expired in time),
-- and how many other credentials were known.
local failures = whole(fields(KEYS[1], 15, 'count')[1], 1e6) or 0
local left, stuck, others = redis.call('PTTL', KEYS[2]), 0, 0
if left == -1 or left > tonumber(ARGV[1]) or read('STRLEN', KEYS[2]) == false then
    stuck = 1
    redis.call('DEL', KEYS[2])
end
for identity in pairs(credentials_at(KEYS[4], tonumber(ARGV[3]), tonumber(ARGV[4]))) do
    others = others + (identity == ARGV[2] and 0 or 1)
end
redis.call('DEL', KEYS[1], KEYS[3], KEYS[4])
return { failures, stuck, others }
