-- Loaded before every script. A value that no replica can have written counts as none, for that key alone. One foreign
-- value must not make a script fail: a failed script counts as a failure of Redis, and opens the breaker for all accounts.

-- A command's answer. A key of another type is foreign: it is removed, so that the next write succeeds.
local function read(command, key, ...)
    local found = redis.pcall(command, key, ...)
    if type(found) == 'table' and found.err then
        if not string.find(tostring(found.err), 'WRONGTYPE', 1, true) then
            error(tostring(found.err))
        end
        redis.call('DEL', key)
        return false
    end
    return found
end

-- A whole number from 0 to `most`, or nil. 15 digits are exact in a double, and beyond every time in ms.
local function whole(text, most)
    if type(text) == 'string' and #text <= 15 and string.find(text, '^%d+$') and tonumber(text) <= most then
        return tonumber(text)
    end
    return nil
end

-- Fields of a hash, each no longer than `longest` bytes; false for a field that is missing or longer.
local function fields(key, longest, ...)
    local found = read('HMGET', key, ...) or {}
    for place, value in ipairs({ ... }) do
        value = found[place]
        found[place] = value and #value <= longest and value or false
    end
    return found
end

-- A cooldown, and the ms for which it is still remembered.
local function cooldown_at(key)
    return { fields(key, 64, 'resumed', 'imposed', 'until', 'opened', 'problem'), redis.call('PTTL', key) }
end

-- Add to a number in a hash's field; it never falls below 0.
local function add(key, field, amount)
    local figure = (whole(redis.call('HGET', key, field), 1e6) or 0) + tonumber(amount)
    redis.call('HSET', key, field, string.format('%.0f', math.max(0, figure)))
end
