-- Release the lease if the caller still holds it, and notify the replicas that wait for it.
-- KEYS: lease
-- ARGV: token, channel, message
if read('GET', KEYS[1]) ~= ARGV[1] then
    return 0
end
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[2], ARGV[3])
return 1
