"""`python -m simulator exchange` as a process."""

import asyncio
import re
import signal
import socket
import sys
from pathlib import Path

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from simulator.signature import DEMO_API_KEY, DEMO_SECRET_KEY

ROOT = Path(__file__).parents[2]


async def start(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-u", "-m", "simulator", "exchange", *arguments),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def announced(process: asyncio.subprocess.Process) -> str:
    assert process.stdout is not None
    return (await process.stdout.readuntil(b"Ctrl-C stops.\n")).decode()


async def test_it_serves_until_ctrl_c_and_then_ends_well(tmp_path: Path) -> None:
    process = await start("--port", "0", "--mode", "hedge", "--weight-limit", "77")
    greeting = await announced(process)
    url = re.search(r"http://\S+", greeting)
    assert url is not None
    async with httpx.AsyncClient(base_url=url[0], trust_env=False) as client:
        limits = (await client.get("/dapi/v1/exchangeInfo")).json()["rateLimits"]
        mode = (await client.get("/_sim/mode")).json()
    process.send_signal(signal.SIGINT)
    _, errors = await process.communicate()

    assert DEMO_API_KEY in greeting
    assert DEMO_SECRET_KEY in greeting
    assert (limits[0]["limit"], mode) == (77, {"mode": "hedge"})
    assert (process.returncode, errors) == (0, b"")


async def test_a_public_key_takes_the_secrets_place(tmp_path: Path) -> None:
    public = tmp_path / "public.pem"
    key = Ed25519PrivateKey.generate().public_key()
    public.write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    process = await start("--port", "0", "--public-key", str(public))
    greeting = await announced(process)
    process.send_signal(signal.SIGTERM)
    await process.communicate()

    assert DEMO_SECRET_KEY not in greeting
    assert process.returncode == 0


async def test_a_port_in_use_is_one_clear_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = await start("--port", port)
        _, errors = await process.communicate()

    assert process.returncode == 2
    assert (errors.count(b"\n"), port.encode() in errors) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [(("--api-key", "short"), b"64 letters and digits"), (("--public-key", __file__), b"must be a public key in PEM")],
)
async def test_bad_options_are_refused_by_name(arguments: tuple[str, str], text: bytes) -> None:
    process = await start(*arguments)
    _, errors = await process.communicate()

    assert process.returncode == 2
    assert arguments[0].encode() in errors
    assert text in errors
