-- Say that a credential has just been accepted by the exchange; a new one begins a new generation.
-- KEYS: credential
-- ARGV: fingerprint
-- Gives the generation.
local stored = redis.call('HMGET', KEYS[1], 'fingerprint', 'generation')
if stored[1] == ARGV[1] then
    return tonumber(stored[2])
end
redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1])
return redis.call('HINCRBY', KEYS[1], 'generation', 1)
