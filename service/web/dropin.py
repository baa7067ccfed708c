"""`/binance/{account}/dapi/v1/…`: the paths of the exchange that an existing client needs to read its account.

Such a client changes its base URL and its API key, nothing else. It signs as before, with whatever it has for a secret;
what it signs is ignored here, and nothing that it sends reaches the exchange.
"""

import re

import msgspec
from litestar import Controller, Response, get, route
from litestar.enums import HttpMethod
from litestar.params import FromPath

from service.account.selection import Selection, Shape
from service.exchange.errors import ExchangeUnavailableError
from service.web import parameters
from service.web.callers import gateway_of, identify
from service.web.dropin_errors import KeyFormatError
from service.web.problems import NO_STORE, AnyRequest, NotFoundError
from service.web.reading import JSON, READS, read_as

API_KEY = "x-mbx-apikey"
PATHS = ["/account", "/exchangeInfo", "/ping", "/time"]

_KEY = re.compile(r"[!-~]{1,8192}")
"""A token of ours has 53 characters, a ServiceAccount's some 1000."""
_OTHER_METHODS = [HttpMethod.POST, HttpMethod.PUT, HttpMethod.PATCH, HttpMethod.DELETE, HttpMethod.OPTIONS]


class DropIn(Controller):
    """Public paths are the same for any account's name: they tell nothing of accounts, that they exist included."""

    path = "/binance/{account:str}/dapi/v1"

    @get("/account", operation_id="dropin_account", tags=["drop-in"], opt={READS: Shape.ACCOUNT})
    async def get_account(self, request: AnyRequest, account: FromPath[str]) -> Response[bytes]:
        """The account as the exchange sends it, cut to your grant.

        Byte for byte what the exchange sent where you may see everything, else the same shape with both arrays cut.
        `timestamp`, `recvWindow` and `signature` are accepted and ignored; there are no filters. Freshness is asked
        for and told as on the paths under `/v1`.
        """
        client = await identify(request, _api_key(request))
        answer = await read_as(client, request, account, _whole)
        answer.headers["vary"] = "X-MBX-APIKEY"
        return answer

    @get("/exchangeInfo", operation_id="dropin_exchange_info", tags=["drop-in"])
    async def get_exchange_info(self, request: AnyRequest) -> Response[bytes]:
        """The exchange's contracts and limits, from a copy.

        The gateway's own copy, at most an hour or so old, byte for byte. No token is needed, and the exchange is not
        asked for it.
        """
        parameters.ignored(request.scope["query_string"])
        listing = gateway_of(request).exchange.listing
        if listing is None:
            raise ExchangeUnavailableError("exchangeInfo has not been read yet")
        return Response(listing.body, media_type=JSON, headers=NO_STORE)

    @get("/ping", operation_id="dropin_ping", tags=["drop-in"])
    async def ping(self, request: AnyRequest) -> Response[bytes]:
        """Nothing, to see that the gateway is there.

        `{}` says nothing of the exchange. No token is needed.
        """
        parameters.ignored(request.scope["query_string"])
        return Response(b"{}", media_type=JSON, headers=NO_STORE)

    @get("/time", operation_id="dropin_time", tags=["drop-in"])
    async def get_time(self, request: AnyRequest) -> Response[bytes]:
        """What time it is at the exchange.

        By the gateway's clock, which it has measured against the exchange's. No token is needed.
        """
        parameters.ignored(request.scope["query_string"])
        clock = gateway_of(request).exchange.clock
        if clock.offset is None:
            raise ExchangeUnavailableError("the exchange's clock has not been read yet")
        body = msgspec.json.encode({"serverTime": clock.now()})
        return Response(body, media_type=JSON, headers=NO_STORE)

    @route(PATHS, http_method=_OTHER_METHODS, include_in_schema=False)
    async def nothing_else(self) -> Response[bytes]:
        """What would write, and what the framework would answer by itself."""
        raise NotFoundError("these paths are read-only")


def _api_key(request: AnyRequest) -> bytes:
    """The one credential of a request.

    Raises:
        KeyFormatError: there is none, a second one beside it, or one that no token looks like.
    """
    given = request.headers.getall(API_KEY, [])
    if len(given) != 1 or "authorization" in request.headers or not _KEY.fullmatch(given[0]):
        raise KeyFormatError("expected the gateway's token in X-MBX-APIKEY, and no other credential")
    return given[0].encode()


def _whole(query: bytes) -> Selection:
    parameters.ignored(query)
    return Selection(Shape.ACCOUNT)
