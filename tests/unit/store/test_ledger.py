"""The ledger's Lua scripts by what they promise, on an embedded Redis."""

from typing import Any

import pytest
from fakeredis import FakeAsyncRedis, FakeServer
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from service.cache.wait_budget import WaitBudget, carry
from service.exchange.clock import ExchangeClock, Offset
from service.fleet.budget import MAX_COOLDOWN, MINUTE, NO_COOLDOWN, Charge, Cooldown, Window
from service.fleet.ledger import Cooldowns, Reservation
from service.store.guard import RedisGuard, RedisUnavailableError
from service.store.keys import EgressKeys
from service.store.ledger import LEDGER_MEMORY_MS, EgressLedger, window_of
from service.telemetry.metrics import Metrics
from tests.support import START, FakeClock

KEYS = EgressKeys("e")
BAN = Cooldown(0, START + 5_000, problem="exchange-banned")
NOW = START // MINUTE


class Reportable(EgressLedger):
    """A ledger whose entries are waited for; the gateway doesn't, as nobody decides by them."""

    def __init__(self, redis: Any, clock: FakeClock, exchange: ExchangeClock | None = None) -> None:
        self.guard = RedisGuard(redis, clock, Metrics())
        super().__init__(self.guard, KEYS, exchange or ExchangeClock(clock))

    async def settle(self, reservation: Reservation, reported: int | None) -> None:
        await super().settle(reservation, reported)
        await self.guard.flush()

    async def cancel(self, reservation: Reservation) -> None:
        await super().cancel(reservation)
        await self.guard.flush()


@pytest.fixture
def ledger(redis: Any, clock: FakeClock) -> EgressLedger:
    return Reportable(redis, clock)


def entry(number: int, weight: int = 5, account: str = "main", *, forced: bool = False) -> Reservation:
    return Reservation(f"id-{number}", NOW, Charge(weight, account, "identity", forced, "risk"))


async def window(ledger: EgressLedger, minute: int = NOW) -> Window:
    """What the next call of a minute would see."""
    peek = Reservation("peek", minute, Charge(0))
    standing = await ledger.reserve(peek)
    await ledger.cancel(peek)
    assert standing is not None
    return standing.window


async def cooldowns(ledger: EgressLedger, credential: str = "key") -> Cooldowns:
    standing = await ledger.reserve(Reservation("peek", NOW, Charge(0, "main", credential)))
    assert standing is not None
    return standing.cooldowns


async def test_a_call_sees_what_all_replicas_have_entered_before_it(ledger: EgressLedger) -> None:
    windows = [(await ledger.reserve(entry(number))) for number in range(3)]
    assert [standing.window.used for standing in windows if standing] == [0, 5, 10]


async def test_a_reservation_counts_once_however_often_it_comes(ledger: EgressLedger) -> None:
    for _ in range(3):
        await ledger.reserve(entry(1, forced=True))
    assert await window(ledger) == Window(
        NOW, pending=5, forced=5, accounts={"main": 5}, forced_by={("risk", "main"): 5}
    )


async def test_an_answered_call_is_spent_once_and_brings_the_exchanges_count(ledger: EgressLedger) -> None:
    await ledger.reserve(entry(1))
    for reported in (40, 90):
        await ledger.settle(entry(1), reported)
    assert await window(ledger) == Window(NOW, reported=40, spent=5, accounts={"main": 5})


async def test_the_exchanges_count_never_falls_within_a_minute_and_may_be_missing(ledger: EgressLedger) -> None:
    for number, reported in enumerate((40, 30, None)):
        await ledger.reserve(entry(number))
        await ledger.settle(entry(number), reported)
    assert (await window(ledger)).reported == 40


async def test_a_call_that_was_not_sent_costs_nothing_but_tells_that_its_account_asked(ledger: EgressLedger) -> None:
    await ledger.reserve(entry(1, forced=True))
    for _ in range(2):
        await ledger.cancel(entry(1, forced=True))
    assert await window(ledger) == Window(NOW, accounts={"main": 0}, forced_by={("risk", "main"): 0})


async def test_calls_that_serve_all_accounts_are_nobodys(ledger: EgressLedger) -> None:
    await ledger.reserve(entry(1, weight=1, account=""))
    assert await window(ledger) == Window(NOW, pending=1)


async def test_a_new_minute_starts_at_zero_but_for_what_is_under_way(ledger: EgressLedger) -> None:
    for number in (1, 2):
        await ledger.reserve(entry(number))
    await ledger.settle(entry(1), 80)
    assert await window(ledger, NOW + 1) == Window(NOW + 1, pending=5, before=frozenset({"main"}))
    await ledger.settle(entry(2), 85)
    assert await window(ledger, NOW + 1) == Window(NOW + 1, before=frozenset({"main"}))
    assert await window(ledger, NOW + 2) == Window(NOW + 2)


