-- Loaded before the scripts that need to know which credential has replaced which; `lineage.py` has the theory.
-- The hash has a field for each credential's identity. Its value is `USED[:SUCCESSOR[@ENDS]]`: when the exchange last
-- accepted it from a replica, the identity that replaced it, and the end of a link that is followed for a while only
-- (times in ms since the epoch, on the exchange's clock).

local MOST_CREDENTIALS = 16

-- The credentials that have used the account, by identity: when, and their successors by the links that hold now.
local function credentials_at(key, now, memory)
    local found, size = {}, read('HLEN', key)
    if not size or size > 4 * MOST_CREDENTIALS then
        redis.call('DEL', key)
        return found
    end
    local flat = redis.call('HGETALL', key)
    for place = 1, #flat, 2 do
        local identity, value = flat[place], flat[place + 1]
        if #identity == 16 and #value <= 48 and string.find(identity, '^[0-9a-f]+$') then
            local used, successor, ends = string.match(value, '^(%d+):?([0-9a-f]*)@?(%d*)$')
            if whole(used, 1e14) then
                found[identity] = { used = tonumber(used) }
                local until_when = whole(ends, now + memory)
                if #successor == 16 and (ends == '' or (until_when and until_when > now)) then
                    found[identity].successor, found[identity].ends = successor, until_when
                end
            end
        end
    end
    return found
end

-- Whether a credential was in use within `memory`; a use may be dated ahead, by a replica whose clock is.
local function is_live(credential, now, memory)
    return credential and credential.used >= now - memory and credential.used <= now + memory
end

-- The credential to follow: the last one in use of those that replaced `identity`, or `identity` itself.
local function newest_of(known, identity, now, memory)
    local at, newest = identity, identity
    for _ = 1, MOST_CREDENTIALS do
        at = known[at] and known[at].successor
        if not at then
            break
        elseif is_live(known[at], now, memory) then
            newest = at
        end
    end
    return newest
end

-- Whether the other credential replaced this one, directly or over others.
local function leads_to(known, identity, other)
    for _ = 1, MOST_CREDENTIALS do
        identity = known[identity] and known[identity].successor
        if not identity or identity == other then
            break
        end
    end
    return identity == other
end

-- Store what is still needed: credentials in use, and those that one in use has replaced; of these the ones used last.
local function remember(key, known, now, memory)
    local kept = {}
    for identity, credential in pairs(known) do
        if is_live(credential, now, memory) or newest_of(known, identity, now, memory) ~= identity then
            kept[#kept + 1] = identity
        end
    end
    table.sort(kept, function(one, other)
        return known[one].used > known[other].used or (known[one].used == known[other].used and one < other)
    end)
    redis.call('DEL', key)
    for place = 1, math.min(#kept, MOST_CREDENTIALS) do
        local credential = known[kept[place]]
        local successor = credential.successor and ':' .. credential.successor or ''
        local ends = credential.successor and credential.ends and string.format('@%.0f', credential.ends) or ''
        redis.call('HSET', key, kept[place], string.format('%.0f', credential.used) .. successor .. ends)
    end
    redis.call('PEXPIRE', key, 2 * memory)
end
