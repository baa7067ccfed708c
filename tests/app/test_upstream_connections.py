"""The connections to the exchange: whose they are, when they are used again, and when they end."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import httpx
import pytest
from fakeredis import FakeAsyncRedis

from service.account import documents
from service.app import create_app
from service.reload import Reloader, read
from simulator.faults import Fault
from simulator.signature import DEMO_API_KEY
from tests.app.conftest import MakeStage
from tests.app.harness import ACCOUNT, Replica, Stage

OTHER_KEY, OTHER_SECRET = "otherApiKey".ljust(64, "2"), "otherSecretKey".ljust(64, "2")
OTHER = "/v1/accounts/other"
UNSIGNED = ""


class Front:
    """What stands before the simulated exchange on a socket: sends `copies` of each signed answer."""

    def __init__(self) -> None:
        self.address = ""
        self.copies = 1
        self.way: httpx.AsyncBaseTransport | None = None
        self.keys: list[list[str]] = []
        """Whose requests came on each connection, in order."""
        self.open: set[int] = set()
        self.closed = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(self.keys)
        self.keys.append([])
        self.open.add(number)
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                headers = dict(line.split(": ", 1) for line in head[1:] if line)
                self.keys[number].append(headers.get("x-mbx-apikey", UNSIGNED))
                assert self.way is not None
                async with httpx.AsyncClient(transport=self.way, base_url="http://exchange") as client:
                    answer = await client.get(head[0].split(" ")[1], headers=headers)
                lines = [f"HTTP/1.1 {answer.status_code} X", f"content-length: {len(answer.content)}", "", ""]
                copies = self.copies if self.keys[number][-1] else 1
                writer.write(("\r\n".join(lines).encode() + answer.content) * copies)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.open.discard(number)
            self.closed.set()
            writer.close()

    async def until_open(self, *keys: str) -> None:
        """Wait until the connections of these alone are open."""
        async with asyncio.timeout(5):
            while {self.keys[number][-1] for number in self.open} != set(keys):
                self.closed.clear()
                await self.closed.wait()


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    front = Front()
    server = await asyncio.start_server(front.serve, "127.0.0.1", 0)
    front.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    yield front
    server.close()
    await asyncio.sleep(0.05)


@pytest.fixture
def stage(make_stage: MakeStage, front: Front) -> Stage:
    stage = make_stage(accounts={"main": None, "other": None}, exchange={"base_url": front.address})
    stage.exchange.add_demo_book("other")
    stage.exchange.add_secret_key(OTHER_KEY, OTHER_SECRET, "other")
    stage.give_credential("other", OTHER_KEY, OTHER_SECRET)
    front.way = stage.transport
    return stage


async def start(stage: Stage) -> Replica:
    """A replica that calls over sockets."""
    redis = cast("Any", FakeAsyncRedis(server=stage.redis_server))
    return await stage.start_app(create_app(stage.settings, redis=redis, clock=stage.clock))


async def test_an_answer_that_is_sent_twice_is_never_another_accounts_nor_the_next_one(
    stage: Stage, front: Front
) -> None:
    front.copies, gateway = 2, await start(stage)
    for number in range(4):
        stage.answer_with(updateTime=number)
        for path in (ACCOUNT, OTHER):
            answer = await gateway.get(path, cache_control="no-cache")
            assert (answer.status_code, answer.json()["updateTime"]) == (200, number if path == ACCOUNT else 0), path
        await stage.advance(2_000)
    assert all(len(set(keys)) == 1 for keys in front.keys)
    assert sorted(map(len, front.keys))[:-1] == [1] * 8  # and one for what is unsigned


async def test_each_credential_keeps_a_connection_of_its_own(stage: Stage, front: Front) -> None:
    gateway = await start(stage)
    for _ in range(3):
        for path in (ACCOUNT, OTHER):
            assert (await gateway.get(path, cache_control="no-cache")).status_code == 200
        await stage.advance(2_000)
    assert sorted((keys[0], len(keys)) for keys in front.keys) == [(UNSIGNED, 4), (DEMO_API_KEY, 3), (OTHER_KEY, 3)]


async def test_documents_that_the_exchange_does_not_answer_hold_up_none_of_the_same_credential(
    stage: Stage, front: Front
) -> None:
    """Each has a connection, however many of the others wait for theirs."""
    gateway, (last, *held) = await start(stage), documents.DOCUMENTS
    paths = {each: f"{ACCOUNT}/{each.name}".removesuffix("/account") for each in documents.DOCUMENTS}
    stage.fail(*(Fault("hang", path=each.path) for each in held))
    waiting = [asyncio.create_task(gateway.get(paths[each])) for each in held]
    await stage.exchange.wait_held(len(held))
    assert (await gateway.get(paths[last])).status_code == 200
    stage.exchange.release()
    assert {answer.status_code for answer in await asyncio.gather(*waiting)} == {200}
    assert max(map(len, front.keys)) == 4  # of the unsigned calls; none of ours was sent twice


async def test_a_credential_that_is_rotated_out_leaves_no_connection_behind(stage: Stage, front: Front) -> None:
    gateway = await start(stage)
    await gateway.get(ACCOUNT)
    reloader = Reloader(gateway.gateway, stage.file, read(stage.file))
    stage.change_key("anotherApiKey".ljust(64, "1"))
    await reloader.check_now()
    async with asyncio.timeout(5):
        while gateway.gateway.config.caches["main"].rotation.pending:
            await asyncio.sleep(0.01)
    await front.until_open(UNSIGNED, "anotherApiKey".ljust(64, "1"))


async def test_an_account_that_is_removed_leaves_no_connection_behind(stage: Stage, front: Front) -> None:
    gateway = await start(stage)
    await gateway.get(ACCOUNT)
    await gateway.get(OTHER)
    await gateway.gateway.config.caches["other"].drain()
    await front.until_open(UNSIGNED, DEMO_API_KEY)


async def test_a_call_under_way_outlives_its_credential_and_ends_its_connection(stage: Stage, front: Front) -> None:
    gateway = await start(stage)
    await gateway.get(ACCOUNT)
    await stage.advance(2_000)
    source = gateway.gateway.config.caches["main"].source
    stage.exchange.gate.hold()
    calling = asyncio.create_task(source.fetch(documents.ACCOUNT, forced=False))
    await stage.exchange.gate.wait_held()
    await source.close()
    stage.exchange.gate.release()
    assert (await calling).rows
    await front.until_open(UNSIGNED)
    assert (await source.fetch(documents.ACCOUNT, forced=False)).rows  # one more, of a refresh that began before
    await front.until_open(UNSIGNED)


async def test_nothing_is_open_when_the_gateway_has_ended(stage: Stage, front: Front) -> None:
    gateway = await start(stage)
    await gateway.get(ACCOUNT)
    await gateway.get(OTHER)
    await stage.end(gateway)
    await front.until_open()
