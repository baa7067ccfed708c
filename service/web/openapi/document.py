"""The handlers of the gateway → the OpenAPI 3.1 document, and its two forms.

The document is `document.yaml`, completed by a walk over the handlers, each of which carries its `Operation`.
"""

import inspect
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import yaml
from litestar.handlers import HTTPRouteHandler

import service
from service.account.rows import POSITION_SIDES
from service.cache.policy import FreshnessUnmetError
from service.fleet.errors import ERRORS
from service.settings import NAME_PATTERN
from service.web import binance_errors, caching, problems
from service.web.openapi.operation import EVERYWHERE, LIMITED, OPERATION, Json, Operation, ref
from service.web.parameters import FLAGS, LISTS, MAX_VALUES, Filter
from service.web.reads import READS

_COMPUTED: Mapping[str, object] = {
    "version": service.__version__,
    "longest Cache-Control": caching.LIMITS["Cache-Control"],
    "longest If-None-Match": caching.LIMITS["If-None-Match"],
    "challenge": binance_errors.CHALLENGE,
    "position sides": list(POSITION_SIDES),
}

_PROBLEMS: Mapping[str, type[problems.Reportable]] = {
    **{kind.problem: kind for kind in ERRORS.values()},
    **{kind.problem: kind for kind in problems.ProblemError.__subclasses__()},
    FreshnessUnmetError.problem: FreshnessUnmetError,
    "malformed": binance_errors.MalformedKeyError,  # whose problem is `unauthenticated` too
    "combination": problems.CombinationError,  # whose problem is `invalid-parameter` too
}

_SUMMARIES = {"malformed": "No token, or several", "combination": "Two parameters that exclude each other"}
"""Of the examples of refusals, where the problem's title doesn't tell them apart."""

_HEADERS = {"ApiKeyChallenge": "WWW-Authenticate", "VaryByKey": "Vary"}
"""The headers of components that aren't named after theirs."""

_REF = "#/components/schemas/{name}"
_UNCHANGED = "What you have (`If-None-Match`) is what there is; the headers say how old it is now. No body."


def document(routes: Iterable[tuple[str, HTTPRouteHandler]]) -> Json:
    """The document of these paths (as the framework writes them) and their handlers, in their order."""
    whole: Json = yaml.load((Path(__file__).parent / "document.yaml").read_text("utf-8"), _LOADER)  # noqa: S506 - safe
    del whole["shared"]
    examples, texts, components = whole.pop("examples"), whole.pop("texts"), whole["components"]
    refusals = {
        name: _response(each, binance=name.startswith("Binance")) for name, each in components["responses"].items()
    }
    components["responses"] = {name: response for name, (_, response) in refusals.items()}
    statuses = {name: status for name, (status, _) in refusals.items()}
    bodies = [problems.Problem, binance_errors.BinanceError]
    for path, handler in routes:
        template = path.replace(":str}", "}").replace("position_side", "positionSide")
        text = texts.get(handler.operation_id) or inspect.getdoc(handler.fn) or ""
        operation = _operation(template, handler, text, examples[handler.operation_id], statuses)
        whole["paths"][template] = {"get": operation}
        if not isinstance(body := handler.opt[OPERATION].body, dict):
            bodies.append(body)
    _, ours = msgspec.json.schema_components(bodies, ref_template=_REF)
    components["schemas"] |= dict(sorted(ours.items()))
    return whole


def as_json(content: Json) -> bytes:
    return msgspec.json.format(msgspec.json.encode(content)) + b"\n"


def as_yaml(content: Json) -> bytes:
    text = yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return str(text).encode()


# libyaml's where PyYAML has it: ten times as fast, and every other caller of the replica waits meanwhile.
_LOADER: Any = type("_Loader", (getattr(yaml, "CSafeLoader", yaml.SafeLoader),), {})
_LOADER.add_constructor("!computed", lambda _, node: _COMPUTED[node.value])


