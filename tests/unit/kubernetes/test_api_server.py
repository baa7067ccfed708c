"""What the API server may send, and what is made of it."""

import gzip
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest

from service.kubernetes.api_server import MAX_ANSWER, ApiServer, open_client
from service.kubernetes.errors import NotVerifiedError
from service.settings import Kubernetes


class _Sent(httpx.AsyncByteStream):
    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._content


async def review(folder: Path, body: bytes, headers: dict[str, str] | None = None, status: int = 201) -> bytes:
    """The review of the token `ours`, answered like this."""

    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["accept-encoding"] == "identity"
        return httpx.Response(status, headers=headers, stream=_Sent(body))

    (folder / "token").write_text("own")
    settings = Kubernetes(audience="a", api_server="http://127.0.0.1:1", token_file=folder / "token")
    server = ApiServer(settings, open_client(settings, httpx.MockTransport(answer)))
    try:
        return await server.review("ours", "a")
    finally:
        await server.close()


BOMB = gzip.compress(bytes(64 * 1024 * 1024))
REFUSED = {
    "twice": ({"content-encoding": "gzip, gzip"}, gzip.compress(BOMB)),
    "inflates": ({"content-encoding": "gzip"}, BOMB),
    "brotli": ({"content-encoding": "br"}, b"{}"),
    "large": ({}, bytes(MAX_ANSWER + 1)),
    "another token": ({}, b'{"spec":{"token":"another"}}'),
    "empty": ({}, b""),
    "deep": ({}, b"[" * 60_000),
    "no UTF-8": ({}, b"\xff"),
    "odd token": ({}, b'{"spec":{"token":"\\ud800"}}'),
}


@pytest.mark.parametrize("kind", REFUSED)
async def test_an_answer_that_is_too_large_encoded_or_about_another_token_is_none(tmp_path: Path, kind: str) -> None:
    headers, body = REFUSED[kind]
    with pytest.raises(NotVerifiedError) as refused:
        await review(tmp_path, body, headers)
    assert refused.value.kind == "invalid"


@pytest.mark.parametrize(
    "body",
    [b"{}", b'{"spec":{}}', b'{"spec":{"token":"ours"}}', b'{"status":1}'],
)
async def test_an_answer_that_names_no_other_token_is_left_to_who_decides_by_it(tmp_path: Path, body: bytes) -> None:
    assert await review(tmp_path, body) == body


async def test_a_refusal_says_what_it_means_whatever_its_body(tmp_path: Path) -> None:
    for status, kind in ((401, "unauthorized"), (403, "forbidden"), (503, "unavailable"), (200, "invalid")):
        with pytest.raises(NotVerifiedError) as refused:
            await review(tmp_path, gzip.compress(BOMB), {"content-encoding": "gzip, gzip"}, status)
        assert refused.value.kind == kind


async def test_a_compressed_review_is_read(tmp_path: Path) -> None:
    body = msgspec.json.encode({"spec": {"token": "ours"}})
    assert await review(tmp_path, gzip.compress(body), {"content-encoding": "gzip"}) == body
