"""Gateways that share a Redis and an exchange, and crowds of callers: all at once, or without a pause."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self, cast

import httpx
import msgspec

from simulator.observing import Condition
from tests.process.conftest import GatewayProcess, Tables
from tests.support import BTC, bearer, free_port, until, write_settings

PATIENCE = 30.0
"""Seconds a caller waits; none of these tests has one wait that long."""
SOON = 5.0
"""Seconds for what takes no time at all, where every core is busy."""
CLIENTS = 16
"""HTTP clients of a replica: the work of one grows with the square of its connections, seconds for hundreds."""
BROKEN = 0
"""The status of a caller whose connection broke."""
ONLY_IF_CACHED = "only-if-cached"
"""The demand that looks at what a replica has, and starts nothing."""


class Answer(msgspec.Struct, frozen=True):
    """What one caller got. `asked` and `answered` are epoch ms by this machine's clock."""

    asked: int
    answered: int
    status: int
    cache_status: str = ""
    retry_after: int | None = None
    snapshot_time: str = ""
    snapshot_age: int = 0
    problem: str = ""

    @property
    def seconds(self) -> float:
        return (self.answered - self.asked) / 1000

    @property
    def detail(self) -> str:
        """Why an answer is one that was not fresh."""
        return self.cache_status.partition("detail=")[2]


@asynccontextmanager
async def fleet(folder: Path, count: int, settings: Tables) -> AsyncIterator[list[GatewayProcess]]:
    """Started replicas with these settings."""
    replicas = [prepared(folder / f"replica-{number}", settings) for number in range(count)]
    try:
        await asyncio.gather(*(replica.start() for replica in replicas))
        yield replicas
    finally:
        await asyncio.gather(*(replica.kill() for replica in replicas))


def prepared(folder: Path, settings: Tables) -> GatewayProcess:
    """A replica that is not started yet, in a folder and on ports of its own."""
    folder.mkdir(parents=True)
    server = settings["server"] | {"port": free_port(), "metrics_port": free_port()}
    own = settings | {"server": server}
    return GatewayProcess(write_settings(folder, **own), own, measured=False)


class Rush:
    """Requests that are sent all at once."""

    def __init__(self) -> None:
        self.tasks: list[asyncio.Task[Answer]] = []
        self._sent = 0
        self._changed = Condition()

    async def trace(self, event: str, _: dict[str, Any]) -> None:
        """Reportable by httpx of each step of each request."""
        if event == "http11.send_request_body.complete":
            self._sent += 1
            self._changed.notify_all()

    async def sent(self) -> None:
        """Return once all of them are on their way."""
        await self._changed.wait_for(lambda: self._sent >= len(self.tasks))

    async def answers(self) -> list[Answer]:
        return await asyncio.gather(*self.tasks)


class Caller:
    """Any number of callers of one replica, each with a connection of its own."""

    def __init__(self, replica: GatewayProcess) -> None:
        self._replica = replica
        self._stack = AsyncExitStack()
        self._clients: Iterator[httpx.AsyncClient] = iter(())

    async def __aenter__(self) -> Self:
        clients = [await self._stack.enter_async_context(_client(self._replica.url)) for _ in range(CLIENTS)]
        self._clients = itertools.cycle(clients)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def ask(self, path: str = BTC, cache_control: str = "", rush: Rush | None = None) -> Answer:
        """One read."""
        asked = epoch()
        extensions = {"trace": rush.trace} if rush else {}
        demand = {"cache-control": cache_control} if cache_control else {}
        try:
            response = await next(self._clients).get(path, headers=demand, extensions=extensions)
        except httpx.TransportError:
            return Answer(asked, epoch(), BROKEN)
        return _answer(asked, response)

    async def status(self) -> dict[str, Any]:
        """What the replica says of itself."""
        return cast("dict[str, Any]", (await next(self._clients).get("/v1/status")).json())

    async def account(self, name: str = "main") -> dict[str, Any]:
        """What it says of one account; nothing is started by that."""
        accounts = {each["account"]: each for each in (await self.status())["accounts"]}
        return cast("dict[str, Any]", accounts[name])

    async def keep_asking(self, answers: list[Answer], stopped: asyncio.Event, path: str, pause: float) -> None:
        while not stopped.is_set():
            answers.append(await self.ask(path))
            await asyncio.sleep(pause)


