"""One TOML file into `Settings`, and the secret files that it names.

Durations become whole milliseconds. Relative paths start at the TOML file's folder.
"""

# No error shows a value, for a secret may stand at the wrong place: at any key, as a file's path, as a table's name. An
# error names the key and what was expected; the caller knows the settings file's path and puts it in front. A name
# is shown only once it is known to be one: a key of ours, or a table's name of the form that accounts and clients have.
#
# The steps, each of which may assume that those before it found no fault:
#
#     text to tables       `load`: size, line length, TOML; of the parser's messages only those that quote nothing
#     tables to structs    `_Reader`: table by table and key by key. `msgspec.convert` of the whole would put the file's
#                          own names and values into its messages
#     defaults             an account's missing windows are the general ones; without an address Redis is local
#     rules over keys      `_check`: the first rule that is broken is reported
#     secret files         `read_secret`, when the parts that use them are built

import difflib
import re
import tomllib
import types
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeAlias, TypeVar, Union, cast, get_args, get_origin
from urllib.parse import unquote

import msgspec
from msgspec.structs import FieldInfo, fields, replace

from service.addresses import base_url_fault, host_and_port, is_host, password_of, redis_url_fault
from service.files import MAX_FILE, MAX_SECRET, FileError, read_text
from service.settings import (
    LONG_RUN,
    NAME_PATTERN,
    Account,
    Client,
    Duration,
    Redis,
    Secret,
    Settings,
    Table,
)

TableT = TypeVar("TableT", bound=Table)

MAX_RECV_WINDOW = 60_000
"""Ms; the exchange's own bound."""

MIN_WEIGHT = 10
"""Per minute and address: the cost of the very first refresh (account 5, clock 3, exchangeInfo 1, a probe 1)."""

MAX_DURATION_MS = 24 * 3_600_000
"""No window or deadline of the gateway makes sense beyond a day."""

MAX_LINE = 16 * 1024
"""Characters: a list of a thousand names. The parser's time grows with the square of a dotted key's length."""

MIN_SIMILARITY = 0.75
"""Of 1, between an unknown word and one of ours, for it to be shown: `prot` and `port` reach it."""
MAX_EXTRA_LETTERS = 2
"""By which the unknown word may be longer than ours: no room for a secret."""

_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}
_DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)(ms|s|m|h)")
_ONE_WORD = re.compile(r"[!-~]+")
_TOML_FAULTS = frozenset(
    {
        "Cannot overwrite a value",
        "Expected '=' after a key in a key/value pair",
        "Expected ']' at the end of a table declaration",
        "Expected ']]' at the end of an array declaration",
        "Expected newline or end of document after a statement",
        "Invalid date or datetime",
        "Invalid initial character for a key part",
        "Invalid statement",
        "Invalid value",
        "Unclosed array",
        "Unclosed inline table",
        "Unterminated string",
    }
)
"""The parser's messages that quote nothing of the file."""
_PLACE = re.compile(r"\(at (line [0-9]+, column [0-9]+|end of document)\)\Z")
_INDEX = re.compile(r" - at `\$((?:\[(?:[0-9]+|\.\.\.)\])*)`\Z")


class SettingsError(Exception):
    """A line for the operator: which key, and what was expected. Never holds a value."""


def load(path: Path) -> Settings:
    """Read and check a settings file.

    Raises:
        SettingsError: the file can't be read, is not TOML, or does not say what is expected.
    """
    try:
        text = read_text(path, MAX_FILE)
        if max(map(len, text.splitlines()), default=0) > MAX_LINE:
            raise SettingsError(f"expected lines of {MAX_LINE} characters at the most")
        document = tomllib.loads(text)
    except FileError as exc:
        raise SettingsError(str(exc)) from None
    except tomllib.TOMLDecodeError as exc:
        # Some of the parser's messages quote keys and characters. The place is always safe to show.
        place = _PLACE.search(str(exc))
        fault = str(exc)[: place.start()].strip() if place else ""
        where = f" at {place[1]}" if place else ""
        raise SettingsError(f"expected TOML{where}{f': {fault}' if fault in _TOML_FAULTS else ''}") from None
    except ValueError:
        raise SettingsError("expected TOML with numbers of fewer digits") from None  # more than `int` takes
    except RecursionError:
        raise SettingsError("expected TOML that is nested less deeply") from None
    return _Reader(path.parent).settings(document)


