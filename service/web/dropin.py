"""`/binance/{account}/dapi/…`: for Binance's own clients, which change their base URL and API key, and nothing else.

An account's documents need the gateway's token. Ping, time and exchangeInfo need none, and are answered from what this
process has. Nothing that a caller sends reaches the exchange, and no request of a public path causes a call.
"""

import re
from functools import partial
from typing import Any

import msgspec
from litestar import Controller, Response, Router, get
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler

from service.account.documents import DOCUMENTS, WHOLE, Document
from service.exchange.gate import ADDRESS
from service.exchange.public_api import PublicApi
from service.fleet.errors import ExchangeUnavailableError
from service.web import caching, parameters
from service.web.authentication import gateway_of
from service.web.binance_errors import MalformedKeyError
from service.web.compression import encoded
from service.web.openapi.operation import (
    BINANCE,
    BINANCE_PUBLIC,
    EVERYWHERE,
    OPERATION,
    SNAPSHOT,
    Json,
    Operation,
    array_of,
    ref,
)
from service.web.operations import NO_STORE
from service.web.problems import AnyRequest, NotFoundError
from service.web.reads import JSON, READS, read_as

IGNORED = ("timestamp", "recvWindow", "signature")
"""What clients add to a signed query: accepted with any value, and ignored."""

ACCOUNT_PATTERN = "[A-Za-z0-9_~-][A-Za-z0-9._~-]{0,62}"
"""Wider than the names of accounts: an impossible account is answered like a missing one."""
_PATH = re.compile(f"/binance/{ACCOUNT_PATTERN}/dapi/v[12]/[A-Za-z]+".encode())
"""Of the path as sent: the framework would also accept escapes and empty segments, which the exchange doesn't."""
_KEY = re.compile(r"[\x21-\x7e]{1,8192}")
_TAGS = ["drop-in"]
_PARAMETERS = {
    "account": {
        "name": "account",
        "in": "path",
        "required": True,
        "description": "The account's name; where no token is asked for, any.",
        "schema": {"type": "string", "pattern": f"^{ACCOUNT_PATTERN}$", "minLength": 1, "maxLength": 63},
        "example": "main",
    },
    **{name: ref(f"Binance_{name}", "parameters") for name in IGNORED},
}


def _without_token(answer: str, body: Json, headers: tuple[str, ...] = EVERYWHERE) -> dict[str, Any]:
    """The `opt` of a path that needs no token."""
    return {OPERATION: Operation(answer, body, BINANCE_PUBLIC, headers, parameters=_PARAMETERS, security=())}


class _Time(msgspec.Struct, rename="camel", frozen=True):
    server_time: int


async def require_exact(connection: ASGIConnection[Any, Any, Any, Any], _: BaseRouteHandler) -> None:
    """Return for what the exchange has too: the framework would also answer OPTIONS, and `/ping/` like `/ping`.

    Raises:
        NotFoundError: another method, or another spelling of a path.
    """
    if connection.scope.get("method") != "GET" or not _PATH.fullmatch(connection.scope["raw_path"]):
        raise NotFoundError("there is no such path")


def _reading(document: Document) -> HTTPRouteHandler:
    """The handler of a document, as the exchange would answer its own key."""
    shape = WHOLE[document]
    body = array_of(shape.kinds[0].name) if shape.resource else ref("Account")
    mode = ("Gateway-Position-Mode",) if shape.has_sides else ()
    own = {name: ref(f"Binance_{name}", "parameters") for name in document.parameters}

    @get(
        document.path,
        operation_id=f"binance_{document.name.replace('-', '_')}",
        tags=_TAGS,
        opt={
            READS: shape,
            OPERATION: Operation(
                "As the exchange sent it, cut by grant.",
                body,
                BINANCE,
                (*(name for name in SNAPSHOT if name != "Vary"), *mode, "VaryByKey"),
                parameters=_PARAMETERS | own,
                security=("key",),
            ),
        },
    )
    async def answer(request: AnyRequest) -> Response[bytes]:
        keys = request.headers.getall("x-mbx-apikey", [])
        if len(keys) != 1 or "authorization" in request.headers or not _KEY.fullmatch(keys[0]):
            raise MalformedKeyError("exactly one token is needed, in X-MBX-APIKEY")
        select = partial(parameters.as_the_exchange, document, IGNORED)
        answer = await read_as(keys[0].encode(), request, request.path_params["account"], select)
        answer.headers["vary"] = answer.headers["vary"].replace("Authorization", "X-MBX-APIKEY")  # the token is there
        return answer

    return answer


class _Public(Controller):
    """What needs no token."""

    path = "/dapi/v1"

    @get(
        "/exchangeInfo",
        operation_id="binance_exchange_info",
        tags=_TAGS,
        opt=_without_token(
            "The exchange's answer, as it sent it.",
            ref("ExchangeInfo"),
            (*EVERYWHERE, "Age", "Gateway-Environment", "Content-Encoding"),
        ),
    )
    async def get_exchange_info(self, request: AnyRequest) -> Response[bytes]:
        """The exchange's contracts, as it sent them.

        From the copy that the gateway's replicas share, at most an hour old while the exchange answers; `Age` says how
        old. Its `serverTime` is as old.
        """
        public = _public(request)
        if public.exchange_info is None:
            raise _not_yet(request, "exchangeInfo has not been read yet")
        environment = gateway_of(request).config.settings.environment
        body, encoding = await encoded(public.exchange_info.body, caching.accepted_codings(request.headers))
        headers = NO_STORE | {"age": str(public.exchange_info_age_ms // 1000), "gateway-environment": environment}
        return Response(body, media_type=JSON, headers=headers | encoding)

    @get("/ping", operation_id="binance_ping", tags=_TAGS, opt=_without_token("Alive.", ref("Empty")))
    async def get_ping(self, request: AnyRequest) -> Response[bytes]:
        """The gateway answers. It says nothing of the exchange."""
        _ = _public(request)
        return Response(b"{}", media_type=JSON, headers=NO_STORE)

    @get(
        "/time",
        operation_id="binance_time",
        tags=_TAGS,
        opt=_without_token("What time it is there.", ref("ServerTime")),
    )
    async def get_time(self, request: AnyRequest) -> Response[bytes]:
        """The exchange's time, by the gateway's measured clock."""
        clock = _public(request).clock
        if clock.offset is None:
            raise _not_yet(request, "the exchange's clock has not been measured yet")
        return Response(msgspec.json.encode(_Time(clock.now())), media_type=JSON, headers=NO_STORE)


def _public(request: AnyRequest) -> PublicApi:
    """The part of the gateway that answers the public paths, from memory."""
    parameters.accept_only(IGNORED, request.scope["query_string"])
    return gateway_of(request).exchange


def _not_yet(request: AnyRequest, detail: str) -> ExchangeUnavailableError:
    """The error for what was not fetched yet; while our address is in a cooldown it says until when."""
    address = gateway_of(request).exchange.address
    return ExchangeUnavailableError(detail, retry_at=address.cooldown(ADDRESS).until if address.in_cooldown else None)


DROP_IN = Router("/binance/{account:str}", route_handlers=[_Public, *map(_reading, DOCUMENTS)], guards=[require_exact])