class Crowd:
    """Callers of every replica of a fleet."""

    def __init__(self, replicas: Sequence[GatewayProcess]) -> None:
        self.callers = [Caller(replica) for replica in replicas]
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for caller in self.callers:
            await self._stack.enter_async_context(caller)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def rush(self, each: int, path: str = BTC, cache_control: str = "", *, spared: int = 0) -> Rush:
        """So many reads of each replica at once, but of the first `spared` ones."""
        rush = Rush()
        asks = [caller.ask for _ in range(each) for caller in self.callers[spared:]]
        rush.tasks = [asyncio.create_task(ask(path, cache_control, rush)) for ask in asks]
        return rush

    @asynccontextmanager
    async def asking(self, each: int = 2, path: str = BTC, pause: float = 0.1) -> AsyncIterator[list[Answer]]:
        """Callers of every replica who ask again and again while the block runs; what they get."""
        answers: list[Answer] = []
        stopped = asyncio.Event()
        tasks = [
            asyncio.create_task(caller.keep_asking(answers, stopped, path, pause))
            for caller in self.callers
            for _ in range(each)
        ]
        try:
            yield answers
        finally:
            stopped.set()
            await asyncio.gather(*tasks)

    async def look(self, path: str = BTC) -> list[Answer]:
        """What each replica has, without starting anything."""
        return [await caller.ask(path, ONLY_IF_CACHED) for caller in self.callers]

    async def warm(self, path: str = BTC) -> None:
        """Make every replica hold one snapshot, for one account call."""
        first = await self.callers[0].ask(path)
        assert first.status == 200
        await self.until_all_hold(first.snapshot_time)

    async def until_all_hold(self, snapshot_time: str) -> None:
        """Wait until every replica has this snapshot in memory; nobody reads it from them."""

        async def hold() -> bool:
            return {(await caller.account())["snapshotTime"] for caller in self.callers} == {snapshot_time}

        await until(hold, SOON, f"every replica holds the snapshot of {snapshot_time}")

    async def until_all_look(self, within: float, status: int, detail: str = "", path: str = BTC) -> None:
        """Wait until every replica, asked for what it has, answers like this."""

        async def alike() -> bool:
            return {(each.status, each.detail) for each in await self.look(path)} == {(status, detail)}

        await until(alike, within, f"every replica answers only-if-cached with {status} {detail}")

    async def until_all_are_fresh(self, path: str = BTC) -> None:
        """Wait until every replica answers a plain read with a fresh snapshot."""

        async def fresh() -> bool:
            answers = await self.rush(1, path).answers()
            return {(each.status, each.detail) for each in answers} == {(200, "")}

        await until(fresh, SOON, "every replica answers fresh")

    async def until_all_know_the_ban(self) -> None:
        async def know() -> bool:
            return all([(await caller.status())["notBefore"] for caller in self.callers])

        await until(know, SOON, "every replica's status has a not-before")


def _client(url: str) -> httpx.AsyncClient:
    """Any number of connections; `verify` spares loading certificates that nobody needs here."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    return httpx.AsyncClient(base_url=url, headers=bearer(), timeout=PATIENCE, limits=limits, verify=False)


def _answer(asked: int, response: httpx.Response) -> Answer:
    headers = response.headers
    problem = "" if response.is_success else response.json()["type"].rpartition(":")[2]
    return Answer(
        asked,
        epoch(),
        response.status_code,
        cache_status=headers.get("cache-status", ""),
        retry_after=int(headers["retry-after"]) if "retry-after" in headers else None,
        snapshot_time=headers.get("gateway-snapshot-time", ""),
        snapshot_age=int(headers.get("gateway-snapshot-age", "0")),
        problem=problem,
    )


def epoch() -> int:
    """Epoch ms by this machine's clock."""
    return int(time.time() * 1000)