async def test_a_minutes_ledger_is_forgotten_in_time(ledger: EgressLedger, redis: Any) -> None:
    await ledger.reserve(entry(1))
    lives = [await redis.pttl(key) for key in (f"e:ledger:{NOW}", f"e:ledger:{NOW}:calls")]
    assert all(LEDGER_MEMORY_MS - 1_000 < life <= LEDGER_MEMORY_MS for life in lives)


def test_what_somebody_else_wrote_into_a_ledger_counts_as_nothing() -> None:
    foreign = {b"spent": b"much", b"pending": b"-5", b"account:main": b"1.5", b"other": b"7", b"forced": b"9" * 16}
    foreign |= {b"account:\xff": b"5", b"account:" + 64 * b"a": b"5", b"forced:risk:\xff": b"5", b"forced:A:main": b"5"}
    assert window_of(7, foreign, {b"pending": b"\xff", b"account:Main": b"1"}) == Window(7, accounts={"main": 0})


@given(
    st.lists(st.tuples(st.sampled_from(["reserve", "settle", "cancel"]), st.integers(0, 5), st.booleans()), max_size=40)
)
async def test_however_calls_come_and_go_the_ledger_is_what_a_plain_count_says(
    steps: list[tuple[str, int, bool]],
) -> None:
    async with FakeAsyncRedis(server=FakeServer()) as redis:
        ledger = Reportable(redis, FakeClock())
        flying: dict[int, bool] = {}
        spent = forced = 0
        for kind, number, by_force in steps:
            if kind == "reserve" and number not in flying:
                flying[number] = by_force
                forced += 5 * by_force
            was_forced = flying.get(number, False)
            call = entry(number, forced=was_forced)
            match kind:
                case "reserve":
                    await ledger.reserve(call)
                case "settle":
                    spent += 5 * (flying.pop(number, None) is not None)
                    await ledger.settle(call, None)
                case _:
                    forced -= 5 * flying.pop(number, False)
                    await ledger.cancel(call)
        found = await window(ledger)
    assert (found.pending, found.spent, found.forced) == (5 * len(flying), spent, forced)


# Not-befores.


async def test_a_hold_only_grows(ledger: EgressLedger) -> None:
    for until in (5_000, 4_000, 6_000, 1):
        await ledger.cool_down_address(Cooldown(0, START + until, problem="exchange-banned"))
    found = await cooldowns(ledger)
    assert (found.address, found.credential) == (Cooldown(0, START + 6_000, problem="exchange-banned"), NO_COOLDOWN)


async def test_address_and_credentials_are_held_apart(ledger: EgressLedger) -> None:
    latch = Cooldown(0, START + 9_000, problem="exchange-rejected-credentials")
    await ledger.cool_down_credential(Charge(5, "main", "key"), latch)
    found = [await cooldowns(ledger, credential) for credential in ("key", "another", "")]
    assert [each.credential for each in found] == [latch, NO_COOLDOWN, NO_COOLDOWN]
    assert {each.address for each in found} == {NO_COOLDOWN}


async def test_a_hold_is_remembered_far_longer_than_it_can_last(ledger: EgressLedger, redis: Any) -> None:
    await ledger.cool_down_address(BAN)
    assert await redis.pttl("e:hold") > 9 * MAX_COOLDOWN


async def test_the_life_a_hold_has_left_tells_what_time_it_is_at_the_exchange(ledger: EgressLedger, redis: Any) -> None:
    assert (await cooldowns(ledger)).now is None
    await ledger.cool_down_address(BAN)
    now = (await cooldowns(ledger)).now
    assert now is not None
    assert START <= now < START + 1_000
    await redis.persist("e:hold")  # somebody's hand: without an end it tells no time
    assert (await cooldowns(ledger)).now is None


async def test_a_resume_says_what_it_forgot_and_voids_older_holds(ledger: EgressLedger) -> None:
    await ledger.cool_down_address(BAN)
    assert await ledger.resume("key") == {"address": BAN, "credential": NO_COOLDOWN}
    assert (await cooldowns(ledger)).address == Cooldown(START)
    await ledger.cool_down_address(replace(BAN, until=10**13))  # a replica that hasn't heard of it
    assert (await cooldowns(ledger)).address == Cooldown(START)
    await ledger.cool_down_address(replace(BAN, imposed=START))  # neither has this one, but it was refused afterwards
    assert (await cooldowns(ledger)).address == replace(BAN, resumed=START, imposed=START)
    await ledger.resume("key")
    assert (await cooldowns(ledger)).address == Cooldown(START + 1)


