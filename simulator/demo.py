"""The demo: a simulated exchange, an embedded Redis and the gateway in one process; nothing leaves the machine."""

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import httpx
import uvloop
from fakeredis import FakeAsyncRedis

from service.access import tokens
from service.app import create_app
from service.server import ListenError, Stop, serve
from service.settings_file import load
from service.telemetry import logs
from simulator.control import controllable
from simulator.exchange import Exchange
from simulator.server import serving
from simulator.signature import DEMO_API_KEY, DEMO_SECRET_KEY

HEDGED_API_KEY = "demohedged".ljust(64, "0")
HEDGED_SECRET_KEY = "demohedgedsecret".ljust(64, "0")

SETTINGS = """\
environment = "demo"

[server]
port = {port}
metrics_port = {metrics_port}
drain = "0s"

[exchange]
base_url = "{exchange}"

[accounts.main]
api_key_file = "main_api_key"
secret_key_file = "main_secret_key"

[accounts.hedged]
api_key_file = "hedged_api_key"
secret_key_file = "hedged_secret_key"

[clients.treasury]
token_sha256 = ["{treasury}"]
[clients.treasury.accounts."*"]
assets = "all"

[clients.bitcoin-longs]
token_sha256 = ["{longs}"]
[clients.bitcoin-longs.accounts.hedged]
assets = ["BTC"]
position_sides = ["LONG"]
"""

CURL = r"curl -s -w '\n'"

GREETING = """
  The gateway            {gateway}   (to browse: {gateway}/docs)
  its metrics            {metrics}/metrics
  the simulated exchange {exchange}   (what can be turned: curl -s {exchange}/_sim/)

  A token that sees every account:        {treasury}
  One that sees BTC on the long side:     {longs}

  Try:

{as_treasury} {gateway}/v1/accounts
{as_treasury} -i {gateway}/v1/accounts/main/assets/BTC
{as_treasury} '{gateway}/v1/accounts/main/positions?open=true'
{as_longs} '{gateway}/v1/accounts/hedged?open=true'
{as_longs} -i {gateway}/v1/accounts/hedged/assets/ETH
{as_treasury} {gateway}/v1/status

  As a client of Binance's own would ask, docs/clients.md:

{curl} -H 'X-MBX-APIKEY: {longs}' {gateway}/binance/hedged/dapi/v1/account

  For what the caller's guide, docs/callers.md, tells to run (ACCOUNT=hedged is one in hedge mode):

export GATEWAY={gateway} TOKEN={treasury} ACCOUNT=main

  Then take the exchange down, see what a caller sees of it, and bring it back:

{curl} -X POST -d '{{"name":"503-unavailable"}}' {exchange}/_sim/faults
{as_treasury} -i {gateway}/v1/accounts/main/assets/BTC
{as_treasury} -i -H 'Cache-Control: no-cache' {gateway}/v1/accounts/main/assets/BTC
{curl} -X DELETE {exchange}/_sim/faults

  Ctrl-C ends it.
"""


def run(*, port: int) -> None:
    """Run the demo until Ctrl-C; 0 is any free port. A port in use is one line on stderr and exit status 1."""
    try:
        with _foreground(), tempfile.TemporaryDirectory() as folder, logs.logging_to(sys.stderr):
            uvloop.run(_demo(Path(folder), port or _free_port()))
    except ListenError as exc:
        click.echo(f"{exc}. Choose another port with --port.", err=True)
        raise SystemExit(1) from None


@contextmanager
def _foreground() -> Iterator[None]:
    """Take the terminal while the block runs, so that Ctrl-C reaches the demo alone.

    The `make` around it would get it too, and would end by it whatever the demo's own status is.
    """
    if not sys.stdin.isatty() or os.getpgrp() == os.getpid():
        yield
        return
    terminal = sys.stdin.fileno()
    owner = os.tcgetpgrp(terminal)
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # or giving the terminal back would stop us
    signal.signal(signal.SIGTSTP, signal.SIG_IGN)  # Ctrl-Z would stop us where no shell sees it
    os.setpgid(0, 0)
    os.tcsetpgrp(terminal, os.getpgrp())
    try:
        yield
    finally:
        os.tcsetpgrp(terminal, owner)


async def _demo(folder: Path, port: int) -> None:
    exchange = Exchange()
    exchange.add_demo_book("hedged", hedge=True)
    exchange.add_secret_key(HEDGED_API_KEY, HEDGED_SECRET_KEY, "hedged")
    async with serving(controllable(exchange)) as url:
        holders = {"treasury": tokens.generate(), "longs": tokens.generate()}
        places = {"exchange": url, "port": port, "metrics_port": _free_port()}
        app = create_app(load(_write(folder, holders, places)), redis=FakeAsyncRedis())
        greeting, stop = asyncio.create_task(_greet(holders, places)), Stop()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.request)
        try:
            await serve(app, stop=stop)
        finally:
            greeting.cancel()


def _write(folder: Path, holders: dict[str, str], places: dict[str, object]) -> Path:
    secrets = {
        "main_api_key": DEMO_API_KEY,
        "main_secret_key": DEMO_SECRET_KEY,
        "hedged_api_key": HEDGED_API_KEY,
        "hedged_secret_key": HEDGED_SECRET_KEY,
    }
    for name, secret in secrets.items():
        (folder / name).write_text(secret)
    digests = {name: tokens.digest(token.encode()) for name, token in holders.items()}
    file = folder / "gateway.toml"
    file.write_text(SETTINGS.format(**digests, **places))
    return file


async def _greet(holders: dict[str, str], places: dict[str, object]) -> None:
    """Say what to try, once it can be tried."""
    gateway = f"http://127.0.0.1:{places['port']}"
    metrics = f"http://127.0.0.1:{places['metrics_port']}"
    async with httpx.AsyncClient(trust_env=False) as client:
        while not await _ready(client, gateway):  # noqa: ASYNC110 - as its callers see it, over the socket
            await asyncio.sleep(0.05)
    callers = {f"as_{name}": f"{CURL} -H 'Authorization: Bearer {token}'" for name, token in holders.items()}
    told = {"gateway": gateway, "metrics": metrics, "curl": CURL, "exchange": places["exchange"]}
    click.echo(GREETING.format(**told, **holders, **callers))


async def _ready(client: httpx.AsyncClient, gateway: str) -> bool:
    try:
        answer = await client.get(f"{gateway}/readyz")
    except httpx.TransportError:
        return False
    return answer.status_code == 200


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
