"""The only module of this package that knows httpx: sends a request, returns the answer in bytes, translates errors.

Messages of httpx and the libraries below it may quote URLs and header values, so only the error's class is kept.
"""

# What a call may end in, and what must hold for each:
# - a success: the whole body, at most `MAX_BODY`, or an error. A part of a document is never returned.
# - a refusal that binds (`responses.binds`: 403, 418, 429, `Retry-After`, a challenge): always an `Answer`. Status and
#   headers alone forbid further calls, so a broken or slow body or a cancelled task must not lose them. The body may
#   only add until when, and gets 200 ms for that.
# - any other refusal: an `Answer` with as much of the body as is readable, up to 64 KiB, if the connection holds.
# - no answer: one of our errors, by `FAILURES`. `transient` marks those after which a retry may help.
#
# Deadlines: httpx limits each step (connect, write, every read) alone, so a host that sends a byte every few seconds
# would hold a call for ever. One `asyncio.timeout` bounds the whole call; the refresh's own deadline bounds retries.

import asyncio
import contextlib
import functools
import ssl
from collections.abc import Mapping
from typing import TypeAlias

import httpx

from service.account.documents import DOCUMENTS
from service.account.parsing import MAX_BODY
from service.bounded_http import client as bounded_http
from service.bounded_http.client import BodyEncodingError, BodyError, BodyTooLargeError
from service.exchange import responses
from service.exchange.responses import MAX_ERROR_BODY, Answer
from service.fleet.errors import (
    ExchangeAnswerInvalidError,
    ExchangeError,
    ExchangeRefusedError,
    ExchangeTimeoutError,
    ExchangeUnavailableError,
)
from service.settings import Exchange

HttpClient: TypeAlias = bounded_http.Client

CONNECTIONS = len(DOCUMENTS) + 1
"""Per credential, and for unsigned calls. Each document's refresh has one, so that none waits for another's slow answer
(it would fail by its own deadline, unsent), and a rotation's proof or a probe beside them."""
REFUSAL_BODY_TIMEOUT_S = 0.2  # for the body of a refusal that binds

_UNREACHED = "no connection to the exchange"
_BROKEN = "the connection to the exchange broke"

FAILURES: Mapping[type[Exception], tuple[type[ExchangeError], str, bool]] = {
    # Base classes, to cover subclasses that a later httpx adds.
    httpx.HTTPError: (ExchangeUnavailableError, _BROKEN, False),
    httpx.RequestError: (ExchangeUnavailableError, _BROKEN, False),
    httpx.TransportError: (ExchangeUnavailableError, _BROKEN, False),
    # Nothing reached the exchange, or the connection died: a retry is harmless and may help.
    httpx.NetworkError: (ExchangeUnavailableError, _BROKEN, True),
    httpx.ConnectError: (ExchangeUnavailableError, _UNREACHED, True),
    httpx.ReadError: (ExchangeUnavailableError, _BROKEN, True),
    httpx.WriteError: (ExchangeUnavailableError, _BROKEN, True),
    httpx.CloseError: (ExchangeUnavailableError, _BROKEN, True),
    httpx.ProtocolError: (ExchangeUnavailableError, _BROKEN, True),
    httpx.RemoteProtocolError: (ExchangeUnavailableError, _BROKEN, True),
    # Time is up: the refresh's own deadline leaves no time for a retry.
    httpx.TimeoutException: (ExchangeTimeoutError, "the exchange did not answer in time", False),
    httpx.ConnectTimeout: (ExchangeTimeoutError, "no connection to the exchange in time", False),
    httpx.ReadTimeout: (ExchangeTimeoutError, "the exchange did not answer in time", False),
    httpx.WriteTimeout: (ExchangeTimeoutError, "the exchange did not take the request in time", False),
    httpx.PoolTimeout: (ExchangeTimeoutError, "no free connection to the exchange in time", False),
    # Bytes that are not what their headers say.
    httpx.DecodingError: (ExchangeAnswerInvalidError, "the exchange's answer cannot be decompressed", False),
    # Ours to fix; nothing was sent.
    httpx.LocalProtocolError: (ExchangeUnavailableError, "the request could not be sent", False),
    httpx.ProxyError: (ExchangeUnavailableError, _UNREACHED, False),
    httpx.UnsupportedProtocol: (ExchangeUnavailableError, _UNREACHED, False),
    # Never raised here (redirects are not followed, statuses not raised, streams read once); listed to be complete.
    httpx.TooManyRedirects: (ExchangeRefusedError, "the exchange redirects", False),
    httpx.HTTPStatusError: (ExchangeRefusedError, "the exchange refused the request", False),
    httpx.InvalidURL: (ExchangeRefusedError, "the exchange's address is not a URL", False),
    httpx.CookieConflict: (ExchangeRefusedError, "the exchange's cookies clash", False),
    httpx.StreamError: (ExchangeUnavailableError, _BROKEN, False),
    httpx.StreamConsumed: (ExchangeUnavailableError, _BROKEN, False),
    httpx.StreamClosed: (ExchangeUnavailableError, _BROKEN, False),
    httpx.ResponseNotRead: (ExchangeUnavailableError, _BROKEN, False),
    httpx.RequestNotRead: (ExchangeUnavailableError, _BROKEN, False),
}

