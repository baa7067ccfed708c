"""`/binance/{account}/dapi/v1/…`: for Binance's own clients, which change their base URL and API key, and nothing else.

The account by the gateway's token; ping, time and exchangeInfo for anybody, from what this process has. Nothing that a
caller sends reaches the exchange, and no caller of the public ones causes a call.
"""

import re
from typing import Any

import msgspec
from litestar import Controller, Response, get
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.params import FromPath

from service.account.selection import Selection, Shape
from service.exchange.address_budget import ADDRESS
from service.exchange.client import ExchangeClient
from service.exchange.errors import ExchangeUnavailableError
from service.web import parameters
from service.web.authentication import gateway_of
from service.web.binance_errors import MalformedKeyError
from service.web.operations import NO_STORE
from service.web.problems import AnyRequest, NotFoundError
from service.web.reads import JSON, READS, read_as

IGNORED = frozenset({"recvWindow", "signature", "timestamp"})
"""What clients add to a signed query: taken, whatever it is, and used for nothing."""

ACCOUNT = "[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,62}"
"""More than accounts are called: one that can't be there is answered like one that isn't."""
_PATH = re.compile(f"/binance/{ACCOUNT}/dapi/v1/[A-Za-z]+".encode())
"""As sent: escapes and empty segments are other paths, whatever the framework makes of them."""
_KEY = re.compile(r"[\x21-\x7e]{1,8192}")
_TAGS = ["drop-in"]


class _Time(msgspec.Struct, rename="camel", frozen=True):
    server_time: int


async def require_exact(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Nothing is here but what the exchange has: the framework would also answer OPTIONS, and `/ping/` like `/ping`.

    Raises:
        NotFoundError: another method, or another spelling of a path.
    """
    if connection.scope.get("method") != "GET" or not _PATH.fullmatch(connection.scope["raw_path"]):
        raise NotFoundError("there is no such path")


class DropIn(Controller):
    """The four paths."""

    path = "/binance/{account:str}/dapi/v1"
    guards = [require_exact]  # noqa: RUF012 - the framework's own form

    @get("/account", operation_id="binance_account", tags=_TAGS, opt={READS: Shape.ACCOUNT})
    async def get_account(self, request: AnyRequest, account: FromPath[str]) -> Response[bytes]:
        """One account, as the exchange would answer its own key.

        The whole answer byte for byte where the key's grant is unrestricted; else the documented members, `assets` and
        `positions` cut to what is granted.
        """
        answer = await read_as(_key(request), request, account, _whole)
        answer.headers["vary"] = "X-MBX-APIKEY"
        return answer

    @get("/exchangeInfo", operation_id="binance_exchange_info", tags=_TAGS)
    async def get_exchange_info(self, request: AnyRequest) -> Response[bytes]:
        """The exchange's contracts, as it sent them.

        From the copy that the gateway's replicas share, at most an hour old while the exchange answers; `Age` says how
        old. Its `serverTime` is as old.
        """
        public = _public(request).public
        if public.exchange_info is None:
            raise _not_yet(request, "exchangeInfo has not been read yet")
        told = {"age": str(public.exchange_info_age_ms // 1000), "gateway-environment": _environment(request)}
        return Response(public.exchange_info.body, media_type=JSON, headers=NO_STORE | told)

    @get("/ping", operation_id="binance_ping", tags=_TAGS)
    async def get_ping(self, request: AnyRequest) -> Response[bytes]:
        """The gateway answers. It says nothing of the exchange."""
        _ = _public(request)
        return Response(b"{}", media_type=JSON, headers=NO_STORE)

    @get("/time", operation_id="binance_time", tags=_TAGS)
    async def get_time(self, request: AnyRequest) -> Response[bytes]:
        """The exchange's time, by the gateway's measured clock."""
        clock = _public(request).clock
        if clock.offset is None:
            raise _not_yet(request, "the exchange's clock has not been measured yet")
        return Response(msgspec.json.encode(_Time(clock.now())), media_type=JSON, headers=NO_STORE)


def _key(request: AnyRequest) -> bytes:
    """The token, in the place of an API key."""
    given = request.headers.getall("x-mbx-apikey", [])
    if len(given) != 1 or "authorization" in request.headers or not _KEY.fullmatch(given[0]):
        raise MalformedKeyError("exactly one token is needed, in X-MBX-APIKEY")
    return given[0].encode()


def _whole(query: bytes) -> Selection:
    """All that the caller may see; the query selects nothing."""
    parameters.only(IGNORED, query)
    return Selection(Shape.ACCOUNT)


def _public(request: AnyRequest) -> ExchangeClient:
    """What answers anybody, from what is at hand."""
    parameters.only(IGNORED, request.scope["query_string"])
    return gateway_of(request).exchange


def _not_yet(request: AnyRequest, detail: str) -> ExchangeUnavailableError:
    """With the time before which it can't be asked for, if there is one."""
    exchange = gateway_of(request).exchange
    hold = exchange.egress.cooldown(ADDRESS)
    return ExchangeUnavailableError(detail, retry_at=hold.until if exchange.egress.held else None)


def _environment(request: AnyRequest) -> str:
    return gateway_of(request).settings.environment
