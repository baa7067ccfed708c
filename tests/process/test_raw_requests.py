"""What no client sends, as the server that is in front of the app hands it over."""

import asyncio

import pytest

from tests.app import harness
from tests.process.conftest import GatewayProcess, port_of
from tests.support import TOKENS

PATHS = ["/healthz", "/readyz", *harness.PATHS.values(), *harness.ITEMS, *harness.DROP_INS, "/docs", "/nothing"]
"""Items again: a read that is repeated goes past the framework."""


async def exchanged(gateway: GatewayProcess, head: bytes) -> bytes:
    """All that comes back for a request's head; the connection ends with it."""
    reader, writer = await asyncio.open_connection(*port_of(gateway.url))
    token = f"Authorization: Bearer {TOKENS['risk']}\r\nConnection: close\r\n\r\n"
    writer.write(head + token.encode())
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize("hosts", [b"", b"Host:\r\n", b"Host: a\r\nHost: b\r\n", b"Host: a\r\nhost: a\r\n"])
async def test_http_1_1_without_exactly_one_host_is_refused(gateway: GatewayProcess, hosts: bytes) -> None:
    for path in PATHS:
        one = await exchanged(gateway, b"GET %s HTTP/1.1\r\nHost: a\r\n" % path.encode())
        answer = await exchanged(gateway, b"GET %s HTTP/1.1\r\n%s" % (path.encode(), hosts))
        assert not one.startswith(b"HTTP/1.1 400")
        assert answer.startswith(b"HTTP/1.1 400")
        form = b"application/json" if path in harness.DROP_INS else b"application/problem+json"
        assert b"content-type: " + form in answer.lower()
        assert b"header Host: expected exactly once" in answer


async def test_http_1_0_needs_no_host(gateway: GatewayProcess) -> None:
    for path in PATHS[: -2 - len(harness.DROP_INS)]:
        assert (await exchanged(gateway, b"GET %s HTTP/1.0\r\n" % path.encode())).split(b" ")[1] == b"200"


@pytest.mark.parametrize("name", [b"%ff", b"%E5%B8", b"%zz", b"%ED%A0%80", b"\xc3\x89%ff"])
async def test_a_name_that_is_not_escaped_utf_8_is_refused(gateway: GatewayProcess, name: bytes) -> None:
    for item in harness.ITEMS:
        path = item.rpartition("/")[0].encode() + b"/" + name
        answer = await exchanged(gateway, b"GET %s HTTP/1.1\r\nHost: a\r\n" % path)
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"the path is not percent-encoded UTF-8" in answer
