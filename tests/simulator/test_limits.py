from collections.abc import Callable

import httpx
import msgspec
import pytest

from simulator.exchange import Exchange
from simulator.limits import LONGEST_BAN_MS, MINUTE_MS, Limits, Policy, Tally, Verdict, assess, ban
from simulator.transport import SimulatorTransport
from tests.simulator.conftest import NOW

POLICY = Policy(weight_limit=10, grace=1)


def spent(tally: Tally, weights: list[int], now_ms: int = NOW) -> tuple[Tally, list[int]]:
    statuses = []
    for weight in weights:
        tally, verdict = assess(tally, weight, POLICY, now_ms)
        statuses.append(verdict.value)
    return tally, statuses


def test_the_limit_itself_may_be_spent_and_no_more() -> None:
    tally, statuses = spent(Tally(), [5, 5, 1])

    assert statuses == [200, 200, 429]
    assert tally.used == 11


def test_going_on_after_429_is_banned_for_two_minutes() -> None:
    tally, statuses = spent(Tally(), [10, 1, 1, 1, 1])

    assert statuses == [200, 429, 429, 418, 418]
    assert tally.banned_until_ms == NOW + 2 * MINUTE_MS


def test_requests_during_a_ban_do_not_make_it_longer() -> None:
    banned, _ = spent(Tally(), [10, 1, 1, 1])
    later, statuses = spent(banned, [1] * 50, NOW + 1000)

    assert set(statuses) == {418}
    assert later.banned_until_ms == banned.banned_until_ms


def test_a_ban_ends_at_the_time_it_names() -> None:
    banned, _ = spent(Tally(), [10, 1, 1, 1])

    assert spent(banned, [1], banned.banned_until_ms - 1)[1] == [418]
    assert spent(banned, [1], banned.banned_until_ms)[1] == [200]


def test_a_new_calendar_minute_starts_from_zero_and_forgives_the_refused() -> None:
    tally, _ = spent(Tally(), [10, 1], NOW + MINUTE_MS - 1)
    tally, statuses = spent(tally, [10, 1], NOW + MINUTE_MS)

    assert statuses == [200, 429]
    assert tally.refused == 1


def test_bans_double_up_to_three_days() -> None:
    tally, lengths = Tally(), []
    for _ in range(20):
        tally = ban(tally, NOW)
        lengths.append(tally.banned_until_ms - NOW)

    assert lengths[:3] == [2 * MINUTE_MS, 4 * MINUTE_MS, 8 * MINUTE_MS]
    assert lengths[-1] == max(lengths) == LONGEST_BAN_MS == 259_200_000


def test_a_pardon_forgets_one_address_or_all() -> None:
    limits = Limits(POLICY)
    for address in ("1.1.1.1", "2.2.2.2"):
        limits.set_used(address, 10, NOW)
    limits.pardon("1.1.1.1")

    assert [limits.spend(address, 1, NOW) for address in ("1.1.1.1", "2.2.2.2")] == [
        Verdict.ADMITTED,
        Verdict.THROTTLED,
    ]
    limits.pardon()
    assert limits.addresses() == []


async def test_every_answer_tells_the_used_weight(client: httpx.AsyncClient, signed: Callable[..., str]) -> None:
    paths = ["/dapi/v1/ping", "/dapi/v1/time", "/dapi/v1/exchangeInfo", signed(), signed("timestamp=1"), "/dapi/v1/x"]
    answers = [await client.get(path) for path in paths]

    assert [answer.headers["X-MBX-USED-WEIGHT-1M"] for answer in answers] == ["1", "2", "3", "8", "13", "14"]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 200, 400, 404]


async def test_429_then_418_carry_the_wire_texts(exchange: Exchange, client: httpx.AsyncClient) -> None:
    exchange.limits.set_used("127.0.0.1", 2400, NOW)
    answers = [await client.get("/dapi/v1/ping") for _ in range(5)]

    assert [answer.status_code for answer in answers] == [429, 429, 429, 429, 418]
    assert answers[0].json() == {
        "code": -1003,
        "msg": "Too many requests; current limit of IP(127.0.0.1) is 2400 requests per minute. "
        "Please use the websocket for live updates to avoid polling the API.",
    }
    assert answers[-1].json() == {
        "code": -1003,
        "msg": f"Way too many requests; IP(127.0.0.1) banned until {NOW + 120_000}. "
        "Please use the websocket for live updates to avoid bans.",
    }
    assert answers[-1].headers["X-MBX-USED-WEIGHT-1M"] == "2405"
    assert "Retry-After" not in answers[-1].headers


async def test_a_ban_is_on_one_address_and_on_every_path(
    exchange: Exchange, client: httpx.AsyncClient, signed: Callable[..., str]
) -> None:
    exchange.limits.ban("127.0.0.1", NOW + 1000, NOW)
    neighbour = SimulatorTransport(exchange, client=("10.0.0.9", 1))
    async with httpx.AsyncClient(transport=neighbour, base_url="http://exchange") as other:
        statuses = [(await it.get("/dapi/v1/ping")).status_code for it in (client, other)]
    statuses.append((await client.get(signed())).status_code)

    assert statuses == [418, 200, 418]


@pytest.mark.parametrize(("used", "banned_ms", "seconds"), [(2400, 0, "40"), (0, 1500, "2")])
async def test_retry_after_is_sent_in_whole_seconds_rounded_up_if_wanted(
    exchange: Exchange, client: httpx.AsyncClient, used: int, banned_ms: int, seconds: str
) -> None:
    exchange.clock.advance(20_000)
    now = exchange.now_ms()
    exchange.limits.policy = msgspec.structs.replace(exchange.limits.policy, retry_after=True)
    exchange.limits.set_used("127.0.0.1", used, now)
    exchange.limits.ban("127.0.0.1", now + banned_ms, now)

    assert (await client.get("/dapi/v1/ping")).headers["Retry-After"] == seconds