async def test_a_resume_that_redis_lost_is_taught_anew_and_stays(ledger: EgressLedger, redis: Any) -> None:
    await ledger.cool_down_address(Cooldown(4))
    assert await redis.pttl("e:hold") > 9 * MAX_COOLDOWN
    await ledger.cool_down_address(Cooldown(0, START + 9_000, problem="exchange-banned", imposed=3))
    assert await cooldowns(ledger) == Cooldowns(Cooldown(4))  # and it tells no time
    await ledger.cool_down_address(Cooldown(3, START + 9_000, problem="exchange-banned", imposed=5))
    assert (await cooldowns(ledger)).address == Cooldown(4, START + 9_000, problem="exchange-banned", imposed=5)


@pytest.mark.parametrize("fields", [{"opened": 1}, {"resumed": START + 60_000}, {"imposed": 10**14}])
async def test_nobodys_hand_opens_a_ban_by_what_has_not_happened_yet(
    redis: Any, clock: FakeClock, fields: dict[str, Any]
) -> None:
    exchange = ExchangeClock(clock)
    exchange.offset = Offset(START - clock.monotonic(), 20, clock.monotonic())
    measured = Reportable(redis, clock, exchange)
    ban = replace(BAN, until=START + 600_000, imposed=START)
    await measured.cool_down_address(ban)
    await redis.hset("e:hold", mapping=fields)
    assert (await cooldowns(measured)).address.binds(START)
    await measured.cool_down_address(ban)  # another replica's copy
    assert (await cooldowns(measured)).address.binds(START)
    await measured.resume("key")
    assert not (await cooldowns(measured)).address.binds(START)


@pytest.mark.parametrize(
    "foreign",
    [
        {"resumed": "x"},
        {"until": "canary"},
        {"problem": b"\xff", "until": "1.5"},
        {"until": 10**15},
        {"resumed": "9" * 15},
    ],
)
async def test_what_somebody_else_wrote_is_no_hold_and_does_not_stop_one(
    ledger: EgressLedger, redis: Any, foreign: dict[str, Any]
) -> None:
    await redis.hset("e:hold", mapping=foreign)
    assert (await cooldowns(ledger)).address.until == 0
    await ledger.cool_down_address(BAN)
    assert (await cooldowns(ledger)).address == BAN
    assert (await ledger.resume("key"))["address"] == BAN


async def test_one_replica_may_probe(ledger: EgressLedger, redis: Any) -> None:
    assert [await ledger.acquire_probe(5_000), await ledger.acquire_probe(5_000)] == [True, False]
    await redis.delete("e:probe")  # its time has passed
    assert await ledger.acquire_probe(5_000) is True


async def test_an_answered_probe_voids_the_hold_it_was_sent_after_and_no_later_one(ledger: EgressLedger) -> None:
    opened = replace(BAN, cleared=True)
    for _ in range(2):
        await ledger.cool_down_address(BAN)
        await ledger.cool_down_address(opened)
        assert (await cooldowns(ledger)).address == opened
    later = replace(BAN, until=BAN.until + 1)  # told to a call that was under way all the while
    await ledger.cool_down_address(later)
    await ledger.cool_down_address(opened)
    assert (await cooldowns(ledger)).address == later


async def test_what_time_it_is_is_told_by_a_hold_that_has_passed_too(ledger: EgressLedger, clock: FakeClock) -> None:
    clock.advance(3_600_000)
    await ledger.cool_down_address(BAN)  # written back to an emptied Redis
    now = (await cooldowns(ledger)).now
    assert now is not None
    assert START + 3_600_000 <= now < START + 3_601_000


async def test_while_redis_is_away_nothing_raises_but_a_resume(ledger: EgressLedger, server: FakeServer) -> None:
    server.connected = False
    assert (await ledger.reserve(entry(1)), await ledger.acquire_probe(1_000)) == (None, None)
    await ledger.settle(entry(1), 5)
    await ledger.cancel(entry(1))
    await ledger.cool_down_address(BAN)
    await ledger.cool_down_credential(Charge(5, "main", "key"), BAN)
    with pytest.raises(RedisUnavailableError):
        await ledger.resume("key")


async def test_the_ledger_waits_no_longer_than_the_round_that_carries_its_budget_to_it(ledger: EgressLedger) -> None:
    with carry(WaitBudget(0)):
        assert (await ledger.reserve(entry(1)), await ledger.acquire_probe(1_000)) == (None, None)
        with carry(None):
            assert await ledger.acquire_probe(1_000) is True
    assert await ledger.reserve(entry(1)) is not None
