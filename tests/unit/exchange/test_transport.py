import asyncio
import gzip
import inspect
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable

import httpx
import pytest

from service.account.parsing import MAX_BODY
from service.exchange.responses import MAX_ERROR_BODY, Answer
from service.exchange.transport import FAILURES, fetch, open_client, translate
from service.fleet.errors import (
    ExchangeAnswerInvalidError,
    ExchangeError,
    ExchangeTimeoutError,
    ExchangeUnavailableError,
)
from service.settings import Duration, Exchange

Handler = Callable[[httpx.Request], httpx.Response]

HTTPX_ERRORS = [each for each in vars(httpx).values() if inspect.isclass(each) and issubclass(each, Exception)]


async def ask(handler: Handler, query: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
    async with open_client(Exchange(base_url="https://exchange.test"), Wire(handler)) as client:
        return await fetch(client, "/dapi/v1/account", query, headers or {})


class Wire(httpx.MockTransport):
    """Bodies come as they do from a socket: unread."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await super().handle_async_request(request)
        if not response.is_stream_consumed:
            return response
        return httpx.Response(response.status_code, headers=response.headers, stream=_Once(response.content))


@pytest.mark.parametrize("error", HTTPX_ERRORS)
def test_every_exception_of_httpx_has_a_meaning(error: type[Exception]) -> None:
    assert error in FAILURES


@pytest.mark.parametrize(
    ("error", "expected", "detail", "transient"),
    [
        (httpx.ConnectTimeout, ExchangeTimeoutError, "no connection to the exchange in time", False),
        (httpx.ReadTimeout, ExchangeTimeoutError, "the exchange did not answer in time", False),
        (httpx.ConnectError, ExchangeUnavailableError, "no connection to the exchange", True),
        (httpx.ReadError, ExchangeUnavailableError, "the connection to the exchange broke", True),
        (httpx.DecodingError, ExchangeAnswerInvalidError, "the exchange's answer cannot be decompressed", False),
        (httpx.TransportError, ExchangeUnavailableError, "the connection to the exchange broke", False),
    ],
)
def test_the_most_specific_meaning_is_taken(
    error: type[httpx.RequestError], expected: type[ExchangeError], detail: str, *, transient: bool
) -> None:
    told = translate(error("canary"))
    assert (type(told), told.transient) == (expected, transient)
    assert told.detail == f"{detail} ({error.__name__})"


def test_a_class_that_a_later_httpx_adds_has_its_bases_meaning() -> None:
    class QuicTimeout(httpx.TimeoutException):
        pass

    assert isinstance(translate(QuicTimeout("x")), ExchangeTimeoutError)


@pytest.mark.parametrize("error", [each for each in HTTPX_ERRORS if issubclass(each, httpx.RequestError)])
async def test_the_foreign_text_goes_no_further(error: type[httpx.RequestError]) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise error("canary ?signature=canary", request=request)

    with pytest.raises(ExchangeError) as told:
        await ask(fail)
    assert "canary" not in f"{told.value} {told.value.detail} {told.value.title}"
    assert told.value.__suppress_context__


async def test_the_query_is_sent_byte_for_byte_after_a_constant_path() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.method == "GET"
        return httpx.Response(200, content=request.url.raw_path)

    assert (await ask(answer, b"timestamp=1&signature=a%2Fb%2B%3D")).body == (
        b"/dapi/v1/account?timestamp=1&signature=a%2Fb%2B%3D"
    )
    assert (await ask(answer)).body == b"/dapi/v1/account"


async def test_an_answer_has_lower_case_header_names_and_its_status() -> None:
    answer = await ask(lambda _: httpx.Response(418, headers={"X-MBX-USED-WEIGHT-1M": "7"}, content=b"no"))
    assert (answer.status, answer.headers["x-mbx-used-weight-1m"], answer.body) == (418, "7", b"no")


async def test_a_redirect_is_not_followed_for_it_would_carry_the_key() -> None:
    asked: list[str] = []

    def redirect(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(301, headers={"location": "https://elsewhere.test/"})

    assert (await ask(redirect, headers={"x-mbx-apikey": "key"})).status == 301
    assert asked == ["exchange.test"]


async def test_a_cookie_is_neither_kept_nor_sent() -> None:
    sent: list[str | None] = []

    def bake(request: httpx.Request) -> httpx.Response:
        sent.append(request.headers.get("cookie"))
        return httpx.Response(200, headers={"set-cookie": "a=1; Path=/"})

    async with open_client(Exchange(base_url="https://exchange.test"), Wire(bake)) as client:
        for _ in range(2):
            await fetch(client, "/dapi/v1/time", b"", {})
    assert sent == [None, None]


async def test_a_body_of_four_mebibytes_is_read_and_one_byte_more_is_not() -> None:
    assert len((await ask(lambda _: httpx.Response(200, content=bytes(MAX_BODY)))).body) == MAX_BODY
    with pytest.raises(ExchangeAnswerInvalidError, match="larger than 4 MiB"):
        await ask(lambda _: httpx.Response(200, content=bytes(MAX_BODY + 1)))


async def test_reading_stops_at_the_bound_of_an_endless_answer() -> None:
    read = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield bytes(1024 * 1024)

    with pytest.raises(ExchangeAnswerInvalidError):
        await ask(lambda _: httpx.Response(200, content=endless()))
    assert read == 5


async def test_a_damaged_compression_is_an_invalid_answer() -> None:
    damaged = zlib.compress(b"x" * 100)[:-4] + b"????"
    with pytest.raises(ExchangeAnswerInvalidError, match="cannot be decompressed"):
        await ask(lambda _: httpx.Response(200, headers={"content-encoding": "deflate"}, stream=_Once(damaged)))


class _Once(httpx.AsyncByteStream):
    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._content


class Streamed(httpx.AsyncByteStream):
    """A body that comes in these parts, and then breaks or never ends."""

    def __init__(self, *parts: bytes, error: type[httpx.RequestError] | None) -> None:
        self._parts = parts
        self._error = error
        self.begun = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        self.begun.set()
        for part in self._parts:
            yield part
        if self._error is not None:
            raise self._error("canary")
        await asyncio.Event().wait()


BAN = b'{"code":-1003,"msg":"banned until 1790000000000."'
BROKEN: dict[str, Callable[[], tuple[Streamed, dict[str, str]]]] = {
    "undecodable": lambda: (Streamed(b"no gzip", error=None), {"content-encoding": "gzip"}),
    "cut off": lambda: (Streamed(BAN, error=httpx.ReadError), {}),
    "never ending": lambda: (Streamed(BAN, error=None), {}),
    "endless": lambda: (Streamed(*[BAN * 2_000] * 70, error=None), {}),
    "never there": lambda: (Streamed(error=None), {}),
}


@pytest.mark.parametrize("status", [403, 418, 429])
@pytest.mark.parametrize("kind", BROKEN)
async def test_a_refusal_is_told_whatever_becomes_of_its_body(status: int, kind: str) -> None:
    stream, headers = BROKEN[kind]()
    answer = await ask(lambda _: httpx.Response(status, headers={"retry-after": "7"} | headers, stream=stream))
    assert (answer.status, answer.headers["retry-after"]) == (status, "7")
    assert answer.body.startswith(BAN if kind in ("cut off", "never ending", "endless") else b"")


async def test_a_deadline_that_comes_between_a_refusal_and_its_body_does_not_lose_it() -> None:
    body = Streamed(error=None)
    request = asyncio.create_task(ask(lambda _: httpx.Response(429, stream=body)))
    await body.begun.wait()
    request.cancel()
    assert (await request).status == 429


async def test_any_other_answer_is_lost_with_its_body() -> None:
    with pytest.raises(ExchangeUnavailableError):
        await ask(lambda _: httpx.Response(200, stream=Streamed(b"{", error=httpx.ReadError)))


BOMB = gzip.compress(bytes(64 * 1024 * 1024))
ENCODED = {
    "twice": ({"content-encoding": "gzip, gzip"}, gzip.compress(BOMB)),
    "inflates": ({"content-encoding": "gzip"}, BOMB),
    "brotli": ({"content-encoding": "br"}, b"x"),
    "damaged": ({"content-encoding": "gzip"}, b"x"),
}


@pytest.mark.parametrize("kind", ENCODED)
async def test_a_success_that_is_encoded_in_a_way_that_is_not_accepted_is_an_invalid_answer(kind: str) -> None:
    headers, body = ENCODED[kind]
    with pytest.raises(ExchangeAnswerInvalidError):
        await ask(lambda _: httpx.Response(200, headers=headers, stream=_Once(body)))


@pytest.mark.parametrize("status", [202, 301, 401, 403, 404, 418, 429, 451, 500, 503])
@pytest.mark.parametrize("kind", ENCODED)
async def test_a_refusal_keeps_its_meaning_whatever_its_body_is_encoded_in(status: int, kind: str) -> None:
    headers, body = ENCODED[kind]
    tracemalloc.start()
    answer = await ask(lambda _: httpx.Response(status, headers=headers, stream=_Once(body)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (answer.status, len(answer.body) <= 2 * MAX_ERROR_BODY, peak < 1024 * 1024) == (status, True, True)


@pytest.mark.parametrize("headers", [{"retry-after": "60"}, {"x-amzn-waf-action": "challenge"}])
async def test_a_refusal_that_binds_by_its_headers_is_told_although_its_body_never_comes(
    headers: dict[str, str],
) -> None:
    answer = await ask(lambda _: httpx.Response(503, headers=headers, stream=Streamed(error=None)))
    assert (answer.status, answer.body) == (503, b"")


@pytest.mark.parametrize("status", [200, 404])
async def test_an_answer_that_drips_for_ever_is_given_up_in_time(status: int) -> None:
    async def drip() -> AsyncIterator[bytes]:
        while True:
            await asyncio.sleep(0.02)
            yield b"x"

    settings = Exchange(base_url="https://exchange.test", timeout=Duration(100))
    async with open_client(settings, Wire(lambda _: httpx.Response(status, content=drip()))) as client:
        with pytest.raises(ExchangeTimeoutError):
            await fetch(client, "/dapi/v1/time", b"", {})
