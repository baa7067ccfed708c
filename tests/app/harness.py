"""Gateways on a stage: started, asked and watched by a test, and everything they let out kept for the canary."""

import asyncio
import hashlib
import io
import re
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec
from fakeredis import FakeAsyncRedis
from fakeredis.aioredis import FakeAsyncRedisConnection
from prometheus_client import generate_latest

from service.account import documents
from service.app import App, create_app
from service.gateway import Gateway
from service.reload import Reloader, read
from service.settings_file import load
from service.telemetry.audit import Line
from simulator.documents import balances, leverage_brackets, position_risk
from simulator.exchange import BALANCE_PATH, LEVERAGE_BRACKET_PATH, MAIN, POSITION_RISK_PATH, Exchange
from simulator.faults import ACCOUNT_PATH, Fault
from simulator.signature import DEMO_API_KEY, DEMO_SECRET_KEY
from simulator.statement import statement
from simulator.transport import SimulatorTransport
from tests.support import TOKENS, Embedded, World, bearer, running

ACCOUNT = "/v1/accounts/main"
ASSETS = f"{ACCOUNT}/assets"
POSITIONS = f"{ACCOUNT}/positions"
BTC = f"{ASSETS}/BTC"
SYMBOL = f"{POSITIONS}/BTCUSD_PERP"

BALANCE, RISK, BRACKETS = f"{ACCOUNT}/balance", f"{ACCOUNT}/position-risk", f"{ACCOUNT}/leverage-brackets"

_EXAMPLES = {"asset": "BTC", "symbol": "BTCUSD_PERP", "positionSide": "BOTH"}
PATHS = {
    shape: "/".join([ACCOUNT, *filter(None, [shape.resource]), *(_EXAMPLES[name] for name in shape.named)])
    for shape in documents.SHAPES.values()
}
"""A path of every shape; the items in them are ones that there are."""
LISTS = tuple(path for shape, path in PATHS.items() if not shape.named)
ITEMS = tuple(path for shape, path in PATHS.items() if shape.named)
DROP_INS = tuple(f"/binance/main{document.path}" for document in documents.DOCUMENTS)
"""The paths of an account's documents for Binance's own clients."""

ADDRESS = "127.0.0.1"
"""Where the exchange sees the gateways calling from."""

ADDRESS_HOLD = "coinm:{egress:127.0.0.1:1:default}:hold"
"""The Redis key of the address' cooldown."""

NO_CACHE = {"cache_control": "no-cache"}

NEW_KEY = "anotherApiKey".ljust(64, "1")
NEW_IDENTITY = hashlib.sha256(f"{NEW_KEY}\n{DEMO_SECRET_KEY}".encode()).hexdigest()[:16]
"""What a credential is rotated to."""

TURNS = 60
"""Of the event loop: for a subscription, a message, and a look, each some ten, with room."""

AUDIT = {"file": "audit.jsonl"}
"""The settings of every stage's audit log, in its folder, so that the canary searches it too."""

Json = Any


class Wire(SimulatorTransport):
    """The way to the exchange; remembers what was sent on it."""

    def __init__(self, exchange: Exchange) -> None:
        super().__init__(exchange)
        self.queries: list[str] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.queries.append(request.url.query.decode())
        return await super().handle_async_request(request)


class LaggingConnection(FakeAsyncRedisConnection):
    """A connection on which scripts take as long to be sent as the server says."""

    async def send_packed_command(self, command: Any, check_health: bool = True) -> None:  # noqa: FBT001, FBT002 - redis-py's
        # What the client sends by itself comes as a list; in production a new connection greets nobody.
        await asyncio.sleep(cast("Embedded", self._server).lag if isinstance(command, bytes) else 0)
        await super().send_packed_command(command, check_health)


