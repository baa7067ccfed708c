-- Store a failed refresh, notify the replicas, and release the lease. Refused without the lease.
-- KEYS: failures, lease
-- ARGV: failures in a row, error, ms to remember it (the pause, then long enough to count the next failure in the row),
--       token, channel, message
if read('GET', KEYS[2]) ~= ARGV[4] then
    return 0
end
redis.call('DEL', KEYS[1], KEYS[2])
redis.call('HSET', KEYS[1], 'count', ARGV[1], 'error', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PUBLISH', ARGV[5], ARGV[6])
return 1
