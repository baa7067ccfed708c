-- Enter a call in the ledger of its minute. An id counts once, however often it comes.
-- KEYS: the minute's ledger, its calls under way, the ledger of the minute before, hold on the address, hold on the
--       credential
-- ARGV: id, weight, account ('' serves all), 1 if forced, ms to remember
-- Gives both ledgers as they were before, and what binds the call.
local before = {
    redis.call('HGETALL', KEYS[1]),
    redis.call('HGETALL', KEYS[3]),
    redis.call('HMGET', KEYS[4], 'epoch', 'problem', 'until', 'opened'),
    redis.call('PTTL', KEYS[4]),
    redis.call('HMGET', KEYS[5], 'epoch', 'problem', 'until', 'opened'),
    redis.call('PTTL', KEYS[5]),
}
if redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[2]) == 1 then
    redis.call('HINCRBY', KEYS[1], 'pending', ARGV[2])
    if ARGV[3] ~= '' then
        redis.call('HINCRBY', KEYS[1], 'account:' .. ARGV[3], ARGV[2])
    end
    if ARGV[4] == '1' then
        redis.call('HINCRBY', KEYS[1], 'forced', ARGV[2])
    end
    redis.call('PEXPIRE', KEYS[1], ARGV[5])
    redis.call('PEXPIRE', KEYS[2], ARGV[5])
end
return before
