"""The one place where httpx acts: a request for bytes, an answer in bytes, foreign errors translated.

Messages of httpx and what lies below may quote URLs and header values, so only the error's class is kept.
"""

import asyncio
import contextlib
import functools
import ssl
from collections.abc import Mapping

import httpx

from service import bounded_http
from service.account.snapshot import MAX_BODY
from service.bounded_http import BodyEncodingError, BodyError, BodyTooLargeError
from service.exchange import answers
from service.exchange.answers import MAX_ERROR_BODY, Answer
from service.exchange.errors import (
    ExchangeAnswerInvalidError,
    ExchangeError,
    ExchangeRefusedError,
    ExchangeTimeoutError,
    ExchangeUnavailableError,
)
from service.settings import Exchange

CONNECTIONS = 2
"""Open to the exchange at a time, for each credential and for what is unsigned: a refresh, and a proof or a probe."""
REFUSAL_PATIENCE = 0.2
"""Seconds for the body of a refusal that binds: it may say until when."""

_UNREACHED = "no connection to the exchange"
_BROKEN = "the connection to the exchange broke"

FAILURES: Mapping[type[Exception], tuple[type[ExchangeError], str, bool]] = {
    # Bases, for classes that a later httpx adds.
    httpx.HTTPError: (ExchangeUnavailableError, _BROKEN, False),
    httpx.RequestError: (ExchangeUnavailableError, _BROKEN, False),
    httpx.TransportError: (ExchangeUnavailableError, _BROKEN, False),
    # Nothing reached the exchange, or the connection died: another try is harmless and may help.
    httpx.NetworkError: (ExchangeUnavailableError, _BROKEN, True),
    httpx.ConnectError: (ExchangeUnavailableError, _UNREACHED, True),
    httpx.ReadError: (ExchangeUnavailableError, _BROKEN, True),
    httpx.WriteError: (ExchangeUnavailableError, _BROKEN, True),
    httpx.CloseError: (ExchangeUnavailableError, _BROKEN, True),
    httpx.ProtocolError: (ExchangeUnavailableError, _BROKEN, True),
    httpx.RemoteProtocolError: (ExchangeUnavailableError, _BROKEN, True),
    # Time is up: the refresh's own deadline leaves nothing for another try.
    httpx.TimeoutException: (ExchangeTimeoutError, "the exchange did not answer in time", False),
    httpx.ConnectTimeout: (ExchangeTimeoutError, "no connection to the exchange in time", False),
    httpx.ReadTimeout: (ExchangeTimeoutError, "the exchange did not answer in time", False),
    httpx.WriteTimeout: (ExchangeTimeoutError, "the exchange did not take the request in time", False),
    httpx.PoolTimeout: (ExchangeTimeoutError, "no free connection to the exchange in time", False),
    # Bytes that are not what their headers say.
    httpx.DecodingError: (ExchangeAnswerInvalidError, "the exchange's answer cannot be decompressed", False),
    # Ours to mend; nothing was sent.
    httpx.LocalProtocolError: (ExchangeUnavailableError, "the request could not be sent", False),
    httpx.ProxyError: (ExchangeUnavailableError, _UNREACHED, False),
    httpx.UnsupportedProtocol: (ExchangeUnavailableError, _UNREACHED, False),
    # Never raised here (redirects are not followed, statuses not raised, streams read once): named to be total.
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


_UNREADABLE: tuple[type[BaseException], ...] = (*FAILURES, BodyError, TimeoutError, asyncio.CancelledError)


def translate(exc: Exception) -> ExchangeError:
    """Our error for one of httpx's, by its most specific class in `FAILURES`."""
    known = next(kind for kind in type(exc).__mro__ if kind in FAILURES)
    error, detail, transient = FAILURES[known]
    return error(f"{detail} ({type(exc).__name__})", transient=transient)


@functools.cache
def _trust() -> ssl.SSLContext:
    """The public CAs, read once: it takes 20 ms and there is a client for each credential."""
    return httpx.create_ssl_context(trust_env=False)


def open_client(
    settings: Exchange, transport: httpx.AsyncBaseTransport | None, base_url: str | None = None
) -> httpx.AsyncClient:
    """A client of the exchange, or of another host of its; each credential has one of its own (`bounded_http`)."""
    return bounded_http.open_client(
        base_url or settings.base_url,
        transport=transport,
        trust=_trust() if transport is None else None,
        timeout=httpx.Timeout(settings.timeout.seconds),
        connections=CONNECTIONS,
        headers={},
    )


async def fetch(client: httpx.AsyncClient, path: str, query: bytes, headers: Mapping[str, str]) -> Answer:
    """One GET, within the client's timeout as a whole; `path` is a constant of ours, `query` is sent as it is.

    Raises:
        ExchangeError: no whole answer came, or one that is over `MAX_BODY` or encoded in a way that isn't accepted.
    """
    target = path.encode() + (b"?" + query if query else b"")
    url = client.base_url.copy_with(raw_path=target)
    try:
        # Steps have the same limit each, so that without this a host could send a byte every few seconds for ever.
        async with (
            asyncio.timeout(client.timeout.read),
            client.stream("GET", url, headers=dict(headers)) as response,
        ):
            names = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status_code, names, await _read(response, names))
    except TimeoutError:
        raise ExchangeTimeoutError("the exchange did not answer in time") from None
    except tuple(FAILURES) as exc:
        raise translate(exc) from None


async def _read(response: httpx.Response, headers: Mapping[str, str]) -> bytes:
    """The body: whole for a success; what there is of it for a refusal, whose status says what it means.

    One that binds us does so whatever becomes of its body. So neither a broken body nor a deadline, which would cancel
    this, may lose it.
    """
    body = bytearray()
    if answers.binds(response.status_code, headers):
        with contextlib.suppress(*_UNREADABLE):
            async with asyncio.timeout(REFUSAL_PATIENCE):
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
