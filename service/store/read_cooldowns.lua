-- Read the cooldowns that bind a call.
-- KEYS: cooldown of the address, cooldown of the credential
return { cooldown_at(KEYS[1]), cooldown_at(KEYS[2]) }