def read_secret(path: Path, key: str, *, pem: bool = False) -> Secret:
    """A secret file's content less one trailing newline: one word of printable ASCII, or a PEM if that is accepted.

    Args:
        path: the file.
        key: the settings key that names it; errors name it too.
        pem: whether a PEM is accepted too; the caller checks that it is a valid one.

    Raises:
        SettingsError: it is unreadable, too large, empty, or of another form.
    """
    try:
        text = read_text(path, MAX_SECRET)
    except FileError as exc:
        raise SettingsError(f"{key}: {exc}") from None
    if not text.strip():
        raise SettingsError(f"{key}: expected a secret, found nothing")
    text = text.removesuffix("\n").removesuffix("\r")
    if not (_ONE_WORD.fullmatch(text) or (pem and "-----BEGIN" in text)):
        raise SettingsError(f"{key}: expected one word of printable ASCII{' or a PEM' if pem else ''}")
    return Secret(text)


def secret_files(settings: Settings) -> dict[str, Path]:
    """The files that hold the gateway's secrets, by the keys that name them."""
    redis, server = settings.redis, settings.server
    files = {
        "redis.url_file": redis.url_file,
        "redis.password_file": redis.password_file,
        "redis.sentinel_password_file": redis.sentinel_password_file,
        "server.tls_key_file": server.tls_key_file,
    }
    for name, account in settings.accounts.items():
        files |= {
            f"accounts.{name}.api_key_file": account.api_key_file,
            f"accounts.{name}.secret_key_file": account.secret_key_file,
        }
    return {key: file for key, file in files.items() if file is not None}


def secrets_of(settings: Settings) -> list[Secret]:
    """Every secret the settings name, for the logs' mask.

    Raises:
        SettingsError: a secret file is not what is expected.
    """
    pems = (".secret_key_file", "server.tls_key_file")
    secrets = [read_secret(file, key, pem=key.endswith(pems)) for key, file in secret_files(settings).items()]
    password = password_of(redis_url(settings.redis).reveal())
    return [*secrets, Secret(unquote(password)), Secret(password)] if password else secrets


def redis_url(redis: Redis) -> Secret:
    """The address of Redis, from the settings or the file they name; empty if Sentinels give it.

    Raises:
        SettingsError: the file is unreadable, or holds no such address.
    """
    if redis.url_file is None:
        return Secret(redis.url or "")
    url = read_secret(redis.url_file, "redis.url_file")
    fault = redis_url_fault(url.reveal())
    if fault is not None:
        raise SettingsError(f"redis.url_file: {fault}")
    return url


