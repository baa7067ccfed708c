"""`/v1/accounts…`: which accounts a caller may see, and the views of each."""

from typing import Annotated, Any

import msgspec
from litestar import Controller, Response, get
from litestar.params import FromPath
from msgspec import Meta

from service.account.selection import Selection, Shape
from service.web import caching, parameters
from service.web.authentication import authenticate, gateway_of
from service.web.compression import encoded
from service.web.openapi.operation import CALLER, LIMITED, OPERATION, READING, SNAPSHOT, Json, Operation, array_of, ref
from service.web.problems import AnyRequest
from service.web.reads import JSON, LISTS_ACCOUNTS, READS, read


class VisibleAccount(msgspec.Struct, rename="camel", frozen=True):
    """An account that the caller may see, with its grant; `null` is all."""

    account: Annotated[str, Meta(description="The name to use in paths.")]
    environment: Annotated[str, Meta(description="Which environment its data is of.")]
    assets: Annotated[list[str] | None, Meta(description="Coins you see, and positions margined in them; null: all.")]
    position_sides: Annotated[
        list[str] | None,
        Meta(description="Sides of positions you see; null: all. Without `BOTH`, one-way accounts show none."),
    ]


def _reads(shape: Shape, answer: str, body: Json, *, missing: str) -> dict[str, Any]:
    """The `opt` of a read: what it reads, and the document's part; `missing` is its 404."""
    mode = () if shape in (Shape.ASSETS, Shape.ASSET) else ("Gateway-Position-Mode",)
    filters = parameters.FILTERS.get(shape, {})
    return {
        READS: shape,
        OPERATION: Operation(answer, body, (*READING, missing), headers=(*SNAPSHOT, *mode), filters=filters),
    }