class Replica:
    """A running gateway, and callers of it."""

    def __init__(self, app: App, caller: httpx.AsyncClient) -> None:
        self.app = app
        self.caller = caller
        self.ended = asyncio.Event()
        """Whether the test has done with it."""

    @property
    def gateway(self) -> Gateway:
        return self.app.gateway

    async def get(self, path: str = BTC, client: str | None = "risk", **headers: str) -> httpx.Response:
        """Ask for something; `client=None` sends no token, `cache_control="no-cache"` a header."""
        return await self.ask("GET", path, client, **headers)

    async def ask(self, method: str, path: str, client: str | None = "risk", **headers: str) -> httpx.Response:
        sent = bearer(client or "risk", **headers)
        if client is None:
            del sent["authorization"]
        return await self.caller.request(method, path, headers=sent)

    async def resume(self) -> None:
        """What an operator does who knows better."""
        await self.gateway.ledger.resume(self.gateway.config.caches["main"].source.identity)

    async def status(self) -> Json:
        return (await self.get("/v1/status")).json()

    def metrics(self) -> str:
        return generate_latest(self.gateway.metrics.registry).decode()

    def figure(self, sample: str) -> float | None:
        """One sample's value, by its name and labels as they are exposed."""
        found = re.search(rf"^{re.escape(sample)} (\S+)$", self.metrics(), re.MULTILINE)
        return float(found[1]) if found else None


