"""Every script and command that the gateway uses on Redis, run once on keys of its own: for `coinm-gateway check`."""

import secrets

from msgspec.structs import replace

from service.cache.wait_budget import WaitBudget
from service.exchange.clock import ExchangeClock
from service.fleet.budget import NO_COOLDOWN, Charge
from service.fleet.errors import ExchangeUnavailableError, Failure
from service.fleet.ledger import Reservation
from service.fleet.shared_state import Entry, Failed, LeaseRequest
from service.settings import Settings
from service.store.documents import DocumentStore
from service.store.exchange_info import RedisExchangeInfo
from service.store.guard import HEARTBEAT_TICKS, SOCKET_TIMEOUT_S, RedisGuard
from service.store.keys import EgressKeys, document_keys, egress_keys, exchange_info_key
from service.store.ledger import EgressLedger

PLACEHOLDER = "~rehearsal"
"""Names an account and an egress that no settings can name."""
SLOTS = 64
"""Keys to read, each with a hash tag of its own: of two or more shards, one surely has none of them."""
_LIFE_MS = 1_000
"""How long what the test writes would last if it were not removed."""


async def selftest(guard: RedisGuard, settings: Settings, clock: ExchangeClock) -> None:
    """Run every script and command on placeholder keys, and remove the keys.

    Raises:
        RedisUnavailableError: why one of them failed.
    """
    placeholder = replace(settings, exchange=replace(settings.exchange, egress=PLACEHOLDER))
    token, egress = secrets.token_hex(8), egress_keys(placeholder)
    store = DocumentStore(guard, document_keys(placeholder, PLACEHOLDER), egress, clock, token)
    ledger = EgressLedger(guard, egress, clock)
    info = RedisExchangeInfo(guard, f"{exchange_info_key(placeholder)}:{PLACEHOLDER}")
    await guard.run(lambda: _read_many_slots(guard, settings.redis.key_prefix))

    # The stores hide a failure, but it opens the guard's breaker: the last operation below then raises the reason.
    wanted = LeaseRequest(token, 0)
    _ = await store.try_acquire(0, wanted), await store.renew(token, in_time=True)
    _ = await store.store_fenced(Entry(b"{}", 1, _LIFE_MS, {}), _LIFE_MS, token)
    _ = await store.try_acquire(0, wanted)  # storing has released the lease, and so does a failure
    await store.record_failure(Failed(1, Failure(ExchangeUnavailableError.problem, ""), 0), token)
    _ = await store.try_acquire(0, wanted)
    await store.release(token)
    await store.record_rotation(token)
    _ = await store.acquire_once(_LIFE_MS), await store.clear()

    answered = Reservation(token, 0, Charge(1, PLACEHOLDER, forced=True))
    cancelled = replace(answered, id=f"{token}-cancelled")
    for call in (answered, cancelled):
        _ = await ledger.reserve(call)
    await ledger.settle(answered, 1)
    await ledger.cancel(cancelled)
    await ledger.cool_down_address(NO_COOLDOWN)
    _ = await ledger.resume(token)
    _ = await ledger.acquire_probe(_LIFE_MS)

    await info.put(b"{}")
    _ = await info.acquire_once(_LIFE_MS), await info.get()
    # It opens a connection, which may take a handshake.
    await guard.run(lambda: _subscribe_and_delete(guard, store, egress, info), WaitBudget(HEARTBEAT_TICKS))


async def _read_many_slots(guard: RedisGuard, prefix: str) -> None:
    """Read keys of many slots: a server of several shards refuses those that another shard has."""
    async with guard.redis.pipeline(transaction=False) as pipeline:
        for number in range(SLOTS):
            _ = pipeline.get(f"{prefix}:{{{PLACEHOLDER}:{number}}}")
        await pipeline.execute()


async def _subscribe_and_delete(
    guard: RedisGuard, store: DocumentStore, egress: EgressKeys, info: RedisExchangeInfo
) -> None:
    keys, identity = store.keys, store.identity
    async with guard.redis.pubsub() as subscription:
        await subscription.subscribe(keys.channel)
        await subscription.ping()
        for _ in range(2):  # both are answered; a refusal is raised
            _ = await subscription.get_message(timeout=SOCKET_TIMEOUT_S)
    accounts = [keys.snapshot(identity), keys.failures(identity), keys.lease(identity), keys.proof(identity)]
    addresses = [egress.address_cooldown, egress.credential_cooldown(identity), egress.probe, *egress.minute(0)]
    # One command for each slot, as everywhere else.
    await guard.redis.delete(*accounts, keys.credentials)
    await guard.redis.delete(*addresses)
    for name in (info.key, info.claim_key):
        await guard.redis.delete(name)
