"""Everything the gateway asks of Redis, once and without consequence: what `coinm-gateway check` finds out by."""

import secrets

from msgspec.structs import replace

from service.exchange.budget import NO_COOLDOWN, Charge
from service.exchange.clock import ExchangeClock
from service.exchange.errors import ExchangeUnavailableError
from service.exchange.ports import Reservation
from service.settings import Settings
from service.store.accounts import AccountStore
from service.store.entries import Entry, Failed, LeaseRequest
from service.store.exchange_info import RedisExchangeInfo, exchange_info_key
from service.store.guard import SOCKET_TIMEOUT, RedisGuard
from service.store.ledger import EgressLedger
from service.store.scripts import EgressKeys, Scripts, account_keys, egress_keys

NOBODY = "~rehearsal"
"""An account and an egress that no settings can name."""
SLOTS = 64
"""Keys that are looked for, each with a hash tag of its own: of two shards or more, one surely has none of them."""
_LIFE = 1_000
"""Ms that what it writes would last if it were not removed."""


async def selftest(link: RedisGuard, settings: Settings, clock: ExchangeClock) -> None:
    """Every script and command, on keys of nobody's.

    Raises:
        RedisUnavailableError: why one of them failed.
    """
    nowhere = replace(settings, exchange=replace(settings.exchange, egress=NOBODY))
    token, scripts, egress = secrets.token_hex(8), Scripts(link.redis), egress_keys(nowhere)
    store = AccountStore(link, scripts, account_keys(nowhere, NOBODY), egress, clock, token)
    await link.run(lambda: _spread(link, settings.redis.key_prefix))
    await _refresh(store, token)
    await _spend(EgressLedger(link, scripts, egress, clock), token)
    listings = RedisExchangeInfo(link, scripts, f"{exchange_info_key(nowhere)}:{NOBODY}")
    await listings.put(b"{}")
    _ = await listings.claim(_LIFE), await listings.get()
    await link.run(lambda: _subscribe_and_clear(link, store, egress, listings))  # fails too if one before it did


async def _spread(link: RedisGuard, prefix: str) -> None:
    """Keys of many slots: a server of several shards refuses those that are another's."""
    async with link.redis.pipeline(transaction=False) as pipeline:
        for number in range(SLOTS):
            _ = pipeline.get(f"{prefix}:{{{NOBODY}:{number}}}")
        await pipeline.execute()


async def _refresh(store: AccountStore, token: str) -> None:
    wanted = LeaseRequest(token, 0)
    _ = await store.try_acquire(0, wanted), await store.renew(token, in_time=True)
    _ = await store.store_fenced(Entry(b"{}", 1, _LIFE, {}), _LIFE, token)
    _ = await store.try_acquire(0, wanted)
    await store.record_failure(Failed(1, ExchangeUnavailableError(""), 0), token)
    _ = await store.try_acquire(0, wanted)
    await store.release(token)
    await store.link(token)
    _ = await store.claim(_LIFE), await store.clear()


async def _spend(ledger: EgressLedger, token: str) -> None:
    answered = Reservation(token, 0, Charge(1, NOBODY, forced=True))
    cancelled = replace(answered, id=f"{token}-cancelled")
    for call in (answered, cancelled):
        _ = await ledger.reserve(call)
    await ledger.settle(answered, 1)
    await ledger.cancel(cancelled)
    await ledger.cool_down_address(NO_COOLDOWN)
    _ = await ledger.resume(token)
    _ = await ledger.probe(_LIFE)


async def _subscribe_and_clear(
    link: RedisGuard, store: AccountStore, egress: EgressKeys, listings: RedisExchangeInfo
) -> None:
    keys, identity = store.keys, store.identity
    async with link.redis.pubsub() as subscription:
        await subscription.subscribe(keys.channel)
        await subscription.ping()
        for _ in range(2):  # both are answered; a refusal is raised
            _ = await subscription.get_message(timeout=SOCKET_TIMEOUT)
    accounts = [keys.snapshot(identity), keys.failures(identity), keys.lease(identity), keys.proof(identity)]
    addresses = [egress.hold, egress.credential_cooldown(identity), egress.probe, *egress.minute(0)]
    await link.redis.delete(*accounts, keys.credentials)
    await link.redis.delete(*addresses)
    for name in (listings.key, listings.claim_key):
        await link.redis.delete(name)