class Stage(World):
    """A world whose gateways are started by the test and ended after it."""

    def __init__(self, folder: Path, **tables: Mapping[str, object]) -> None:
        super().__init__(folder, **{"audit": AUDIT, **tables})
        self.folder = folder
        self.transport: Wire = Wire(self.exchange)
        self.answers: list[httpx.Response] = []
        self.tokens: Mapping[str, str] = TOKENS
        """The clients' bearer tokens, by what holds them."""
        self.exposed: dict[str, str] = {}
        """What the gateways showed of themselves, by place."""
        self._replicas: list[Replica] = []
        self._lives: dict[Replica, asyncio.Task[None]] = {}
        self._stopped = False
        self._keys: list[str] = []

    async def start(self) -> Replica:
        """One more replica on the same exchange, Redis and clock."""
        return await self.start_app(self.app())

    async def start_fleet(self, count: int = 3) -> list[Replica]:
        return [await self.start() for _ in range(count)]

    async def start_on(self, transport: httpx.AsyncBaseTransport) -> Replica:
        """A replica whose calls take another way to the exchange."""
        redis = FakeAsyncRedis(server=self.redis_server)
        return await self.start_app(
            create_app(self.settings, transport=transport, redis=cast("Any", redis), clock=self.clock)
        )

    async def start_lagging(self) -> Replica:
        """A replica whose Redis answers as late as `redis_server.lag` says."""
        redis = cast("Any", FakeAsyncRedis(server=self.redis_server, connection_class=LaggingConnection))
        return await self.start_app(create_app(self.settings, transport=self.transport, redis=redis, clock=self.clock))

    async def start_app(self, app: App) -> Replica:
        started = asyncio.get_running_loop().create_future()
        life = asyncio.create_task(self._live(app, started))
        replica: Replica = await started
        self._lives[replica] = life
        await settle()
        self._replicas.append(replica)
        return replica

    async def start_watched(self) -> tuple[Replica, Reloader]:
        """A replica, and what looks at its files when the test says so."""
        reading = read(self.file)
        replica = await self.start()
        return replica, Reloader(replica.gateway, self.file, reading)

    async def warm(self, age: int = 0) -> Replica:
        """A replica with a snapshot `age` ms old."""
        replica = await self.start()
        assert (await replica.get()).status_code == 200
        await self.advance(age)
        return replica

    async def stop(self) -> None:
        """End all replicas, once; what they would have told until now is kept."""
        if self._stopped:
            return
        self._stopped = True
        self.exchange.release()
        self.cluster.gate.release()
        for number, replica in enumerate(self._replicas):
            self.exposed |= {f"{place} of replica {number}": text for place, text in _exposures(replica)}
            if not replica.ended.is_set():
                await replica.get("/v1/status")
        for replica in self._replicas:
            await self.end(replica)

    async def end(self, replica: Replica) -> None:
        """End one of them; what it would have told is kept."""
        replica.ended.set()
        await self._lives[replica]

    async def advance(self, milliseconds: int) -> None:
        """Time passes, in Redis too, all at once."""
        await settle()
        self.clock.advance(milliseconds)

    @asynccontextmanager
    async def redis(self) -> AsyncIterator[FakeAsyncRedis]:
        """A client that reaches Redis also where the gateways can't."""
        reachable, self.redis_server.connected = self.redis_server.connected, True
        async with FakeAsyncRedis(server=self.redis_server) as redis:
            yield redis
        self.redis_server.connected = reachable

    def fail(self, *faults: str | Fault) -> None:
        self.exchange.faults.set(faults)

    def statement(self) -> Json:
        """The account as the exchange would send it now, read."""
        return msgspec.json.decode(self.raw())

    def raw(self, path: str = ACCOUNT_PATH) -> bytes:
        """The body that the exchange would send now at one of its paths."""
        book, market, now_ms = self.exchange.book(MAIN), self.exchange.market, self.exchange.now_ms()
        bodies: dict[str, Callable[[], bytes]] = {
            ACCOUNT_PATH: lambda: statement(book, market, now_ms),
            BALANCE_PATH: lambda: balances(book, market, now_ms),
            POSITION_RISK_PATH: lambda: position_risk(book, market, now_ms, lambda _: True),
            LEVERAGE_BRACKET_PATH: lambda: leverage_brackets(book, lambda _: True),
        }
        return book.raw_by_path.get(path) or bodies[path]()

    def answer_with(self, **members: Json) -> None:
        """From now on the account is what it was, but for these members."""
        self.exchange.book(MAIN).raw = msgspec.json.encode(self.statement() | members)

    def spent_by_neighbours(self, weight: int) -> None:
        """Somebody else on our address has spent so much this minute."""
        self.exchange.limits.set_used(ADDRESS, weight, self.exchange.now_ms())

    @property
    def file(self) -> Path:
        return self.folder / "gateway.toml"

    def edit(self, old: str, new: str) -> None:
        """Change the settings file, which running gateways look at when a test says so."""
        text = self.file.read_text()
        assert old in text
        self.file.write_text(text.replace(old, new, 1))

    def change_key(self, api_key: str, *, known: bool = True) -> None:
        """Rotate the credential: at the exchange, unless it is to be unknown there, and in the gateways' files."""
        if known:
            self.exchange.add_secret_key(api_key, DEMO_SECRET_KEY)
        self._keys.append(api_key)
        (self.folder / "secrets" / "api_key").write_text(api_key)
        self.settings = load(self.file)

    def give_credential(self, account: str, api_key: str, secret_key: str) -> None:
        """Another account's own key files, for the gateways started later."""
        secrets = self.folder / "secrets"
        files = {"api_key_file": secrets / f"{account}_api_key", "secret_key_file": secrets / f"{account}_secret_key"}
        files["api_key_file"].write_text(api_key)
        files["secret_key_file"].write_text(secret_key)
        accounts = dict(self.settings.accounts)
        accounts[account] = msgspec.structs.replace(accounts[account], **files)
        self.settings = msgspec.structs.replace(self.settings, accounts=accounts)

    def secrets(self) -> dict[str, str]:
        """Everything that must never be seen, by what it is."""
        signatures = {query.partition("signature=")[2] for query in self.transport.queries} - {""}
        return (
            {f"token of {name}": token for name, token in self.tokens.items()}
            | {"API key": DEMO_API_KEY, "secret key": DEMO_SECRET_KEY}
            | {f"API key {number}": key for number, key in enumerate(self._keys)}
            | {f"signature {number}": value for number, value in enumerate(sorted(signatures))}
            | {f"ServiceAccount token {number}": value for number, value in enumerate(self.cluster.issued)}
        )

    async def traces(self) -> AsyncIterator[tuple[str, str]]:
        """Everything that left the gateways, by place."""
        for answer in self.answers:
            yield f"answer {answer.url.path}", f"{answer.headers.raw}{answer.content.decode('latin-1')}"
        for place, text in self.exposed.items():
            yield place, text
        for line in self._audit_lines():
            yield "the audit log", line
        async with self.redis() as redis:
            for key in await keys(redis):
                kind = await redis.type(key)
                value = await redis.hgetall(key) if kind == b"hash" else await redis.get(key)
                yield f"Redis {key.decode()}", f"{key!r}{value!r}"

    async def audited(self) -> list[Line]:
        """The audit's lines, once the replicas have ended."""
        await self.stop()
        return [msgspec.json.decode(line, type=Line) for line in self._audit_lines()]

    def _audit_lines(self) -> list[str]:
        file = self.folder / AUDIT["file"]
        return file.read_text().splitlines() if file.exists() else []

    async def _live(self, app: App, started: asyncio.Future[Replica]) -> None:
        """A replica's life, in a task of its own: its lifespan must end where it began."""
        async with running(app) as caller:
            caller.event_hooks = {"response": [self._keep]}
            replica = Replica(app, caller)
            started.set_result(replica)
            await replica.ended.wait()

    async def _keep(self, answer: httpx.Response) -> None:
        await answer.aread()
        self.answers.append(answer)


