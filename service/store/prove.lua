-- Say that a credential has just been accepted by the exchange; a new one begins a new generation.
-- KEYS: credential
-- ARGV: the credential's identity
-- Gives the generation.
local stored = redis.call('HMGET', KEYS[1], 'identity', 'generation')
local generation = tonumber(stored[2] or '')
if stored[1] == ARGV[1] and generation then
    return generation
end
generation = (generation or 0) + 1
redis.call('HSET', KEYS[1], 'identity', ARGV[1], 'generation', generation)
return generation