class _Dumper(yaml.SafeDumper):
    """Long texts as blocks, and every value in full: anchors save bytes, not readers."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - PyYAML's signature
        return True


def _block(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _block)


def _operation(
    path: str, handler: HTTPRouteHandler, text: str, examples: Mapping[int, Json], statuses: Mapping[str, int]
) -> Json:
    """One operation, as its handler declares it; `examples` by status, and the status of each refusal.

    `text` is the summary and the description, as in a docstring.
    """
    declared: Operation = handler.opt[OPERATION]
    summary, _, description = text.strip().partition("\n\n")
    operation: Json = {
        "operationId": handler.operation_id,
        "tags": list(handler.tags or ()),
        "summary": summary.rstrip("."),
        "description": description or summary,
    }
    if declared.security != ("token",):  # which the document has for all
        operation["security"] = [{scheme: []} for scheme in declared.security]
    parameters = {name: _path_parameter(name) for name in re.findall(r"{(\w+)}", path)}
    # Lists first; flags, which have no order of their own, by name.
    for name in sorted(declared.filters, key=lambda name: name if name in FLAGS else ""):
        parameters[name] = _query_parameter(declared.filters[name])
    parameters |= declared.parameters
    if READS in handler.opt:
        parameters |= {name: ref(name, "parameters") for name in ("CacheControl", "IfNoneMatch")}
    if parameters:
        operation["parameters"] = list(parameters.values())
    schema = declared.body
    if not isinstance(schema, dict):
        (schema,), _ = msgspec.json.schema_components([schema], ref_template=_REF)
    responses: dict[int, Json] = {
        status: {
            "description": description,
            "headers": _headers(declared.headers),
            "content": {"application/json": {"schema": schema, "examples": examples[status]}},
        }
        for status, description in {200: declared.answer, **declared.also}.items()
    }
    if READS in handler.opt:
        responses[304] = {"description": _UNCHANGED, "headers": _headers(declared.headers)}
    responses |= {statuses[name]: ref(name, "responses") for name in declared.refusals}
    return operation | {"responses": {str(status): responses[status] for status in sorted(responses)}}


def _path_parameter(name: str) -> Json:
    if name == "account":
        schema: Json = {"type": "string", "pattern": f"^{NAME_PATTERN}$", "minLength": 1, "maxLength": 63}
        description, example = "The account's name, as `GET /v1/accounts` lists it.", "main"
    else:
        each = LISTS[name]
        description, schema, example = each.item, each.form.schema, each.examples[0]
    named = {"name": name, "in": "path", "required": True, "description": description}
    return named | {"schema": schema, "example": example}


def _query_parameter(each: Filter) -> Json:
    """A filter. Its examples stand in the schema: Swagger UI would fill in one beside it, and so filter unasked."""
    named = {"name": each.name, "in": "query", "description": each.description}
    if each.name in FLAGS:
        return named | {"schema": each.form.schema | {"examples": [True]}}
    named["description"] += f" Comma-separated or repeated, {MAX_VALUES} values at the most."
    # What Swagger UI fills into a new item; without it, some text of the pattern.
    item = each.form.schema | {"examples": list(each.examples)}
    several = {"type": "array", "items": item, "minItems": 1, "maxItems": MAX_VALUES}
    several["examples"] = [[each.examples[0]], list(each.examples)]
    return named | {"schema": several, "style": "form", "explode": False}


def _response(refusal: Json, *, binance: bool) -> tuple[int, Json]:
    """The status of a refusal, and the refusal in full: its examples are its problems as the edge encodes them.

    All its problems have the same status.
    """
    status, examples = 0, {}
    for name, detail in refusal["problems"].items():
        kind = _PROBLEMS[name]
        error = kind(detail or kind.title[0].lower() + kind.title[1:])
        sent = binance_errors.refusal(error, {}) if binance else problems.refusal("3f1c0b7e9d2a4c55", error, {})
        summary = _SUMMARIES.get(name, error.title)
        status, examples[name] = sent.status, {"summary": summary, "value": msgspec.json.decode(sent.body)}
    # A limit is a client's. Under `/v1` a 401 knows none; below `/binance/` it may (one without a grant), but no 404.
    names = list(EVERYWHERE if status == (404 if binance else 401) else LIMITED)
    if status == 401:
        names += ["ApiKeyChallenge"] if binance else ["WWW-Authenticate", "Retry-After"]
    if status == 429 or status >= 500:
        names += ["Retry-After"]
    media_type, schema = ("application/json", "BinanceError") if binance else (problems.MEDIA_TYPE, "Problem")
    content = {media_type: {"schema": ref(schema), "examples": examples}}
    return status, {"description": refusal["description"], "headers": _headers(names), "content": content}


def _headers(names: Iterable[str]) -> Json:
    """References to header components, by the header's name."""
    return {_HEADERS.get(name, name): ref(name, "headers") for name in names}
