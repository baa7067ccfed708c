"""Secrets at every wrong place of a settings file: each key, in every shape that people and scripts bring about.

Every secret bears `MARK`, which nothing that a gateway shows may have.
"""

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any, get_args, get_origin

import msgspec

from service.settings import Settings, Table

MARK = "cAnArY"
SECRETS = {
    "API key": f"{MARK}vmPUZE6mv9SD5VNHk4HlWFsOr6aKE2zvsw0MuIgwCIPy6utIco14y7Ju".ljust(64, "x")[:64],
    "token": f"cgw_{MARK}{'a1B2' * 11}",
    "password": f"{MARK}:p@ss/w#r?d",
    "word": f"{MARK}hunter2",
    "JWT": f"eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJ{MARK}.sig",
    "PEM": f"-----BEGIN PRIVATE KEY-----\n{MARK}\n-----END PRIVATE KEY-----\n",
    "not ASCII": f"{MARK}\u00e9\u2100\ud7ff",
    "control": f"{MARK}\0\x1b[2J",
    "long": MARK * 5_000,
}
Document = dict[str, Any]
NAMES = {"environment", "egress", "key_prefix"}
"""Keys whose text is a name that all may see: a short word is one."""
HOSTS = {"word", "token", "JWT"}
"""Secrets that have the form of a host's name."""


def keys(table: type[Table] = Settings, where: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every key there is, with `main` for any account and `risk` for any client."""
    for field in msgspec.structs.fields(table):
        here = (*where, field.name)
        yield here
        kinds = get_args(field.type) or (field.type,)
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, Table):
                many = get_origin(field.type) is dict
                yield from keys(kind, (*here, "risk" if field.name == "clients" else "main") if many else here)


def shapes(key: str, kind: str) -> Iterator[Any]:
    """What may stand at a key in place of what is due, but for what would be a name."""
    secret = SECRETS[kind]
    if (kind == "word" and key in NAMES) or (kind in HOSTS and key == "host"):
        return
    yield from (secret, [secret], [[secret]], [secret, 1], {secret: 1}, {"x": secret}, {secret: {secret: secret}})
    yield from (f"{secret}s", f"5{secret}", f"all,{secret}", f":{secret}@h:26379", [f":{secret}@h:26379"])
    if "url" in key or key in {"host", "api_server", "sentinels"}:
        for scheme in ("https", "http", "redis", "rediss", "unix", "ftp", secret):
            for rest in ("{}@h/0", "u:{}@h", "h/{}", "h/0?password={}", "h#{}", "{}:1", "[{}", "h:{}", "/{}"):
                if not (kind in HOSTS and rest == "{}:1"):
                    yield f"{scheme}://{rest.format(secret)}"


def misplaced(whole: Mapping[str, Any], key: tuple[str, ...]) -> Iterator[Document]:
    """Settings files with a secret at a key, or beside it."""
    for kind, secret in SECRETS.items():
        for value in shapes(key[-1], kind):
            yield _with(whole, key, value)
        for name in (secret, f"{key[-1]}_{secret}", f"{key[-1]}{secret[:8]}"):
            yield _with(whole, (*key[:-1], name), 1)
            yield _with(whole, (*key[:-1], name), {"x": 1})
        yield _with(whole, (*key[:-1], secret), deepcopy(whole.get(key[-1], {})))


def _with(whole: Mapping[str, Any], key: tuple[str, ...], value: object) -> Document:
    document = deepcopy(dict(whole))
    table = document
    for name in key[:-1]:
        table = table.setdefault(name, {})
    table[key[-1]] = value
    return document


def toml(document: Mapping[str, Any]) -> str:
    return "".join(f"{_quoted(key)} = {_inline(value)}\n" for key, value in document.items())


def _inline(value: Any) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{_quoted(key)} = {_inline(each)}" for key, each in value.items()) + "}"
        case list():
            return f"[{', '.join(map(_inline, value))}]"
        case _:
            return _quoted(value) if isinstance(value, str) else json.dumps(value)


def _quoted(text: str) -> str:
    return json.dumps(text).replace("\x7f", "\\u007f")


def mistyped(text: str) -> Iterator[str]:
    """A file's text with a secret where its syntax breaks."""
    places = [match.start() for match in re.finditer(r"[\n\"=\[\]{},.]", text)]
    broken = (
        "{}",
        "\n{}\n",
        "\n{} = {}\n",
        '"{}',
        "'{}",
        "\n[{}\n",
        "\n[[{}]]\n",
        '\\q{}"',
        '"""{}',
        "= {} =",
        "\0{}",
        "#{}\0",
    )
    for place, form, secret in itertools.product(places, broken, ("API key", "password", "PEM")):
        yield text[:place] + form.replace("{}", SECRETS[secret]) + text[place:]
