"""Fakes at the outer seams, and settings written as an operator would write them."""

import asyncio
import contextlib
import hashlib
import itertools
import os
import socket
import threading
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import httpx
from fakeredis import FakeAsyncRedis, FakeServer
from fakeredis._core import Database  # the embedded server has no other way to be told the time

from service.access import tokens
from service.app import App, create_app
from service.settings import Duration, Freshness, Settings
from service.settings_file import load
from simulator.cluster import Cluster
from simulator.exchange import Exchange
from simulator.faults import ACCOUNT_PATH
from simulator.signature import DEMO_API_KEY, DEMO_SECRET_KEY
from simulator.transport import AppTransport, SimulatorTransport

IDENTITY = hashlib.sha256(f"{DEMO_API_KEY}\n{DEMO_SECRET_KEY}".encode()).hexdigest()[:16]
"""What the gateway knows the demo credential by."""

BTC = "/v1/accounts/main/assets/BTC"
"""A read that every client but one is granted."""

START = 1_790_000_040_000
"""Epoch ms the fake clock starts at: a whole minute."""

TOKENS = {name: tokens.generate() for name in ("risk", "treasury", "longs", "nobody")}
"""A token each for a client that sees everything, BTC and ETH, LONG rows alone, and nothing."""

DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "server": {"metrics_port": 0, "drain": "100ms"},
    "exchange": {"base_url": "http://127.0.0.1:1", "timeout": "2s"},
}


def freshness(
    fresh_for: int, stale_while_revalidate: int = 0, stale_if_error: int = 0, min_refresh_interval: int = 0
) -> Freshness:
    """Windows in ms."""
    given = map(Duration, (fresh_for, stale_while_revalidate, stale_if_error, min_refresh_interval))
    return Freshness(**dict(zip(Freshness.__struct_fields__, given, strict=True)))


class FakeClock:
    """A clock that stands still until it is told to move; both of its times move together, or the epoch alone."""

    def __init__(self) -> None:
        self._monotonic = 1_000_000
        self._epoch = START
        self.broken = False
        """Whether reading it fails as nobody foresaw."""

    def monotonic(self) -> int:
        return self._monotonic // (not self.broken)

    def epoch(self) -> int:
        return self._epoch

    def seconds(self) -> float:
        """For the simulator, which lives by the same clock."""
        return self._epoch / 1000

    def elapsed(self) -> float:
        """Seconds of a clock that nobody turns: Redis'."""
        return self._monotonic / 1000

    def advance(self, milliseconds: int) -> None:
        self._monotonic += milliseconds
        self._epoch += milliseconds

    def misset(self, milliseconds: int) -> None:
        """Somebody turns this machine's clock."""
        self._epoch += milliseconds


class Embedded(FakeServer):
    """The embedded Redis, whose keys expire by a fake clock."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__()
        self.dbs = defaultdict(lambda: _Timed(clock, self.lock))
        self.lag = 0.0
        """Seconds that scripts take to arrive, on connections that care."""


class _Timed(Database):
    def __init__(self, clock: FakeClock, lock: threading.Lock) -> None:
        self._clock = clock
        super().__init__(lock)

    @property
    def time(self) -> float:
        return self._clock.elapsed()

    @time.setter
    def time(self, machine: float) -> None:
        """The server tells the machine's time before each command; it is of no account here."""


def write_settings(folder: Path, **tables: Mapping[str, object]) -> Path:
    """A complete settings file with its secrets; `tables` override or add keys of single tables; `None`: without it."""
    secrets = folder / "secrets"
    secrets.mkdir(exist_ok=True)
    (secrets / "api_key").write_text(DEMO_API_KEY + "\n")
    (secrets / "secret_key").write_text(DEMO_SECRET_KEY + "\n")
    for file in secrets.iterdir():
        file.chmod(0o600)
    lines = ['environment = "testing"']
    for name in ("server", "redis", "exchange", "freshness"):
        table = {**DEFAULTS.get(name, {}), **tables.get(name, {})}
        lines += [f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in table.items())]
    for name in ("audit", "kubernetes", "log"):
        lines += _table(name, tables[name]) if tables.get(name) is not None else []
    for account, own in tables.get("accounts", {"main": None}).items():
        lines += [_ACCOUNT.format(account=account), *_table(f"accounts.{account}.freshness", own)]
    lines += [_clients(tables.get("clients", {}))]
    file = folder / "gateway.toml"
    file.write_text("\n".join(lines) + "\n")
    return file