class Accounts(Controller):
    """Reads. A handler only turns path and query into a selection; `reads.read` does the rest.

    The docstrings of handlers are the summaries and descriptions of the OpenAPI document.
    """

    path = "/v1/accounts"

    @get(
        "/",
        operation_id="list_accounts",
        tags=["accounts"],
        opt={
            LISTS_ACCOUNTS: "accounts",
            OPERATION: Operation(
                "An account a row.",
                list[VisibleAccount],
                (*CALLER, "AuditUnavailable"),
                headers=(*LIMITED, "Content-Encoding"),
            ),
        },
    )
    async def list_accounts(self, request: AnyRequest) -> Response[bytes]:
        """The accounts the caller may see, with the grant.

        `null` stands for all. What isn't listed here answers 403, whether or not it exists.
        """
        client, gateway = await authenticate(request), gateway_of(request)
        parameters.no_filters(request.scope["query_string"])
        visible = [
            VisibleAccount(
                grant.account, gateway.config.settings.environment, _listed(grant.assets), _listed(grant.sides)
            )
            for grant in client.grants.values()
        ]
        accepted = caching.header_lines(request.headers, "Accept-Encoding")
        body, encoding = await encoded(msgspec.json.encode(visible), accepted)
        return Response(body, media_type=JSON, headers={"cache-control": "no-store"} | encoding)

    @get(
        "/{account:str}",
        operation_id="get_account",
        tags=["accounts"],
        opt=_reads(
            Shape.ACCOUNT, "The account, cut by grant and filters.", ref("Account"), missing="UnknownNameInFilter"
        ),
    )
    async def get_account(self, request: AnyRequest, account: FromPath[str]) -> Response[bytes]:
        """One account, its assets and positions cut by grant and filters.

        A consistent read of both in one call: all rows are of one snapshot. Filters combine with AND; `symbol`,
        `positionSide` and `open` leave `assets` alone, `nonzero` leaves `positions` alone. With a grant that isn't on
        all assets and all sides, members that the exchange doesn't document are left out.
        """
        return await read(request, account, lambda query: parameters.filtered(Shape.ACCOUNT, query))

    @get(
        "/{account:str}/assets",
        operation_id="list_assets",
        tags=["assets"],
        opt=_reads(
            Shape.ASSETS, "A row a coin, in the exchange's order.", array_of("Asset"), missing="UnknownAssetInFilter"
        ),
    )
    async def list_assets(self, request: AnyRequest, account: FromPath[str]) -> Response[bytes]:
        """Balances and margins, a row a coin.

        Rows outside the grant are left out. A coin that only the exchange knows filters to an empty list.
        """
        return await read(request, account, lambda query: parameters.filtered(Shape.ASSETS, query))

    @get(
        "/{account:str}/assets/{asset:str}",
        operation_id="get_asset",
        tags=["assets"],
        opt=_reads(Shape.ASSET, "The coin's row.", ref("Asset"), missing="UnknownAsset"),
    )
    async def get_asset(self, request: AnyRequest, account: FromPath[str], asset: FromPath[str]) -> Response[bytes]:
        """One coin's balances and margins.

        404 where the account doesn't have the coin, 403 where it isn't granted.
        """
        return await read(request, account, lambda query: _item(query, Shape.ASSET, asset=asset))

    @get(
        "/{account:str}/positions",
        operation_id="list_positions",
        tags=["positions"],
        opt=_reads(
            Shape.POSITIONS,
            "A row a symbol and side, in the exchange's order.",
            array_of("Position"),
            missing="UnknownNameInFilter",
        ),
    )
    async def list_positions(self, request: AnyRequest, account: FromPath[str]) -> Response[bytes]:
        """Positions, a row a symbol and side.

        What is open on the long side of BTC? In hedge mode `?asset=BTC&positionSide=LONG&open=true`. In one-way mode
        there are only `BOTH` rows, long or short by the sign of `positionAmt`: `?asset=BTC&open=true`, and the positive
        ones. An empty `LONG` list says nothing there. The header `Gateway-Position-Mode` says which mode it is.
        """
        return await read(request, account, lambda query: parameters.filtered(Shape.POSITIONS, query))

    @get(
        "/{account:str}/positions/{symbol:str}",
        operation_id="list_symbol_positions",
        tags=["positions"],
        opt=_reads(
            Shape.SYMBOL,
            "The symbol's rows; those of sides that aren't granted are left out.",
            array_of("Position"),
            missing="UnknownSymbol",
        ),
    )
    async def list_symbol_positions(
        self, request: AnyRequest, account: FromPath[str], symbol: FromPath[str]
    ) -> Response[bytes]:
        """One symbol's positions: one row in one-way mode, three in hedge mode.

        Rows of sides outside the grant are left out, be it all of them: with a grant on `LONG` alone, an account in
        one-way mode shows none. 404 where the account doesn't have the symbol.
        """
        return await read(request, account, lambda query: _item(query, Shape.SYMBOL, symbol=symbol))

    @get(
        "/{account:str}/positions/{symbol:str}/{position_side:str}",
        operation_id="get_position",
        tags=["positions"],
        opt=_reads(Shape.POSITION, "The row.", ref("Position"), missing="NoSuchPosition"),
    )
    async def get_position(
        self, request: AnyRequest, account: FromPath[str], symbol: FromPath[str], position_side: FromPath[str]
    ) -> Response[bytes]:
        """One symbol's position on one side.

        404 `no-such-position-side` where there is no such row; it says so when the account is in one-way mode.
        """
        names = {"symbol": symbol, "positionSide": position_side}
        return await read(request, account, lambda query: _item(query, Shape.POSITION, **names))


def _item(query: bytes, shape: Shape, **names: str) -> Selection:
    """The selection of an item path: names from the path, and no filters."""
    parameters.no_filters(query)
    # A name in the path selects like a filter with this one value, so that grants narrow both by one rule.
    selected: dict[str, Any] = {
        parameters.LISTS[name].field: parameters.path_value(name, value) for name, value in names.items()
    }
    return Selection(shape, **selected)


def _listed(names: frozenset[str] | None) -> list[str] | None:
    return None if names is None else sorted(names)
