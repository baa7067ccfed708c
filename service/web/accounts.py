"""`/v1/accounts…`: which accounts a caller may see, and the views of each."""

from typing import Any

import msgspec
from litestar import Controller, Response, get
from litestar.params import FromPath

from service.account.selection import Selection, Shape
from service.web import parameters
from service.web.problems import AnyRequest
from service.web.reading import JSON, authenticate, gateway_of, read


class VisibleAccount(msgspec.Struct, rename="camel", frozen=True):
    """An account that the caller may see, with its grant; `null` is all."""

    account: str
    environment: str
    assets: list[str] | None
    position_sides: list[str] | None


class Accounts(Controller):
    """Reads. The handlers only say what is selected; `reading.read` is what happens."""

    path = "/v1/accounts"

    @get("/")
    async def list_accounts(self, request: AnyRequest) -> Response[bytes]:
        """The accounts the caller may see."""
        client, gateway = authenticate(request), gateway_of(request)
        parameters.no_filters(request.scope["query_string"])
        visible = [
            VisibleAccount(grant.account, gateway.settings.environment, _listed(grant.assets), _listed(grant.sides))
            for grant in gateway.clients.visible(client)
        ]
        return Response(msgspec.json.encode(visible), media_type=JSON, headers={"cache-control": "no-store"})

    @get("/{account:str}")
    async def get_account(self, request: AnyRequest, account: FromPath[str]) -> Response[bytes]:
        """The account object, both arrays cut by grant and filters: a consistent read of several in one."""
        return await read(request, account, lambda query: parameters.filtered(Shape.ACCOUNT, query))

    @get("/{account:str}/assets")
    async def list_assets(self, request: AnyRequest, account: FromPath[str]) -> Response[bytes]:
        """Asset rows."""
        return await read(request, account, lambda query: parameters.filtered(Shape.ASSETS, query))

    @get("/{account:str}/assets/{asset:str}")
    async def get_asset(self, request: AnyRequest, account: FromPath[str], asset: FromPath[str]) -> Response[bytes]:
        """One asset row."""
        return await read(request, account, lambda query: _item(query, Shape.ASSET, asset=asset))

    @get("/{account:str}/positions")
    async def list_positions(self, request: AnyRequest, account: FromPath[str]) -> Response[bytes]:
        """Position rows."""
        return await read(request, account, lambda query: parameters.filtered(Shape.POSITIONS, query))

    @get("/{account:str}/positions/{symbol:str}")
    async def list_symbol_positions(
        self, request: AnyRequest, account: FromPath[str], symbol: FromPath[str]
    ) -> Response[bytes]:
        """One symbol's rows: one in one-way mode, three in hedge mode."""
        return await read(request, account, lambda query: _item(query, Shape.SYMBOL, symbol=symbol))

    @get("/{account:str}/positions/{symbol:str}/{position_side:str}")
    async def get_position(
        self, request: AnyRequest, account: FromPath[str], symbol: FromPath[str], position_side: FromPath[str]
    ) -> Response[bytes]:
        """One position row."""
        names = {"symbol": symbol, "positionSide": position_side}
        return await read(request, account, lambda query: _item(query, Shape.POSITION, **names))


def _item(query: bytes, shape: Shape, **names: str) -> Selection:
    """The selection of an item path: names from the path, and no filters."""
    parameters.no_filters(query)
    fields = {"asset": "assets", "symbol": "symbols", "positionSide": "sides"}
    given: dict[str, Any] = {fields[name]: parameters.path_value(name, value) for name, value in names.items()}
    return Selection(shape, **given)


def _listed(names: frozenset[str] | None) -> list[str] | None:
    return None if names is None else sorted(names)
