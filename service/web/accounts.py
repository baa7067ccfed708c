"""`/v1/accounts…`: which accounts a caller may see, and the views of their documents.

The reads follow from the shapes; `openapi/document.yaml` has their texts, by operation id.
"""

from typing import Annotated

import msgspec
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler
from msgspec import Meta

from service.account.documents import SHAPES, Shape
from service.web import caching, parameters
from service.web.authentication import authenticate, gateway_of
from service.web.compression import encoded
from service.web.openapi.operation import CALLER, LIMITED, OPERATION, READING, SNAPSHOT, Operation, array_of, ref
from service.web.problems import AnyRequest
from service.web.reads import JSON, LISTS_ACCOUNTS, READS, read

PATH = "/v1/accounts"
_MISSING = {"asset": "UnknownAsset", "symbol": "UnknownSymbol", "positionSide": "NoSuchPosition"}
"""The 404 of a path, by the last name in it."""
_MISSING_IN_FILTER = {False: "UnknownAssetInFilter", True: "UnknownNameInFilter"}
"""The 404 of a list, by whether its rows have symbols."""


class VisibleAccount(msgspec.Struct, rename="camel", frozen=True):
    """An account that the caller may see, with its grant; `null` is all."""

    account: Annotated[str, Meta(description="The name to use in paths.")]
    environment: Annotated[str, Meta(description="Which environment its data is of.")]
    assets: Annotated[list[str] | None, Meta(description="Coins you see, and positions margined in them; null: all.")]
    position_sides: Annotated[
        list[str] | None,
        Meta(description="Sides of positions you see; null: all. Without `BOTH`, one-way accounts show none."),
    ]


@get(
    PATH,
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
async def list_accounts(request: AnyRequest) -> Response[bytes]:
    """The accounts the caller may see, with the grant.

    `null` stands for all. What isn't listed here answers 403, whether or not it exists.
    """
    client, gateway = await authenticate(request), gateway_of(request)
    parameters.accept_only((), request.scope["query_string"])
    visible = [
        VisibleAccount(grant.account, gateway.config.settings.environment, _listed(grant.assets), _listed(grant.sides))
        for grant in client.grants.values()
    ]
    body, encoding = await encoded(msgspec.json.encode(visible), caching.accepted_codings(request.headers))
    return Response(body, media_type=JSON, headers={"cache-control": "no-store"} | encoding)


def _reading(shape: Shape) -> HTTPRouteHandler:
    """The handler of a read: it only turns path and query into a selection; `reads.read` does the rest."""
    names = {"symbol": "{symbol:str}", "asset": "{asset:str}", "positionSide": "{position_side:str}"}
    parts = [PATH, "{account:str}", shape.resource, *(names[name] for name in shape.named)]
    of_symbols = any("symbol" in kind.keys for kind in shape.kinds)
    missing = _MISSING[shape.named[-1]] if shape.named else _MISSING_IN_FILTER[of_symbols]
    headers = (*SNAPSHOT, "Gateway-Position-Mode") if shape.has_sides else SNAPSHOT
    row, several = shape.kinds[0].name, shape.resource.replace("-", "_")
    if not shape.resource:
        operation_id, body, what = "get_account", ref("Account"), "The account, cut by grant and filters."
    elif shape.one:
        operation_id, body, what = f"get_{several.removesuffix('s')}", ref(row), "The row."
    else:
        operation_id = "_".join(("list", *shape.named, several))
        body, what = array_of(row), "The rows that you may see, in the exchange's order."

    @get(
        "/".join(part for part in parts if part),
        operation_id=operation_id,
        tags=[shape.resource or "accounts"],
        opt={
            READS: shape,
            OPERATION: Operation(what, body, (*READING, missing), headers=headers, filters=parameters.FILTERS[shape]),
        },
    )
    async def answer(request: AnyRequest) -> Response[bytes]:
        path = {name.replace("position_side", "positionSide"): value for name, value in request.path_params.items()}
        return await read(request, path["account"], lambda query: parameters.selected(shape, path, query))

    return answer


ACCOUNTS: list[HTTPRouteHandler] = [list_accounts, *map(_reading, SHAPES.values())]
"""The handlers below `/v1/accounts`."""


def _listed(names: frozenset[str] | None) -> list[str] | None:
    return None if names is None else sorted(names)
