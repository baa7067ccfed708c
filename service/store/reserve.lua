-- Enter a call in the ledger of its minute. An id counts once, however often it is entered.
-- KEYS: the minute's ledger, its calls in flight, the ledger of the minute before, cooldown of the address, cooldown of
--       the credential
-- ARGV: id, weight, account ('' serves all), client that forces it on a fresh snapshot ('-' if none does), ms to remember
-- Returns both ledgers as they were before, and the cooldowns that bind the call.
local by_account, by_client = 'account:' .. ARGV[3], 'forced:' .. ARGV[4] .. ':' .. ARGV[3]

-- The figures of a minute. Beyond a plausible number of fields, other accounts' figures are left out.
local function ledger_at(key)
    local size, flat, found = read('HLEN', key) or 0, {}, {}
    if size <= 1000 then
        flat = redis.call('HGETALL', key)
    else
        local names = { 'reported', 'spent', 'pending', 'forced', by_account, by_client }
        for place, value in ipairs(redis.call('HMGET', key, unpack(names))) do
            flat[2 * place - 1], flat[2 * place] = names[place], value or ''
        end
    end
    for place = 1, #flat, 2 do
        if #flat[place] <= 160 and whole(flat[place + 1], 1e6) then
            found[#found + 1] = flat[place]
            found[#found + 1] = flat[place + 1]
        end
    end
    return found
end

local before = { ledger_at(KEYS[1]), ledger_at(KEYS[3]), cooldown_at(KEYS[4]), cooldown_at(KEYS[5]) }
read('HLEN', KEYS[2])
if redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[2]) == 1 then
    add(KEYS[1], 'pending', ARGV[2])
    if ARGV[3] ~= '' then
        add(KEYS[1], by_account, ARGV[2])
    end
    if ARGV[4] ~= '-' then
        add(KEYS[1], 'forced', ARGV[2])
        add(KEYS[1], by_client, ARGV[2])
    end
    redis.call('PEXPIRE', KEYS[1], ARGV[5])
    redis.call('PEXPIRE', KEYS[2], ARGV[5])
end
return before
