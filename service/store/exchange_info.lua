-- Read the shared copy of exchangeInfo, and the ms that it has left to live; none if it is larger than a real one.
-- KEYS: the copy
-- ARGV: most bytes
local size = read('STRLEN', KEYS[1])
if not size or size == 0 or size > tonumber(ARGV[1]) then
    return { 0, false }
end
return { redis.call('PTTL', KEYS[1]), redis.call('GET', KEYS[1]) }
