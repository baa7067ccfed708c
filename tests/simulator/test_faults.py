"""Every fault over a real socket, as httpx sees it."""

import asyncio
import json
from collections.abc import Callable

import httpx
import msgspec
import pytest

from simulator.exchange import Exchange
from simulator.faults import HUGE_BYTES, NAMES, Fault
from tests.simulator.conftest import NOW

Signed = Callable[..., str]

# name: (status, text in the body)
ANSWERS = {
    "503-unknown": (503, "Unknown error, please check your request or try again later."),
    "503-unavailable": (503, "Service Unavailable."),
    "503-internal": (503, '{"code":-1001,"msg":"Internal error; unable to process your request. Please try again."}'),
    "503-throttled": (503, '{"code":-1008,"msg":"Request throttled by system-level protection.'),
    "503-retry-after": (503, "<HTML>"),
    "500": (500, "Request occur unknown error."),
    "502-html": (502, "<HTML>"),
    "504-html": (504, "<HTML>"),
    "403-html": (403, "<HTML>"),
    "403-retry-after": (403, "<HTML>"),
    "challenge": (202, ""),
    "captcha": (405, "<HTML>"),
    "404-html": (404, "<HTML>"),
    "404-path": (404, '{"code":-5000,"msg":"Path /dapi/v1/account, Method GET is invalid"}'),
    "408": (408, '{"code":-1007,"msg":"Timeout waiting for response from backend server.'),
    "451": (451, '{"code":0,"msg":"Service unavailable from a restricted location'),
    "maintenance": (503, '{"239999":"The system is under maintenance, please try again later."}'),
    "maintenance-200": (200, '{"239999":"The system is under maintenance, please try again later."}'),
    "-1016": (503, '{"code":-1016,"msg":"Service is under maintenance."}'),
    "-1016-gone": (503, '{"code":-1016,"msg":"This service is no longer available."}'),
    "-1016-400": (400, '{"code":-1016,"msg":"Service is under maintenance."}'),
    "-1109": (400, '{"code":-1109,"msg":"Invalid account."}'),
    "-1000": (400, '{"code":-1000,"msg":"An unknown error occured while processing the request."}'),
    "-1002": (401, '{"code":-1002,"msg":"You are not authorized to execute this request."}'),
    "-2014": (401, '{"code":-2014,"msg":"API-key format invalid."}'),
    "-2015": (401, 'Invalid API-key, IP, or permissions for action, request ip: 127.0.0.1"}'),
    "-1022": (400, '{"code":-1022,"msg":"Signature for this request is not valid."}'),
    "-1021-ahead": (400, "Timestamp for this request was 1000ms ahead of the server's time."),
    "-1021-behind": (400, "Timestamp for this request is outside of the recvWindow."),
    "429": (429, "current limit of IP(127.0.0.1) is 2400 requests per minute."),
    "-1003-400": (400, '{"code":-1003,'),
    "418": (418, f"IP(127.0.0.1) banned until {NOW + 120_000}."),
    "301": (301, ""),
    "204": (204, ""),
    "not-json": (200, "<html>"),
    "compressed-twice": (200, ""),
    "compressed-twice-418": (418, ""),
    "empty-body": (200, ""),
    "array": (200, "[]"),
    "deep-nesting": (200, "[" * 100_000 + "]" * 100_000),
    "custom": (200, ""),
}
# name: text in the body, which is otherwise a healthy account's
EDITS = {
    "duplicate-keys": b'"positions":[{"symbol":"OTHERUSD_PERP","symbol":"BTCUSD_PERP",',
    "duplicate-keys-asset": b'"assets":[{"asset":"OTHER","asset":"BTC",',
    "duplicate-keys-top": b',"assets":[],"positions":[]}',
    "invalid-utf8": b'"\xff\xfe"',
    "nan": b":NaN,",
    "row-not-object": b'"positions":[42,{',
    "asset-row-not-object": b'"assets":[42,{',
    "row-without-symbol": b'"positions":[{"positionAmt"',
    "row-without-asset": b'"assets":[{"walletBalance"',
    "row-without-side": b'"isolated":false,"entryPrice"',
    "unknown-side": b'"positionSide":"UP"',
    "huge": b"x" * HUGE_BYTES,
    "slow": b'"updateTime":0}',
}


def test_no_fault_is_left_out_here() -> None:
    assert set(NAMES) == {*ANSWERS, *EDITS, "hang", "reset", "truncated"}


async def test_a_fault_answers_in_the_exchanges_place_and_counts_weight(
    exchange: Exchange, remote: httpx.AsyncClient, signed: Signed
) -> None:
    for number, (name, (status, text)) in enumerate(ANSWERS.items(), start=1):
        exchange.faults.set([name])
        answer = await remote.get(signed())

        assert (name, answer.status_code) == (name, status)
        assert text in answer.text, name
        assert answer.headers["X-MBX-USED-WEIGHT-1M"] == str(5 * number)


