"""`/docs`: Swagger UI and the document. Everything comes from this process; the page may not contact another host.

The UI's files are those of the `swagger-ui-py` distribution, of which nothing is imported. Each is read and compressed
once, on first use, in a thread: together that takes half a second.
"""

import asyncio
import hashlib
from functools import cache
from importlib.metadata import distribution
from pathlib import Path

import msgspec
from litestar import Controller, Litestar, Response, get
from litestar.params import FromPath
from litestar.routes import HTTPRoute

from service.web import caching
from service.web.accounts import ACCOUNTS
from service.web.compression import accepts_gzip, compress, compressed_etag, is_compressible
from service.web.dropin import DROP_IN
from service.web.openapi.document import as_json, as_yaml, document
from service.web.openapi.operation import Json
from service.web.operations import Operations
from service.web.problems import AnyRequest, NotFoundError

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Content-Security-Policy. `data:` images are the UI's own icons, inlined in its style sheet."""

_HEADERS = {"content-security-policy": POLICY, "referrer-policy": "no-referrer", "cache-control": "no-cache"}
"""`no-cache`: a browser keeps the 1.5 MB, and revalidates them by entity tag."""

_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>COIN-M account gateway</title>
<link rel="icon" href="/docs/favicon-32x32.png">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""

# validatorUrl: the UI would show the document to a public validator wherever it isn't on localhost.
# persistAuthorization: a token stays in the page's memory, never in the browser's storage.
_START = """\
SwaggerUIBundle({
  url: "/docs/openapi.json",
  dom_id: "#ui",
  deepLinking: true,
  displayRequestDuration: true,
  persistAuthorization: false,
  queryConfigEnabled: false,
  tryItOutEnabled: true,
  validatorUrl: null
});
"""

_FILES = {
    "callers.md": "text/plain",  # which browsers show; they would save text/markdown
    "clients.md": "text/plain",
    "favicon-32x32.png": "image/png",
    "openapi.json": "application/json",
    "openapi.yaml": "application/yaml",
    "start.js": "text/javascript",
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui.css": "text/css",
}


class Docs(Controller):
    """For people and generators. Nothing here is secret, so no credential is needed."""

    path = "/docs"
    include_in_schema = False

    @get("/")
    async def get_page(self, request: AnyRequest) -> Response[bytes]:
        return await _answer(request, "", "text/html")

    @get("/{name:str}")
    async def get_file(self, request: AnyRequest, name: FromPath[str]) -> Response[bytes]:
        if name not in _FILES:
            raise NotFoundError("there is no such path")
        return await _answer(request, name, _FILES[name])


@cache
def openapi() -> Json:
    """The document of this version of the gateway: the same in every deployment."""
    app = Litestar([*ACCOUNTS, DROP_IN, Operations], openapi_config=None, logging_config=None)
    # The accounts come first; what is there for compatibility comes last.
    routes = sorted(
        app.routes,
        key=lambda route: (not route.path.startswith("/v1/accounts"), route.path.startswith("/binance/"), route.path),
    )
    return document(
        (route.path, handler)
        for route in routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        if "GET" in handler.http_methods  # the framework adds its own OPTIONS
    )


@cache
def document_bytes(*, json: bool) -> bytes:
    """The document as JSON, or as YAML."""
    return as_json(openapi()) if json else as_yaml(openapi())


class _File(msgspec.Struct, frozen=True):
    body: bytes
    compressed: bytes | None
    """`None`: not worth it, or compressed by its format."""
    etag: str


@cache
def _file(name: str) -> _File:
    """A file, for names of `_FILES` only; the page's name is empty."""
    match name:
        case "":
            body = _PAGE.encode()
        case "start.js":
            body = _START.encode()
        case "openapi.json" | "openapi.yaml":
            body = document_bytes(json=name.endswith(".json"))
        case "callers.md" | "clients.md":
            body = (Path(__file__).parent / name).read_bytes()
        case _:
            body = Path(str(distribution("swagger-ui-py").locate_file(f"swagger_ui/static/{name}"))).read_bytes()
    compressed = compress(body) if is_compressible(body) and not name.endswith(".png") else None
    return _File(body, compressed, f'"{hashlib.sha256(body).hexdigest()}"')


async def _answer(request: AnyRequest, name: str, media_type: str) -> Response[bytes]:
    file = await asyncio.to_thread(_file, name)
    etags, body, encoding = (file.etag, compressed_etag(file.etag)), file.body, dict[str, str]()
    if accepts_gzip(caching.accepted_codings(request.headers)) and file.compressed is not None:
        etags, body, encoding = etags[::-1], file.compressed, {"content-encoding": "gzip"}
    tag = caching.matching_tag(caching.header_lines(request.headers, "If-None-Match"), *etags)
    headers = {**_HEADERS, "vary": "Accept-Encoding", "etag": tag or etags[0]}
    if tag is not None:
        return Response(b"", status_code=304, headers=headers)
    return Response(body, media_type=media_type, headers=headers | encoding)
