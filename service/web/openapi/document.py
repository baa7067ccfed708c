"""The routes of the gateway → the OpenAPI 3.1 document, and its two forms.

A handler says what it is: operation id, tags and docstring (summary, then description). What it reads (`opt`) decides
the parameters, the answers and the problems, so that the document can't name a filter that the edge doesn't take.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
import yaml
from litestar.handlers import HTTPRouteHandler

import service
from service.account.selection import Shape
from service.web.openapi import answers, dropin, examples, headers, inputs
from service.web.openapi.schemas import Json, array_of, ref, schemas
from service.web.reads import READS

_DESCRIPTION = """\
One internal service holds the exchange credentials, keeps **one snapshot an account** and serves every team the slice
it may see. Bodies are exactly what the exchange sent, cut to the rows asked for and granted; what the gateway has to
say is in headers.

**Amounts are strings.** Parse them as decimals, never as floats. `positionAmt` counts contracts (100 USD each for BTC,
10 USD for other coins); margins and profits are in the settlement coin, which a symbol names before `USD_`.

**How old?** `Gateway-Snapshot-Time` says when the exchange was asked, `Gateway-Snapshot-Age` how many milliseconds ago
that was, `Cache-Status` why it was answered so. Negative `ttl`: past `fresh_for`; `detail` says why, if it is older
than you asked for. `fresh_for` is 1 s unless the operators chose otherwise; nothing older than it and the longer stale
window (60 s) together is ever served. Ask for more with the request's `Cache-Control`.

**Empty or flat?** Rows outside your grant are left out of lists; naming what isn't granted is a 403, and a name that
neither the account nor the exchange's listing knows a 404. An account in
one-way mode has only `BOTH` rows, so `positionSide=LONG` is empty there, and `Gateway-Position-Mode` says so.
`open=true` that answers `[]` means flat, as far as your grant reaches: one that lacks the side `BOTH` sees nothing of
an account in one-way mode.

**On 429, 500, 502, 503 and 504** wait for `Retry-After`, which can be minutes; where there is none, back off from 1 s,
doubled up to 30 s, with jitter. Other 4xx: don't repeat, mend the request.

Every path answers HEAD as well; whatever would write is a 405 (below `/binance/` a 404, as the exchange has it). The
[caller's guide](/docs/callers.md) has it at length, with programs to copy.
"""

_TAGS = {
    "accounts": "Which accounts there are, and one account whole.",
    "assets": "Balances and margins, a row a coin.",
    "positions": "Positions, a row a symbol and side.",
    "operations": "The state of the gateway.",
    dropin.TAG: dropin.TAG_WORDS,
}

_SERVER = {
    "url": "/",
    "description": "This gateway: local, staging or production, as the header Gateway-Environment says.",
    "x-internal": True,
}

_TOKEN = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "cgw_…",
    "description": "Your team's token, `cgw_…`, sent as `Authorization: Bearer TOKEN` (RFC 6750). Operators issue it. "
    "Where they say so, a Kubernetes ServiceAccount's token, bound to the gateway's audience, takes its place.",
}

_SHAPES: dict[Shape, tuple[Json, str, str]] = {
    Shape.ACCOUNT: (ref("Account"), "The account, cut by grant and filters.", "UnknownNameInFilter"),
    Shape.ASSETS: (array_of("Asset"), "A row a coin, in the exchange's order.", "UnknownAssetInFilter"),
    Shape.ASSET: (ref("Asset"), "The coin's row.", "UnknownAsset"),
    Shape.POSITIONS: (array_of("Position"), "A row a symbol and side, in the exchange's order.", "UnknownNameInFilter"),
    Shape.SYMBOL: (
        array_of("Position"),
        "The symbol's rows; those of sides that aren't granted are left out.",
        "UnknownSymbol",
    ),
    Shape.POSITION: (ref("Position"), "The row.", "NoSuchPosition"),
}
"""Of a shape: its schema, what a 200 is, and the response that is its 404."""


def document(routes: Iterable[tuple[str, HTTPRouteHandler]]) -> Json:
    """The document of these paths (as the framework writes them) and their handlers, in their order."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "COIN-M account gateway",
            "version": service.__version__,
            "summary": "Balances, margins and positions of Binance COIN-M accounts, each team its slice.",
            "description": _DESCRIPTION,
            "contact": {"name": "The gateway's operators"},
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [_SERVER],
        "tags": [{"name": name, "description": words} for name, words in _TAGS.items()],
        "security": [{"token": []}],
        "paths": {_template(path): {"get": _operation(_template(path), handler)} for path, handler in routes},
        "components": {
            "securitySchemes": {"token": _TOKEN, "key": dropin.KEY},
            "parameters": inputs.shared_parameters() | dropin.parameters(),
            "headers": headers.headers() | dropin.HEADERS,
            "responses": answers.refusals() | dropin.responses(),
            "schemas": schemas(),
        },
    }


def as_json(content: Json) -> bytes:
    return msgspec.json.format(msgspec.json.encode(content)) + b"\n"


def as_yaml(content: Json) -> bytes:
    text = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return str(text).encode()


class _Dumper(yaml.SafeDumper):
    """Long texts as blocks, and every value in full: anchors save bytes, not readers."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


def _block(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _block)


def _template(path: str) -> str:
    return path.replace(":str}", "}").replace("position_side", "positionSide")


def _operation(path: str, handler: HTTPRouteHandler) -> Json:
    summary, _, rest = (handler.fn.__doc__ or "").partition("\n")
    words = "\n".join(line.strip() for line in rest.strip().splitlines())
    said: Json = {
        "operationId": handler.operation_id,
        "tags": list(handler.tags or ()),
        "summary": summary.rstrip("."),
        "description": words or summary,
    }
    if dropin.TAG in said["tags"]:
        return said | dropin.operation(str(handler.operation_id))
    shape: Shape | None = handler.opt.get(READS)
    return said | (_plain(str(handler.operation_id)) if shape is None else _reading(path, shape))


def _reading(path: str, shape: Shape) -> Json:
    schema, words, missing = _SHAPES[shape]
    names = headers.data_headers(positions=shape not in (Shape.ASSETS, Shape.ASSET))
    found = answers.success(words, schema, examples.OF[shape], names)
    refused = answers.by_status((*answers.READING, missing))
    return {
        "parameters": [*inputs.path_parameters(path), *inputs.filters(shape), *inputs.reading_headers()],
        "responses": {"200": found, "304": answers.not_modified(names), **refused},
    }


def _plain(operation_id: str) -> Json:
    words, schema = {
        "list_accounts": ("An account a row.", array_of("VisibleAccount")),
        "get_status": ("This replica, as far as your accounts go.", ref("Status")),
        "get_health": ("Alive.", ref("Health")),
        "get_readiness": ("Ready.", ref("Health")),
    }[operation_id]
    names = headers.EVERYWHERE if operation_id in ("get_health", "get_readiness") else headers.LIMITED
    found = answers.success(words, schema, examples.OF_OURS[operation_id], names)
    if operation_id == "get_health":
        return {"security": [], "responses": {"200": found}}
    if operation_id == "get_readiness":
        draining = answers.success("Draining: send nothing new here.", schema, examples.DRAINING)
        return {"security": [], "responses": {"200": found, "503": draining}}
    busy = "AuditUnavailable" if operation_id == "list_accounts" else "Overloaded"
    return {"responses": {"200": found, **answers.by_status((*answers.CALLER, busy))}}
