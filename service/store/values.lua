-- Stands before every script. What no replica can have written counts as none, for that key alone: one value of somebody
-- else's must not make a script fail, for a script that fails is taken for a Redis that is away, by every account.

-- A command's answer. A key of another type is nobody's: it is removed, so that the next write finds nothing in its way.
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

-- Fields of a hash, each no longer than `longest` bytes; false where there is none.
local function fields(key, longest, ...)
    local found = read('HMGET', key, ...) or {}
    for place, value in ipairs({ ... }) do
        value = found[place]
        found[place] = value and #value <= longest and value or false
    end
    return found
end

-- A not-before, and the ms it is still remembered.
local function hold_at(key)
    return { fields(key, 64, 'resumed', 'imposed', 'until', 'opened', 'problem'), redis.call('PTTL', key) }
end

-- Count on in a hash's field, which never falls below nothing.
local function add(key, field, amount)
    local figure = (whole(redis.call('HGET', key, field), 1e6) or 0) + tonumber(amount)
    redis.call('HSET', key, field, string.format('%.0f', math.max(0, figure)))
end
