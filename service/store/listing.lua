-- The shared copy of exchangeInfo and the ms it has left to live; none where it is larger than one can be.
-- KEYS: the listing
-- ARGV: most bytes
local size = read('STRLEN', KEYS[1])
if not size or size == 0 or size > tonumber(ARGV[1]) then
    return { 0, false }
end
return { redis.call('PTTL', KEYS[1]), redis.call('GET', KEYS[1]) }
