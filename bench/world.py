"""Everything that is compared, started side by side: only who is under load uses its core."""

import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import httpx
import msgspec
from redis.asyncio import Redis

from bench.processes import LOAD_CORE, Process, Request, python
from service.access import tokens
from service.settings import Scheduling
from simulator.signature import DEMO_API_KEY, DEMO_SECRET_KEY

BARE = "bare ASGI app on granian"
BATCH = "bare ASGI app, scheduled as the gateway"
ASSET = "/v1/accounts/main/assets/BTC"
"""What is asked most."""
ROWS = 210
"""Position rows: 70 symbols in hedge mode, 84 KB."""

SETTINGS = """
environment = "bench"
[server]
port = {port}
metrics_port = {metrics_port}
scheduling = "{scheduling}"
[log]
hits = {log_hits}
[redis]
url = "redis://127.0.0.1:{redis}/0"
key_prefix = "{fleet}"
[freshness]
fresh_for = "{fresh_for}"
min_refresh_interval = "{fresh_for}"
[exchange]
base_url = "http://127.0.0.1:{exchange}"
weight_limit = 1000000
{accounts}
[clients.bench]
token_sha256 = ["{digest}"]
[clients.bench.accounts."*"]
assets = "all"
"""
ACCOUNT = """
[accounts.{name}]
api_key_file = "api_key"
secret_key_file = "secret_key"
"""
NGINX = """
{user}
worker_processes 1;
error_log stderr crit;
pid {folder}/nginx.pid;
daemon off;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    proxy_cache_path {folder}/cache keys_zone=answers:10m;
    keepalive_requests 100000000;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://127.0.0.1:{upstream};
            proxy_cache answers;
            proxy_cache_valid 200 10m;
        }}
    }}
}}
"""


_USER = "user root;" if os.geteuid() == 0 else ""
"""nginx gives root's rights up where it may, and with them the way into our folder."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Target(msgspec.Struct, frozen=True):
    """What is measured: a name, who serves it, and what is asked."""

    name: str
    server: Process
    request: Request


class Setup(msgspec.Struct, frozen=True):
    """What sets one gateway apart from another."""

    accounts: int = 1
    log_hits: int = 100
    """One log line for so many hits."""
    scheduling: Scheduling = "batch"
    fresh_for: str = "1s"
    fleet: str = ""
    """Gateways of one name share snapshots; without, it is alone, so that none works while another is measured."""


class Ground(msgspec.Struct):
    """What the servers share: a Redis, an exchange, and a folder."""

    folder: Path
    redis: int
    exchange: int
    token: str

    @property
    def authorization(self) -> str:
        return f"Authorization: Bearer {self.token}"

    async def calls(self) -> int:
        """How often the exchange was asked for an account so far."""
        async with httpx.AsyncClient(trust_env=False) as client:
            return int((await client.get(f"http://127.0.0.1:{self.exchange}/calls")).text)

    @asynccontextmanager
    async def gateway(self, setup: Setup = Setup()) -> AsyncIterator[tuple[Process, str]]:  # noqa: B008 - it is frozen
        """A gateway on ports of its own, and its URL."""
        port = free_port()
        folder = self.folder / f"gateway-{port}"
        folder.mkdir()
        (folder / "api_key").write_text(DEMO_API_KEY)
        (folder / "secret_key").write_text(DEMO_SECRET_KEY)
        names = ["main", *(f"a{number}" for number in range(1, setup.accounts))]
        (folder / "gateway.toml").write_text(
            SETTINGS.format(
                port=port,
                metrics_port=free_port(),
                redis=self.redis,
                exchange=self.exchange,
                accounts="".join(ACCOUNT.format(name=name) for name in names),
                log_hits=setup.log_hits,
                scheduling=setup.scheduling,
                fresh_for=setup.fresh_for,
                fleet=setup.fleet or f"alone-{port}",
                digest=tokens.digest(self.token.encode()),
            )
        )
        command = python("service", "serve", "--config", folder / "gateway.toml")
        url = f"http://127.0.0.1:{port}"
        async with Process(*command, check=f"{url}/readyz") as process:
            yield process, url


@asynccontextmanager
async def ground(folder: Path, rows: int = ROWS) -> AsyncIterator[Ground]:
    """A Redis and an exchange, on the load's core."""
    redis, exchange = free_port(), free_port()
    folder.mkdir(exist_ok=True)
    command = ("redis-server", "--port", str(redis), "--save", "", "--dir", str(folder))
    server = python("bench.exchange", exchange, rows)
    check = f"http://127.0.0.1:{exchange}/calls"
    async with Process(*command, core=LOAD_CORE), Process(*server, core=LOAD_CORE, check=check):
        yield Ground(folder, redis, exchange, tokens.generate())


@asynccontextmanager
async def peers(ground: Ground, row: bytes) -> AsyncIterator[Mapping[str, tuple[Process, str]]]:
    """The others, by name, and the URL of one asset (or of the whole account) at each."""
    (body := ground.folder / "row.json").write_bytes(row)
    bare, batch, first, decorated, nginx = (free_port() for _ in range(5))
    (folder := ground.folder / "nginx").mkdir()
    configuration = folder / "nginx.conf"
    configuration.write_text(NGINX.format(user=_USER, folder=folder, port=nginx, upstream=bare))
    exchange = f"http://127.0.0.1:{ground.exchange}"
    async with Redis(port=ground.redis) as redis, httpx.AsyncClient(trust_env=False) as client:
        await redis.set("account", (await client.get(f"{exchange}/account")).content)
    async with AsyncExitStack() as stack:
        servers = {
            BARE: (python("bench.peers.bare", bare, body), f"http://127.0.0.1:{bare}/"),
            BATCH: (python("bench.peers.bare", batch, body, "batch"), f"http://127.0.0.1:{batch}/"),
            "nginx proxy_cache": (("nginx", "-c", str(configuration)), f"http://127.0.0.1:{nginx}/"),
            "FastAPI, JSON from Redis": (
                python("bench.peers.first_idea", first, ground.redis),
                f"http://127.0.0.1:{first}/assets/BTC",
            ),
            "FastAPI, cashews": (
                python("bench.peers.decorated", decorated, ground.redis, exchange),
                f"http://127.0.0.1:{decorated}/assets/BTC",
            ),
        }
        yield {
            name: (await stack.enter_async_context(Process(*command, check=url)), url)
            for name, (command, url) in servers.items()
        }
