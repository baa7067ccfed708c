"""Bodies in gzip: for who accepts it, once a view and snapshot, with a tag of their own."""

import asyncio
import gzip
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import httpx
import pytest

from service.account import documents
from service.account.documents import SHAPES
from service.account.selection import Selection
from service.account.snapshot import MAX_VIEWS
from service.web.compression import LARGE_BODY, in_thread
from tests.app.harness import ACCOUNT, ASSETS, BTC, LISTS, POSITIONS, RISK, Replica, Stage, settle
from tests.support import TOKENS, bearer

LARGE = [
    {"symbol": f"S{number}USD_PERP", "positionSide": "BOTH", "positionAmt": "0", "entryPrice": "0.00000000"}
    for number in range(1_000)
]


async def raw(gateway: Replica, path: str, **headers: str) -> tuple[httpx.Response, bytes]:
    """An answer, and its body as it was sent."""
    sent = {"host": "gateway"} | bearer(accept_encoding="gzip", **headers)
    request = httpx.Request("GET", f"http://gateway{path}", headers=sent)
    answer = await httpx.ASGITransport(cast("Any", gateway.app)).handle_async_request(request)
    return answer, b"".join([chunk async for chunk in answer.aiter_raw()])


@pytest.mark.parametrize("path", [*LISTS, f"{POSITIONS}?open=false", f"{RISK}?open=false"])
async def test_a_body_over_a_kibibyte_comes_in_gzip_and_holds_the_same(stage: Stage, path: str) -> None:
    gateway = await stage.warm()
    plain = await gateway.get(path)
    for _ in range(3):  # the whole way first, then past the framework
        answer, body = await raw(gateway, path)
        assert (answer.status_code, answer.headers["content-encoding"]) == (200, "gzip")
        assert answer.headers["content-length"] == str(len(body))
        assert gzip.decompress(body) == plain.content
        assert answer.headers["vary"] == "Authorization, Accept-Encoding"
    assert "content-encoding" not in plain.headers
    assert gateway.app.edge.hits > 0


async def test_a_small_body_is_sent_as_it_is(gateway: Replica) -> None:
    answer, body = await raw(gateway, BTC)
    assert "content-encoding" not in answer.headers
    assert answer.headers["content-length"] == str(len(body))
    assert answer.headers["vary"] == "Authorization"


async def test_either_tag_is_a_304_that_names_the_tag_the_caller_has(stage: Stage) -> None:
    gateway = await stage.warm()
    plain, (packed, _) = (await gateway.get(ACCOUNT)).headers["etag"], await raw(gateway, ACCOUNT)
    tags = {plain, packed.headers["etag"]}
    assert len(tags) == 2
    for tag in tags:
        for coding in ("gzip", "identity"):
            answer = await gateway.get(ACCOUNT, if_none_match=tag, accept_encoding=coding)
            assert (answer.status_code, answer.headers["etag"]) == (304, tag)
            assert "content-encoding" not in answer.headers
    both = ", ".join(tags)
    assert (await gateway.get(ACCOUNT, if_none_match=both)).headers["etag"] == plain
    assert (await raw(gateway, ACCOUNT, if_none_match=both))[0].headers["etag"] == packed.headers["etag"]


async def test_a_view_is_compressed_once_for_all_who_read_it(stage: Stage) -> None:
    stage.answer_with(positions=LARGE)
    gateway = await stage.warm()
    snapshot = gateway.gateway.config.caches["main"].documents[documents.ACCOUNT].state.snapshot
    assert snapshot is not None
    view = snapshot.view(Selection(SHAPES["account"]))
    assert view is not None
    assert (len(view.body) > LARGE_BODY, view.compressed) == (True, None)
    bodies = [body for _, body in await asyncio.gather(*(raw(gateway, ACCOUNT) for _ in range(5)))]
    packed = view.compressed
    hits = gateway.app.edge.hits
    bodies.append((await raw(gateway, ACCOUNT))[1])
    assert gateway.app.edge.hits == hits + 1  # a large view goes past the framework too, once it is compressed
    assert view.compressed is packed
    assert set(bodies) == {packed}


@asynccontextmanager
async def compressing_held() -> AsyncIterator[None]:
    """While it lasts, nothing is compressed in the thread."""
    held = threading.Event()
    work = asyncio.create_task(in_thread(held.wait))
    await asyncio.sleep(0)
    yield
    held.set()
    await work


async def test_a_grant_that_shrinks_while_the_body_is_compressed_counts(stage: Stage) -> None:
    stage.answer_with(positions=LARGE)
    gateway, reloader = await stage.start_watched()
    assert (await gateway.get()).status_code == 200
    async with compressing_held():
        reading = asyncio.create_task(gateway.get(ACCOUNT, accept_encoding="gzip"))
        await settle()
        assert not reading.done()
        grant = '[clients.risk.accounts."*"]\nassets = '
        stage.edit(f'{grant}"all"', f'{grant}["BTC"]')
        await reloader.check_now()
    assert [row["asset"] for row in (await reading).json()["assets"]] == ["BTC"]


