-- A call in the ledger was answered, or was not sent after all. Counts once, because the id is removed.
-- KEYS: the minute's ledger, its calls in flight
-- ARGV: id, 'answered' or 'cancelled', the exchange's own count ('' without one), account, client that forced it ('-' if
--       none did), ms to remember
local weight = whole(read('HGET', KEYS[2], ARGV[1]), 1e6)
if not weight then
    return 0
end
redis.call('HDEL', KEYS[2], ARGV[1])
local reported = whole(fields(KEYS[1], 15, 'reported')[1], 1e6) or 0
add(KEYS[1], 'pending', -weight)
if ARGV[2] == 'answered' then
    add(KEYS[1], 'spent', weight)
else
    if ARGV[4] ~= '' then
        add(KEYS[1], 'account:' .. ARGV[4], -weight)
    end
    if ARGV[5] ~= '-' then
        add(KEYS[1], 'forced', -weight)
        add(KEYS[1], 'forced:' .. ARGV[5] .. ':' .. ARGV[4], -weight)
    end
end
if (whole(ARGV[3], 1e6) or 0) > reported then
    redis.call('HSET', KEYS[1], 'reported', ARGV[3])
end
redis.call('PEXPIRE', KEYS[1], ARGV[6])
return 1