async def test_a_fault_spoils_the_exchanges_own_answer(
    exchange: Exchange, remote: httpx.AsyncClient, signed: Signed
) -> None:
    for name, text in EDITS.items():
        exchange.faults.set([Fault(name, seconds=0.001)])
        answer = await remote.get(signed())
        refused = await remote.get(signed("timestamp=1"))

        assert answer.status_code == 200, name
        assert text in answer.content, name
        assert refused.json()["code"] == -1021, name


async def test_only_the_faults_that_say_so_are_no_valid_json(
    exchange: Exchange, client: httpx.AsyncClient, signed: Signed
) -> None:
    broken = set()
    for name in EDITS:
        exchange.faults.set([Fault(name, seconds=0)])
        body = (await client.get(signed())).content
        try:
            json.loads(body, parse_constant=int)
        except ValueError:
            broken.add(name)

    assert broken == {"nan", "invalid-utf8"}


async def test_a_reset_connection_and_one_cut_off_look_the_same_in_process_and_on_a_socket(
    exchange: Exchange, client: httpx.AsyncClient, remote: httpx.AsyncClient, signed: Signed
) -> None:
    for caller in (client, remote):
        exchange.faults.set([Fault("reset", count=1), Fault("truncated", count=1)])
        with pytest.raises(httpx.ReadError):
            await caller.get(signed())
        with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
            await caller.get(signed())
        assert (await caller.get(signed())).status_code == 200
    assert [call.status for call in exchange.calls.kept()] == [None, 200, 200] * 2


async def test_a_cut_off_answer_begins_like_a_good_one(
    exchange: Exchange, client: httpx.AsyncClient, signed: Signed
) -> None:
    exchange.faults.add("truncated")
    async with client.stream("GET", signed()) as answer:
        chunks = answer.aiter_raw()
        received = await anext(chunks)
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(chunks)

    assert answer.status_code == 200
    assert 0 < len(received) < int(answer.headers["content-length"])


async def test_a_hanging_answer_waits_for_release(
    exchange: Exchange, remote: httpx.AsyncClient, signed: Signed
) -> None:
    exchange.faults.add(Fault("hang", count=1))
    call = asyncio.create_task(remote.get(signed()))
    await exchange.wait_held()
    assert not call.done()
    exchange.release()

    assert (await call).status_code == 200


async def test_a_client_that_gives_up_frees_the_hanging_answer(
    exchange: Exchange, client: httpx.AsyncClient, remote: httpx.AsyncClient, signed: Signed
) -> None:
    for caller in (client, remote):
        exchange.faults.set(["hang"])
        with pytest.raises(httpx.ReadTimeout):
            await caller.get(signed(), timeout=0.05)
        await exchange.wait_held(0)
        assert exchange.calls.kept()[-1].status is None


async def test_a_fault_lasts_as_long_and_reaches_as_far_as_it_says(
    exchange: Exchange, client: httpx.AsyncClient, signed: Signed
) -> None:
    exchange.faults.set([Fault("500", count=2), Fault("408", path="/dapi/v1/time"), Fault("451", path="*", count=1)])
    statuses = [
        (await client.get(path)).status_code for path in (signed(), "/dapi/v1/time", signed(), signed(), signed())
    ]

    assert statuses == [500, 408, 500, 451, 200]
    assert [fault.name for fault in exchange.faults.active()] == ["408"]


async def test_a_ban_by_fault_and_a_custom_fault_take_their_values(
    exchange: Exchange, client: httpx.AsyncClient, signed: Signed
) -> None:
    custom = Fault("custom", status=599, headers={"Content-Type": "text/plain", "X-Own": "1"}, body="own")
    exchange.faults.set([Fault("418", seconds=7.5, count=1), custom])
    ban, own = await client.get(signed()), await client.get(signed())

    assert f"banned until {NOW + 7500}." in ban.text
    assert (own.status_code, own.text, own.headers["X-Own"], own.headers["Content-Type"]) == (
        599,
        "own",
        "1",
        "text/plain",
    )


async def test_a_redirect_names_another_host(exchange: Exchange, remote: httpx.AsyncClient, signed: Signed) -> None:
    exchange.faults.add("301")

    assert (await remote.get(signed())).headers["Location"].startswith("http://elsewhere.invalid/")


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"name": "no-such"}, "name"),
        ({"name": "500", "count": 0}, "count"),
        ({"name": "custom", "status": 99}, "status"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(values: dict[str, object], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        msgspec.convert(values, Fault)
