-- Hold a lease for longer, if it is still ours.
-- KEYS: lease
-- ARGV: token, ms of the lease
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
    return 0
end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
