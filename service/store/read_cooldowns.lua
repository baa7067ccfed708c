-- Read the cooldowns that bind a call.
-- KEYS: hold on the address, hold on the credential
return { hold_at(KEYS[1]), hold_at(KEYS[2]) }
