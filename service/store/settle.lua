-- A call that was entered in the ledger was answered, or was not sent after all. Counts once.
-- KEYS: the minute's ledger, its calls under way
-- ARGV: id, 'answered' or 'cancelled', the exchange's own count ('' without one), account, 1 if forced
local weight = redis.call('HGET', KEYS[2], ARGV[1])
if not weight then
    return 0
end
redis.call('HDEL', KEYS[2], ARGV[1])
redis.call('HINCRBY', KEYS[1], 'pending', -weight)
if ARGV[2] == 'answered' then
    redis.call('HINCRBY', KEYS[1], 'spent', weight)
else
    if ARGV[4] ~= '' then
        redis.call('HINCRBY', KEYS[1], 'account:' .. ARGV[4], -weight)
    end
    if ARGV[5] == '1' then
        redis.call('HINCRBY', KEYS[1], 'forced', -weight)
    end
end
local reported = tonumber(redis.call('HGET', KEYS[1], 'reported') or '') or 0
if (tonumber(ARGV[3]) or 0) > reported then
    redis.call('HSET', KEYS[1], 'reported', ARGV[3])
end
return 1