async def settle() -> None:
    """Let replicas hear what has been announced, and look: a few turns of the loop, for all of it is in this one."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


async def decided() -> None:
    """Let proposals be proven or refused: some hundred turns of the loop, for all of it is in this one."""
    for _ in range(5):
        await settle()


def logged(log_text: io.StringIO, event: str = "request") -> list[Json]:
    """The log's lines of one kind."""
    lines = [msgspec.json.decode(line) for line in log_text.getvalue().splitlines()]
    return [line for line in lines if line["event"] == event]


async def keys(redis: FakeAsyncRedis) -> list[bytes]:
    return cast("list[bytes]", await redis.keys())


def _exposures(replica: Replica) -> list[tuple[str, str]]:
    gateway = replica.gateway
    sources = [cache.source for cache in gateway.config.caches.values()]
    parts = [gateway, *(getattr(gateway, name) for name in gateway.__struct_fields__), *gateway.config.caches.values()]
    parts += [*sources, *(vars(source) for source in sources)]
    parts += [each.state.snapshot for cache in gateway.config.caches.values() for each in cache.documents.values()]
    parts += [vars(gateway.reviews)] if gateway.reviews is not None else []
    parts += [
        *(shared for cache in gateway.config.caches.values() for shared in cache.state.active.shared.values()),
        vars(gateway.exchange),
        vars(gateway.config.clients),
    ]
    return [("metrics", replica.metrics()), ("repr", "\n".join(map(repr, parts)))]


def ages(answers: Sequence[httpx.Response]) -> set[int]:
    """Of the snapshots, in ms."""
    return {int(answer.headers["gateway-snapshot-age"]) for answer in answers}


def fresh(answers: Sequence[httpx.Response]) -> bool:
    """Whether all of them show a snapshot of this moment."""
    return {answer.status_code for answer in answers} == {200} and ages(answers) == {0}


def cache_status(answer: httpx.Response) -> str:
    """What the gateway says of its cache, without its name."""
    name, _, rest = answer.headers["cache-status"].partition("; ")
    assert name == "coinm-gateway"
    return str(rest)


def problem(answer: httpx.Response) -> str:
    """The name of a problem, its form checked."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    body = answer.json()
    assert list(body) == ["type", "title", "status", "detail", "instance"]
    assert body["status"] == answer.status_code
    assert body["title"]
    assert body["detail"]
    assert body["instance"] == f"urn:request:{answer.headers['x-request-id']}"
    return str(body["type"].removeprefix("urn:coinm-gateway:problem:"))


def told(answer: httpx.Response) -> tuple[int, str, str | None]:
    """Status, problem and Retry-After of an error."""
    return answer.status_code, problem(answer), answer.headers.get("retry-after")