# Whatever can end the reading of a body, cancellation included.
_UNREADABLE: tuple[type[BaseException], ...] = (*FAILURES, BodyError, TimeoutError, asyncio.CancelledError)


def translate(exc: Exception) -> ExchangeError:
    """Our error for one of httpx's, by its most specific class in `FAILURES`."""
    listed_class = next(each for each in type(exc).__mro__ if each in FAILURES)
    error, detail, transient = FAILURES[listed_class]
    return error(f"{detail} ({type(exc).__name__})", transient=transient)


@functools.cache
def _trust() -> ssl.SSLContext:
    """The public CAs, read once: reading them takes 20 ms, and each credential has a client."""
    return httpx.create_ssl_context(trust_env=False)


def open_client(
    settings: Exchange, transport: httpx.AsyncBaseTransport | None, base_url: str | None = None
) -> HttpClient:
    """A client of the exchange, or of another host of it; each credential has its own (reason: `bounded_http`)."""
    return bounded_http.open_client(
        base_url or settings.base_url,
        transport=transport,
        trust=_trust() if transport is None else None,
        timeout=httpx.Timeout(settings.timeout.seconds),
        connections=CONNECTIONS,
        headers={},
    )


async def fetch(client: HttpClient, path: str, query: bytes, headers: Mapping[str, str]) -> Answer:
    """One GET, within the client's timeout as a whole; `path` is a constant of ours, `query` is sent as it is.

    Raises:
        ExchangeError: no whole answer came, or one that exceeds `MAX_BODY` or has an encoding that isn't accepted.
    """
    target = path.encode() + (b"?" + query if query else b"")
    try:
        # httpx applies the same limit to each step; this one is for all of them together.
        async with (
            asyncio.timeout(client.timeout.read),
            client.stream("GET", target, headers) as response,
        ):
            names = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status_code, names, await _read(response, names))
    except TimeoutError:
        raise ExchangeTimeoutError("the exchange did not answer in time") from None
    except tuple(FAILURES) as exc:
        raise translate(exc) from None


async def _read(response: httpx.Response, headers: Mapping[str, str]) -> bytes:
    """The body: whole for a success; what is readable of it for a refusal, because the status already says enough."""
    body = bytearray()
    # `read_into` appends, so what has arrived before a failure stays in `body`.
    if responses.binds(response.status_code, headers):
        with contextlib.suppress(*_UNREADABLE):
            async with asyncio.timeout(REFUSAL_BODY_TIMEOUT_S):
                await bounded_http.read_into(body, response, MAX_ERROR_BODY)
    elif response.status_code != httpx.codes.OK:
        with contextlib.suppress(BodyError):
            await bounded_http.read_into(body, response, MAX_ERROR_BODY)
    else:
        try:
            await bounded_http.read_into(body, response, MAX_BODY)
        except BodyTooLargeError:
            raise ExchangeAnswerInvalidError("the exchange's answer is larger than 4 MiB", answered=200) from None
        except BodyEncodingError:
            raise ExchangeAnswerInvalidError("the exchange's answer cannot be decompressed", answered=200) from None
    return bytes(body)