class _Reader:
    """Converts table by table and key by key, so that every error names its key, and only in words of ours.

    Args:
        folder: where relative paths start.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._accounts: list[str] = []

    def settings(self, document: dict[str, Any]) -> Settings:
        self._accounts = list(_require_table("accounts", document.get("accounts", {})))
        settings = self._table("", document, Settings)
        if not settings.accounts:
            _fail("accounts", "expected at least one [accounts.NAME] table")
        accounts: dict[str, Account] = {}
        for name, account in settings.accounts.items():
            own = document["accounts"][name].get("freshness", {})  # in the struct a default looks like a value
            freshness = replace(settings.freshness, **{key: getattr(account.freshness, key) for key in own})
            accounts[name] = replace(account, freshness=freshness)
        redis = settings.redis
        if redis.url is None and redis.url_file is None and not redis.sentinels:
            redis = replace(redis, url="redis://127.0.0.1:6379/0")
        settings = replace(settings, redis=redis, accounts=accounts)
        _check(settings)
        return settings

    def _table(self, where: str, value: object, into: type[TableT]) -> TableT:
        table, known = _require_table(where, value), {field.name: field for field in fields(into)}
        for key in table:
            if key not in known:
                # Shown only beside the key that it was meant for: it may be a secret.
                near = _did_you_mean(key, known)
                _fail(where, f"unknown key {key}{near}" if near else "unknown key, like none that is expected")
        for field in known.values():
            if field.required and field.name not in table:
                _fail(where, f"missing key {field.name}")
        values = {key: self._value(f"{where}.{key}".lstrip("."), each, known[key]) for key, each in table.items()}
        return into(**values)

    def _value(self, where: str, value: object, field: FieldInfo) -> object:
        table, by_name = _table_type(field.type)
        if table is None:
            try:
                return msgspec.convert(value, field.type, dec_hook=self._decode)
            except msgspec.ValidationError as exc:
                index = _INDEX.search(str(exc))  # of the list's item that is wrong
                message = str(exc)[: index.start()] if index else str(exc)
                _fail(where + (index[1] if index else ""), _in_our_words(message, field.type))
            except (OverflowError, RecursionError):
                _fail(where, "expected a smaller value")
        if not by_name:
            return self._table(where, value, table)
        tables = _require_table(where, value)
        places = {name: f"{where}.{_shown(name, f'#{number}')}" for number, name in enumerate(tables, 1)}
        grants = where != field.name  # a client's own `accounts` table; the others by name are at the top
        for number, name in enumerate(tables, 1):
            if grants and name != "*" and name not in self._accounts:
                known = [each for each in self._accounts if _shown(each) == each]
                expected = f"expected one of the accounts {', '.join(known)} or *{_did_you_mean(name, known)}"
                _fail(f"{where}.#{number}", expected)
            if not re.fullmatch(NAME_PATTERN, name) and not grants:
                _fail(places[name], "expected a name of lower-case letters, digits and -, 63 at the most")
        return {name: self._table(places[name], each, table) for name, each in tables.items()}

    def _decode(self, into: type, value: object) -> object:
        """The hook for types that msgspec doesn't know; msgspec turns our ValueErrors into ValidationErrors."""
        if not isinstance(value, str):
            raise ValueError("expected a string")  # noqa: TRY004 - msgspec turns ValueError alone into its own
        if into is Duration:
            match = _DURATION.fullmatch(value)
            if match is None:
                raise ValueError('expected a duration with a unit, such as "250ms", "1s" or "2m"')
            milliseconds = Decimal(match[1]) * _UNITS[match[2]]  # a float would make 1.001s no whole number
            if milliseconds % 1:
                raise ValueError("expected whole milliseconds")
            if milliseconds > MAX_DURATION_MS:
                raise ValueError("expected 24h at the most")
            return Duration(milliseconds)
        if not value.strip() or not value.isprintable():
            raise ValueError("expected the path of a file")
        return self._folder / value


Rule: TypeAlias = tuple[str, bool, str]
"""A key, whether its rule is kept, and what was expected of it."""


def _check(settings: Settings) -> None:
    """Apply the rules that no type of a single key expresses, in the order in which their faults are reported."""
    redis, server, exchange, kubernetes = settings.redis, settings.server, settings.exchange, settings.kubernetes
    given = [key for key in ("url", "url_file", "sentinels") if getattr(redis, key) not in (None, [])]
    named_master = redis.master is not None
    windows = {f"accounts.{name}.freshness": account.freshness for name, account in settings.accounts.items()}
    rules: list[Rule] = [
        ("freshness.fresh_for", settings.freshness.fresh_for > 0, "expected more than 0"),
        ("redis", len(given) <= 1, f"expected one of url, url_file and sentinels, found {' and '.join(given)}"),
        ("redis.master", bool(redis.sentinels) == named_master, "expected with sentinels, and only with them"),
        *(
            (
                f"redis.sentinels[{number}]",
                host_and_port(sentinel) is not None,
                "expected HOST:PORT, or [ADDRESS]:PORT for IPv6",
            )
            for number, sentinel in enumerate(redis.sentinels)
        ),
        _url_rule("redis.url", redis.url, redis_url_fault),
        (
            "redis.ca_file",
            redis.ca_file is None or redis.url is None or redis.url.startswith("rediss:"),
            "expected with rediss:// or sentinels only",
        ),
        *((f"{where}.fresh_for", each.fresh_for > 0, "expected more than 0") for where, each in windows.items()),
        ("server.host", is_host(server.host), "expected an IP address or a host's name"),
        (
            "server",
            (server.tls_certificate_file is None) == (server.tls_key_file is None),
            "expected tls_certificate_file and tls_key_file together",
        ),
        _url_rule("exchange.base_url", exchange.base_url, base_url_fault),
        _url_rule("exchange.wallet_url", exchange.wallet_url, base_url_fault),
        ("exchange.recv_window", 0 < exchange.recv_window <= MAX_RECV_WINDOW, "expected more than 0 and at most 60s"),
        ("exchange.timeout", exchange.timeout > 0, "expected more than 0"),
        (
            "exchange.weight_limit",  # with less the first refresh could never be afforded
            exchange.weight_limit * exchange.weight_share >= MIN_WEIGHT,
            f"expected weight_share of it to be at least {MIN_WEIGHT}",
        ),
        *(
            (
                f"clients.{_shown(name)}.service_accounts",
                kubernetes is not None or not client.service_accounts,
                "expected with a [kubernetes] table only",
            )
            for name, client in settings.clients.items()
        ),
        _url_rule("kubernetes.api_server", kubernetes.api_server if kubernetes else None, base_url_fault),
    ]
    for key, kept, expected in rules:
        if not kept:
            _fail(key, expected)
    _check_holders("token_sha256", "token", settings.clients)
    _check_holders("service_accounts", "ServiceAccount", settings.clients)