async def test_a_snapshot_that_gets_too_old_while_the_body_is_compressed_is_refreshed(stage: Stage) -> None:
    stage.answer_with(positions=LARGE)
    gateway = await stage.warm()
    async with compressing_held():
        demand = {"accept_encoding": "gzip", "cache_control": "max-age=1"}
        reading = asyncio.create_task(gateway.get(ACCOUNT, **demand))
        await settle()
        await stage.advance(1_500)
    answer = await reading
    assert (answer.status_code, stage.account_calls) == (200, 2)
    assert int(answer.headers["gateway-snapshot-age"]) <= 1_000


async def test_a_body_that_is_not_compressed_in_time_is_sent_as_it_is(stage: Stage) -> None:
    stage.answer_with(positions=LARGE)
    gateway = await stage.warm()
    async with compressing_held():
        answer, body = await raw(gateway, ACCOUNT)
    assert (answer.status_code, body) == (200, stage.raw())
    assert "content-encoding" not in answer.headers


async def test_nothing_is_compressed_for_a_caller_that_has_it_already(stage: Stage) -> None:
    stage.answer_with(positions=LARGE)
    gateway = await stage.warm()
    tag = (await gateway.get(ACCOUNT)).headers["etag"]
    snapshot = gateway.gateway.config.caches["main"].documents[documents.ACCOUNT].state.snapshot
    assert snapshot is not None
    view = snapshot.view(Selection(SHAPES["account"]))
    for _ in range(3):
        assert (await gateway.get(ACCOUNT, if_none_match=tag, accept_encoding="gzip")).status_code == 304
    assert view is not None
    assert view.compressed is None
    assert (await raw(gateway, ACCOUNT))[0].headers["content-encoding"] == "gzip"


async def test_a_view_that_the_snapshot_has_no_room_for_is_sent_as_it_is(stage: Stage) -> None:
    gateway = await stage.warm()
    snapshot = gateway.gateway.config.caches["main"].documents[documents.ACCOUNT].state.snapshot
    assert snapshot is not None
    for number in range(MAX_VIEWS):
        snapshot.view(Selection(SHAPES["assets"], assets=frozenset({f"A{number}"})))
    answer, body = await raw(gateway, ACCOUNT)
    assert (answer.status_code, body) == (200, stage.raw())
    assert "content-encoding" not in answer.headers


async def test_a_grant_cuts_before_anything_is_compressed(gateway: Replica) -> None:
    answer = await gateway.get(ACCOUNT, "treasury", accept_encoding="gzip")
    whole = await gateway.get(ACCOUNT, accept_encoding="gzip")
    assert answer.json() == (await gateway.get(ACCOUNT, "treasury")).json()
    assert len(answer.json()["positions"]) < len(whole.json()["positions"])


async def test_head_says_what_get_would_send(stage: Stage) -> None:
    gateway = await stage.warm()
    _, body = await raw(gateway, ACCOUNT)
    head = await gateway.ask("HEAD", ACCOUNT, accept_encoding="gzip")
    assert (head.headers["content-encoding"], head.headers["content-length"]) == ("gzip", str(len(body)))


async def test_binances_own_clients_get_gzip_too(stage: Stage) -> None:
    gateway = await stage.warm()
    path = "/binance/main/dapi/v1/account"
    answer = await gateway.ask("GET", path, None, x_mbx_apikey=TOKENS["risk"], accept_encoding="gzip")
    assert (answer.headers["content-encoding"], answer.content) == ("gzip", stage.raw())
    assert answer.headers["vary"] == "X-MBX-APIKEY, Accept-Encoding"


@pytest.mark.parametrize("path", ["/docs/swagger-ui-bundle.js", "/docs/openapi.json", "/docs/callers.md"])
async def test_the_documents_come_in_gzip(gateway: Replica, path: str) -> None:
    plain, (packed, body) = await gateway.get(path, None), await raw(gateway, path)
    assert (packed.headers["content-encoding"], gzip.decompress(body)) == ("gzip", plain.content)
    for tag in (plain.headers["etag"], packed.headers["etag"]):
        same = await gateway.get(path, None, if_none_match=tag, accept_encoding="gzip")
        assert (same.status_code, same.headers["etag"]) == (304, tag)


async def test_an_accept_encoding_that_is_too_long_is_named(gateway: Replica) -> None:
    answer = await gateway.get(ASSETS, accept_encoding="x" * 513)
    assert (answer.status_code, answer.json()["detail"]) == (400, "header Accept-Encoding: at most 512 characters")
