"""The committed document as a judge: what an answer of the gateway says that the document doesn't, or leaves out."""

import json
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import yaml

from service.cache.policy import FreshnessUnmetError
from service.fleet.errors import ERRORS
from service.web.problems import ProblemError, Reportable

Json = Any

FILE = Path(__file__).parents[2] / "openapi" / "openapi.yaml"
DOCUMENT: Mapping[str, Json] = yaml.safe_load(FILE.read_text())
PROBLEM = "application/problem+json"

_ERRORS: list[type[Reportable]] = [*ProblemError.__subclasses__(), *ERRORS.values(), FreshnessUnmetError]
PROBLEMS = {error.problem: error.status for error in _ERRORS}
"""Every problem that the gateway can tell of, and its status."""

_OF_HTTP = frozenset({"allow", "connection", "content-length", "content-type", "x-content-type-options"})
"""Headers that OpenAPI leaves to HTTP."""

_NOT_FOUND = DOCUMENT["components"]["responses"]["UnknownAsset"] | {"problems": ["not-found"]}
_ANYWHERE: Mapping[int, Json] = {404: _NOT_FOUND, 405: _NOT_FOUND | {"problems": ["method-not-allowed"]}}
"""For other paths and methods, which a document of operations has no place for: every problem has the same form."""
_BELOW_BINANCE: Mapping[int, Json] = {404: DOCUMENT["components"]["responses"]["BinanceNotFound"]}
"""The same for those of Binance's form."""
BINANCE = "BinanceError"

_PATHS = {re.compile(re.sub(r"{\w+}", "[^/]+", path) + "/?"): path for path in DOCUMENT["paths"]}


def deviations(answer: httpx.Response) -> list[str]:
    """Everything in which an answer isn't as the document says, in words; nothing for a good one."""
    request = answer.request
    if request.url.path.startswith("/docs") and answer.status_code in (200, 304):
        return []  # the document doesn't describe its own pages
    where = f"{request.method} {request.url.path} {answer.status_code}"
    told = _told(request.method, request.url.path, answer.status_code)
    if told is None:
        return [f"{where}: a status that isn't documented"]
    return [f"{where}: {each}" for each in (*_headers(answer, told), *_body(answer, told))]


def operation(path: str) -> Json | None:
    """What the document says of a path; `None` where it knows none such."""
    known = next((name for pattern, name in _PATHS.items() if pattern.fullmatch(path)), None)
    return DOCUMENT["paths"][known]["get"] if known else None


def resolved(told: Json) -> Json:
    """What a reference points to; anything else as it is."""
    found: Json = DOCUMENT
    for name in told.get("$ref", "").removeprefix("#/").split("/"):
        found = found[name] if name else told
    return found


def violations(schema: Json, value: Json) -> list[str]:
    """In what a value isn't of a schema of the document."""
    return [f"{error.instance_path}: {error.message}" for error in _validator(json.dumps(schema)).iter_errors(value)]


@cache
def _validator(schema: str) -> jsonschema_rs.Draft202012Validator:
    """Of a schema as text, which a cache can keep."""
    whole = json.loads(schema) | {"components": DOCUMENT["components"]}
    return jsonschema_rs.Draft202012Validator(whole, validate_formats=True)


def _told(method: str, path: str, status: int) -> Json | None:
    """The response that the document has for this; `None` where it has none."""
    known = operation(path)
    if known is None or method not in ("GET", "HEAD"):
        return (_BELOW_BINANCE if path.startswith("/binance/") else _ANYWHERE).get(status)
    responses = known["responses"]
    return resolved(responses[str(status)]) if str(status) in responses else None


def _headers(answer: httpx.Response, told: Json) -> Iterator[str]:
    declared = {name.lower(): resolved(each) for name, each in told["headers"].items()}
    yield from (f"header {name} isn't documented" for name in set(answer.headers) - set(declared) - _OF_HTTP)
    for name, header in declared.items():
        if name in answer.headers:
            yield from (f"header {name}: {each}" for each in violations(header["schema"], _typed(answer, name, header)))
        elif header["required"]:
            yield f"header {name} is missing"


def _typed(answer: httpx.Response, name: str, header: Json) -> str | int:
    value = answer.headers[name]
    return int(value) if header["schema"]["type"] == "integer" and value.isdecimal() else value


def _body(answer: httpx.Response, told: Json) -> Iterator[str]:
    media_type = answer.headers.get("content-type")
    documented = told.get("content", {None: {}})
    if media_type not in documented:
        yield f"media type {media_type}"
    elif answer.request.method == "HEAD" or not documented[media_type]:
        yield from ["a body"] if answer.content else []
    else:
        yield from violations(documented[media_type]["schema"], answer.json())
        yield from _problem(answer, documented[media_type]["examples"], told) if media_type == PROBLEM else []
        if answer.status_code >= 400 and documented[media_type]["schema"].get("$ref", "").endswith(BINANCE):
            yield from _code(answer, documented[media_type]["examples"])


def _problem(answer: httpx.Response, examples: Json, told: Json) -> Iterator[str]:
    """The examples of a response name the problems that it can be."""
    name = answer.json()["type"].removeprefix("urn:coinm-gateway:problem:")
    if name not in told.get("problems", examples):
        yield f"problem {name} isn't documented"


def _code(answer: httpx.Response, examples: Json) -> Iterator[str]:
    """The examples of a refusal in Binance's form show every code that it can have."""
    code = answer.json()["code"]
    if code not in {example["value"]["code"] for example in examples.values()}:
        yield f"code {code} isn't documented"