def _url_rule(key: str, url: str | None, fault_of: Callable[[str], str | None]) -> Rule:
    fault = None if url is None else fault_of(url)
    return key, fault is None, fault or ""


def _check_holders(key: str, what: str, clients: dict[str, Client]) -> None:
    """No two clients may share an identity: a request's client would depend on the file's order."""
    holders: dict[str, str] = {}
    for name, client in clients.items():
        for identity in getattr(client, key):
            holder = holders.setdefault(identity, name)
            if holder != name:
                _fail(f"clients.{_shown(name)}.{key}", f"expected a {what} of its own, not {_shown(holder)}'s")


def _require_table(where: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        _fail(where, "expected a table")
    return cast("dict[str, Any]", value)


def _table_type(kind: Any) -> tuple[type[Table] | None, bool]:
    """The struct that a key's type is, if it is one, and whether the key holds any number of them by name."""
    if get_origin(kind) is dict:
        return get_args(kind)[1], True
    options = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    tables = [each for each in options if isinstance(each, type) and issubclass(each, Table)]
    return (tables[0] if tables else None), False


def _shown(name: str, instead: str = "…") -> str:
    """A table's name if it is certainly one; else a stand-in, for a secret may stand in its place."""
    certain = name == "*" or (re.fullmatch(NAME_PATTERN, name) and not re.search(LONG_RUN, name))
    return name if certain else instead


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    long_enough = [each for each in known if len(word) <= len(each) + MAX_EXTRA_LETTERS]
    near = difflib.get_close_matches(word, long_enough, 1, MIN_SIMILARITY)
    return f": did you mean {near[0]}?" if near else ""


def _in_our_words(message: str, kind: Any) -> str:
    """What msgspec expected. Its messages of other forms may quote the value."""
    if message.startswith("expected "):
        return message  # from `_decode`
    words = [each for each in _walk(kind) if isinstance(each, str)]
    if message.startswith("Expected `str` matching regex") and words:
        return f"expected {words[0]}"
    if re.match(r"Expected `[a-z |]+`", message):
        return message[:1].lower() + message[1:]
    options = [each for literal in _walk(kind) if get_origin(literal) is Literal for each in get_args(literal)]
    if options:
        return f"expected one of {', '.join(options)}" if len(options) > 1 else f'expected "{options[0]}" or a list'
    return "expected a smaller value"


def _walk(kind: Any) -> Iterator[Any]:
    """A type, the types that it is made of, and the descriptions in their metadata."""
    yield kind
    for meta in getattr(kind, "__metadata__", ()):
        if meta.description:
            yield meta.description
    if get_origin(kind) is not Literal:
        for each in (getattr(kind, "__origin__", None), *get_args(kind)):
            if each is not kind and not isinstance(each, msgspec.Meta) and each is not None:
                yield from _walk(each)


def _fail(key: str, expected: str) -> NoReturn:
    raise SettingsError(f"{key}: {expected}" if key else expected) from None  # the cause may quote the value
