-- Extend the lease if the caller still holds it. Returns 1 if it does.
-- KEYS: lease
-- ARGV: token, ms of the lease, 1 if it can't have expired yet: if it is gone, Redis has lost it, and it is set again
local holder = read('GET', KEYS[1])
if holder == ARGV[1] then
    return redis.call('PEXPIRE', KEYS[1], ARGV[2])
elseif not holder and ARGV[3] == '1' then
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
    return 1
end
return 0