def settings(folder: Path, **tables: Mapping[str, object]) -> Settings:
    return load(write_settings(folder, **tables))


@asynccontextmanager
async def running(app: App) -> AsyncIterator[httpx.AsyncClient]:
    """The app, in this loop, and a caller of it."""
    transport = httpx.ASGITransport(cast("Any", app))
    # Bodies as they are, unless a test wants others: httpx would ask for gzip.
    headers = {"accept-encoding": "identity"}
    async with (
        app.lifespan(),
        httpx.AsyncClient(transport=transport, base_url="http://gateway", headers=headers) as caller,
    ):
        yield caller


async def until(condition: Callable[[], bool | Awaitable[bool]], within: float, what: str) -> None:
    """Wait for what another task or process does by itself, at most so many seconds; else fail with `what`."""
    try:
        async with asyncio.timeout(within):
            while not (held if isinstance(held := condition(), bool) else await held):
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError(f"not within {within} s: {what}") from None


class World:
    """A gateway with its exchange and its Redis, all in this process and on one clock."""

    def __init__(self, folder: Path, **tables: Mapping[str, object]) -> None:
        self.clock = FakeClock()
        self.exchange = Exchange(clock=self.clock.seconds)
        self.transport = SimulatorTransport(self.exchange)
        self.cluster = Cluster(clock=self.clock.seconds)
        self.way_to_cluster = AppTransport(self.cluster)
        self.redis_server = Embedded(self.clock)
        self.settings = settings(folder, **tables)

    def app(self) -> App:
        """A replica; several share the exchange, Redis and the clock."""
        redis = FakeAsyncRedis(server=self.redis_server)
        return create_app(
            self.settings,
            transport=self.transport,
            redis=cast("Any", redis),
            clock=self.clock,
            cluster=self.way_to_cluster,
        )

    @property
    def account_keys(self) -> list[str | None]:
        """Whose account calls they were, in order."""
        return [call.api_key for call in self.exchange.calls.kept() if call.path == ACCOUNT_PATH]

    @property
    def account_calls(self) -> int:
        return self.exchange.calls.count(ACCOUNT_PATH)


def bearer(client: str = "risk", **headers: str) -> dict[str, str]:
    """Headers of a caller; `cache_control="no-cache"` adds one."""
    return {"authorization": f"Bearer {TOKENS[client]}"} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }


_ACCOUNT = """[accounts.{account}]
api_key_file = "secrets/api_key"
secret_key_file = "secrets/secret_key"
"""

_GRANTS = {
    "risk": '[clients.risk.accounts."*"]\nassets = "all"',
    "treasury": '[clients.treasury.accounts.main]\nassets = ["BTC", "ETH"]',
    "longs": '[clients.longs.accounts.main]\nassets = ["BTC"]\nposition_sides = ["LONG"]',
    "nobody": "",
}


def _clients(own: Mapping[str, object]) -> str:
    """Every client with its token and grants; `own` adds keys to single clients' tables."""
    return "\n".join(
        "\n".join(
            [
                *_table(f"clients.{name}", own.get(name, {})),
                f'token_sha256 = ["{tokens.digest(token.encode())}"]',
                _GRANTS[name],
            ]
        )
        for name, token in TOKENS.items()
    )


def _table(name: str, keys: object) -> list[str]:
    given = cast("Mapping[str, object]", keys or {})
    return [f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in given.items())]


def _toml(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)


def unmeasured() -> dict[str, str]:
    """The environment without what has every Python measure its coverage, for half again as much processor time."""
    return {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}


def free_port() -> int:
    """A port that nobody listens on now, and that no outgoing connection is given (Linux: 32768 and up).

    Each worker has a range of its own, so that two tests are never given the same.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = FIRST_PORT + worker % WORKERS * PORTS + next(_numbers) % PORTS
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


FIRST_PORT, PORTS, WORKERS = 12_000, 2_500, 8
"""20,000 ports below the outgoing ones; the first of each worker is its process' own, for runs beside each other."""
_numbers = itertools.count(os.getpid() * 37)
