"""The one place where httpx acts: a request for bytes, an answer in bytes, foreign errors translated.

Messages of httpx and what lies below may quote URLs and header values, so only the error's class is kept.
"""

import asyncio
import contextlib
from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpx

from service.account.snapshot import MAX_BODY
from service.exchange.answers import Answer
from service.exchange.errors import (
    ExchangeAnswerInvalidError,
    ExchangeError,
    ExchangeRefusedError,
    ExchangeTimeoutError,
    ExchangeUnavailableError,
)
from service.settings import Exchange

REFUSALS = frozenset({403, 418, 429})
"""Statuses after which nothing may be sent for a while."""
REFUSAL_PATIENCE = 0.2
"""Seconds for the body of one: it may say until when."""

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


_UNREADABLE: tuple[type[BaseException], ...] = (*FAILURES, ExchangeError, TimeoutError, asyncio.CancelledError)


def translate(exc: Exception) -> ExchangeError:
    """Our error for one of httpx's, by its most specific class in `FAILURES`."""
    known = next(kind for kind in type(exc).__mro__ if kind in FAILURES)
    error, detail, transient = FAILURES[known]
    return error(f"{detail} ({type(exc).__name__})", transient=transient)


def open_client(
    settings: Exchange, transport: httpx.AsyncBaseTransport | None, base_url: str | None = None
) -> httpx.AsyncClient:
    """A client of the exchange, or of another host of its.

    No proxies or netrc from the environment, no redirects: they would carry the key elsewhere.
    """
    return httpx.AsyncClient(
        base_url=base_url or settings.base_url,
        transport=transport,
        trust_env=False,
        follow_redirects=False,
        timeout=settings.timeout.seconds,
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # none is kept, none is sent
        headers={"user-agent": "coinm-account-gateway", "accept": "application/json"},
    )


async def fetch(client: httpx.AsyncClient, path: str, query: bytes, headers: Mapping[str, str]) -> Answer:
    """One GET; `path` is a constant of ours, `query` is sent as it is.

    Raises:
        ExchangeError: no whole answer came, or one over `MAX_BODY`.
    """
    target = path.encode() + (b"?" + query if query else b"")
    url = client.base_url.copy_with(raw_path=target)
    try:
        async with client.stream("GET", url, headers=dict(headers)) as response:
            names = {name.lower(): value for name, value in response.headers.items()}
            refused = response.status_code in REFUSALS
            body = await (_read_if_possible(response) if refused else _read(response))
            return Answer(response.status_code, names, body)
    except tuple(FAILURES) as exc:
        raise translate(exc) from None


async def _read_if_possible(response: httpx.Response) -> bytes:
    """What there is of a refusal's body: its status binds us whatever becomes of that, and it may say until when.

    So neither a broken body nor a deadline, which would cancel this, may lose it.
    """
    body = bytearray()
    with contextlib.suppress(*_UNREADABLE):
        async with asyncio.timeout(REFUSAL_PATIENCE):
            await _fill(body, response)
    return bytes(body)


async def _read(response: httpx.Response) -> bytes:
    body = bytearray()
    await _fill(body, response)
    return bytes(body)


async def _fill(body: bytearray, response: httpx.Response) -> None:
    """Read the body, decompressed; stops at the bound, so that a bomb costs no memory."""
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_BODY:
            raise ExchangeAnswerInvalidError(
                "the exchange's answer is larger than 4 MiB", answered=response.status_code
            )
