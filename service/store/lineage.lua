-- Stands before the scripts that need to know which credential has replaced which; `lineage.py` has the theory.
-- The hash has a field for each credential's identity: when the exchange last accepted it in a replica's hands (ms since
-- the epoch, on the exchange's clock), behind a colon the identity that replaced it, and behind an @ when a link ends that
-- is followed for a while only.

local MOST_CREDENTIALS = 16

-- Who has used the account: by identity, when, and by what it was replaced, by the links that are followed now.
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

-- Whether a credential was in use lately.
local function is_live(credential, now, memory)
    return credential and credential.used >= now - memory and credential.used <= now + memory
end

-- The credential that is to be used in the place of one: the last in use of those that replaced it, or itself.
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

-- Whether one credential was replaced, sooner or later, by the other.
local function leads_to(known, identity, other)
    for _ = 1, MOST_CREDENTIALS do
        identity = known[identity] and known[identity].successor
        if not identity or identity == other then
            break
        end
    end
    return identity == other
end

-- Write down what is still of use: credentials in use, and those that one in use has replaced; the latest of them.
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
