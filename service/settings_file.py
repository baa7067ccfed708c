"""One TOML file into `Settings`, and the secret files beside it.

Read once, complete, silent about secrets: a secret may stand at the wrong place (at any key, as the path of a file, as
a table's name), so no error shows a value. It names the key and what was expected; who knows the file's path puts that
before it. Names are shown once they are known to be names: keys of ours, and tables that are named as accounts and
clients may be. Durations become whole milliseconds, relative paths relative to the TOML file.
"""

import difflib
import re
import tomllib
import types
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union, cast, get_args, get_origin
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
    Exchange,
    Freshness,
    Kubernetes,
    Redis,
    Secret,
    Server,
    Settings,
    Table,
)

T = TypeVar("T")
TableT = TypeVar("TableT", bound=Table)

MAX_RECV_WINDOW = 60_000
"""Ms; the exchange's own bound."""

MIN_WEIGHT = 10
"""A minute and address: what the first refresh of all costs (account 5, clock 3, exchangeInfo 1, a probe 1)."""

LONGEST = 24 * 3_600_000
"""Ms; no window or deadline of the gateway makes sense beyond a day."""

MAX_LINE = 16 * 1024
"""Characters: a list of a thousand names. The parser's time grows with the square of a dotted key's length."""

NEAR = 0.75
"""Of 1, how alike an unknown key and one of ours must be for it to be shown: `prot` and `port` are so."""
LETTERS_MORE = 2
"""How many more letters it may have: no room for a secret."""

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
"""What the parser says without quoting the file."""
_PLACE = re.compile(r"\(at (line [0-9]+, column [0-9]+|end of document)\)\Z")
_INDEX = re.compile(r" - at `\$((?:\[(?:[0-9]+|\.\.\.)\])*)`\Z")


class SettingsError(Exception):
    """A line for the operator: which key, and what was expected. Never holds a value."""


def load(path: Path) -> Settings:
    """Read and check a settings file.

    Raises:
        SettingsError: the file can't be read, is not TOML, or does not say what is expected.
    """
    return _Reader(path.parent).settings(_read_toml(path))


def read_secret(path: Path, key: str, *, pem: bool = False) -> Secret:
    """A secret file's content less one trailing newline: one word of printable ASCII, or a PEM where one may be.

    Args:
        path: the file.
        key: what names it in the settings, and in errors.
        pem: whether a PEM is accepted too; whether it is a good one is for the caller to say.

    Raises:
        SettingsError: unreadable, too large, empty, or of another form.
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
    """The address of Redis, from the settings or the file they name; empty where Sentinels are asked for it.

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


def _read_toml(path: Path) -> dict[str, Any]:
    """The file's tables. Some of the parser's messages quote keys and characters: of those only the place is kept."""
    try:
        text = read_text(path, MAX_FILE)
        if max(map(len, text.splitlines()), default=0) > MAX_LINE:
            raise SettingsError(f"expected lines of {MAX_LINE} characters at the most")
        return tomllib.loads(text)
    except FileError as exc:
        raise SettingsError(str(exc)) from None
    except tomllib.TOMLDecodeError as exc:
        place = _PLACE.search(str(exc))
        fault = str(exc)[: place.start()].strip() if place else ""
        where = f" at {place[1]}" if place else ""
        raise SettingsError(f"expected TOML{where}{f': {fault}' if fault in _TOML_FAULTS else ''}") from None
    except ValueError:
        raise SettingsError("expected TOML with numbers of fewer digits") from None  # more than `int` takes
    except RecursionError:
        raise SettingsError("expected TOML that is nested less deeply") from None


class _Reader:
    """Converts table by table and key by key, so that every error can name its key in words of ours alone.

    Args:
        folder: what relative paths begin at.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._accounts: list[str] = []

    def settings(self, document: dict[str, Any]) -> Settings:
        self._accounts = list(_require_table("accounts", document.get("accounts", {})))
        settings = self._table("", document, Settings)
        if not settings.accounts:
            _fail("accounts", "expected at least one [accounts.NAME] table")
        _check_freshness("freshness", settings.freshness)
        own = {name: table.get("freshness", {}) for name, table in document["accounts"].items()}
        settings = replace(
            settings,
            redis=_redis(settings.redis),
            accounts={
                name: _inheriting(name, account, settings.freshness, own[name])
                for name, account in settings.accounts.items()
            },
        )
        _check_server(settings.server)
        _check_exchange(settings.exchange)
        _check_kubernetes(settings.kubernetes, settings.clients)
        _check_holders("token_sha256", "token", settings.clients)
        _check_holders("service_accounts", "ServiceAccount", settings.clients)
        return settings

    def _table(self, where: str, value: object, into: type[TableT]) -> TableT:
        table, known = _require_table(where, value), {field.name: field for field in fields(into)}
        for key in table:
            if key not in known:
                _fail(where, _unknown(key, known))
        for field in known.values():
            if field.required and field.name not in table:
                _fail(where, f"missing key {field.name}")
        values = {key: self._value(f"{where}.{key}".lstrip("."), each, known[key]) for key, each in table.items()}
        return into(**values)

    def _value(self, where: str, value: object, field: FieldInfo) -> object:
        table, named = _table_type(field.type)
        if table is None:
            return self._leaf(where, value, field.type)
        if not named:
            return self._table(where, value, table)
        tables = _require_table(where, value)
        places = {name: f"{where}.{_shown(name, f'#{number}')}" for number, name in enumerate(tables, 1)}
        grants = where != field.name  # of a client
        for number, name in enumerate(tables, 1):
            if grants and name != "*" and name not in self._accounts:
                known = [each for each in self._accounts if _shown(each) == each]
                expected = f"expected one of the accounts {', '.join(known)} or *{_did_you_mean(name, known)}"
                _fail(f"{where}.#{number}", expected)
            if not re.fullmatch(NAME_PATTERN, name) and not grants:
                _fail(places[name], "expected a name of lower-case letters, digits and -, 63 at the most")
        return {name: self._table(places[name], each, table) for name, each in tables.items()}

    def _leaf(self, where: str, value: object, into: Any) -> object:
        try:
            return msgspec.convert(value, into, dec_hook=self._decode)
        except msgspec.ValidationError as exc:
            index = _INDEX.search(str(exc))
            message = str(exc)[: index.start()] if index else str(exc)
            _fail(where + (index[1] if index else ""), _in_our_words(message, into))
        except (OverflowError, RecursionError):
            _fail(where, "expected a smaller value")

    def _decode(self, into: type, value: object) -> object:
        """The hook for our own types; msgspec turns its ValueErrors into ValidationErrors."""
        if not isinstance(value, str):
            raise ValueError("expected a string")  # noqa: TRY004 - msgspec turns ValueError alone into its own
        if into is Duration:
            return _duration(value)
        if not value.strip() or not value.isprintable():
            raise ValueError("expected the path of a file")
        return self._folder / value


def _inheriting(name: str, account: Account, general: Freshness, own: Mapping[str, object]) -> Account:
    """The account with the general windows where it gives none of its own."""
    freshness = replace(general, **{key: getattr(account.freshness, key) for key in own})
    _check_freshness(f"accounts.{name}.freshness", freshness)
    return replace(account, freshness=freshness)


def _redis(redis: Redis) -> Redis:
    given = [key for key in ("url", "url_file", "sentinels") if getattr(redis, key) not in (None, [])]
    if len(given) > 1:
        _fail("redis", f"expected one of url, url_file and sentinels, found {' and '.join(given)}")
    if bool(redis.sentinels) != (redis.master is not None):
        _fail("redis.master", "expected with sentinels, and only with them")
    for number, sentinel in enumerate(redis.sentinels):
        if host_and_port(sentinel) is None:
            _fail(f"redis.sentinels[{number}]", "expected HOST:PORT, or [ADDRESS]:PORT for IPv6")
    if not given:
        redis = replace(redis, url="redis://127.0.0.1:6379/0")
    if redis.url is not None:
        fault = redis_url_fault(redis.url)
        if fault is not None:
            _fail("redis.url", fault)
        if redis.ca_file is not None and not redis.url.startswith("rediss:"):
            _fail("redis.ca_file", "expected with rediss:// or sentinels only")
    return redis


def _check_server(server: Server) -> None:
    if not is_host(server.host):
        _fail("server.host", "expected an IP address or a host's name")
    if (server.tls_certificate_file is None) != (server.tls_key_file is None):
        _fail("server", "expected tls_certificate_file and tls_key_file together")


def _check_exchange(exchange: Exchange) -> None:
    _check_base_url("exchange.base_url", exchange.base_url)
    if exchange.wallet_url is not None:
        _check_base_url("exchange.wallet_url", exchange.wallet_url)
    if not 0 < exchange.recv_window <= MAX_RECV_WINDOW:
        _fail("exchange.recv_window", "expected more than 0 and at most 60s")
    if exchange.timeout <= 0:
        _fail("exchange.timeout", "expected more than 0")
    if exchange.weight_limit * exchange.weight_share < MIN_WEIGHT:
        _fail("exchange.weight_limit", f"expected weight_share of it to be at least {MIN_WEIGHT}")


def _check_base_url(key: str, url: str) -> None:
    fault = base_url_fault(url)
    if fault is not None:
        _fail(key, fault)


def _check_freshness(where: str, freshness: Freshness) -> None:
    if freshness.fresh_for <= 0:
        _fail(f"{where}.fresh_for", "expected more than 0")


def _check_kubernetes(kubernetes: Kubernetes | None, clients: dict[str, Client]) -> None:
    for name, client in clients.items():
        if client.service_accounts and kubernetes is None:
            _fail(f"clients.{_shown(name)}.service_accounts", "expected with a [kubernetes] table only")
    if kubernetes is not None:
        _check_base_url("kubernetes.api_server", kubernetes.api_server)


def _check_holders(key: str, what: str, clients: dict[str, Client]) -> None:
    """Nobody's identity may be another client's too."""
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
    """The struct that a key's type is, and whether the key holds any number of them by name."""
    if get_origin(kind) is dict:
        return get_args(kind)[1], True
    options = get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)
    tables = [each for each in options if isinstance(each, type) and issubclass(each, Table)]
    return (tables[0] if tables else None), False


def _shown(name: str, instead: str = "…") -> str:
    """A table's name if it is certainly one; else its number in the file, for a secret may stand in its place."""
    certain = name == "*" or (re.fullmatch(NAME_PATTERN, name) and not re.search(LONG_RUN, name))
    return name if certain else instead


def _unknown(key: str, known: Iterable[str]) -> str:
    """An unknown key is shown only beside one that it was meant for."""
    near = _did_you_mean(key, known)
    return f"unknown key {key}{near}" if near else "unknown key, like none that is expected"


def _did_you_mean(word: str, known: Iterable[str]) -> str:
    long_enough = [each for each in known if len(word) <= len(each) + LETTERS_MORE]
    near = difflib.get_close_matches(word, long_enough, 1, NEAR)
    return f": did you mean {near[0]}?" if near else ""


def _duration(text: str) -> Duration:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError('expected a duration with a unit, such as "250ms", "1s" or "2m"')
    milliseconds = Decimal(match[1]) * _UNITS[match[2]]
    if milliseconds % 1:
        raise ValueError("expected whole milliseconds")
    if milliseconds > LONGEST:
        raise ValueError("expected 24h at the most")
    return Duration(milliseconds)


def _in_our_words(message: str, kind: Any) -> str:
    """What msgspec expected. Its messages of other forms may quote the value."""
    if message.startswith("expected "):
        return message  # our own, by the hook
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
    """A type, all that it is made of, and the descriptions among them."""
    yield kind
    for meta in getattr(kind, "__metadata__", ()):
        if meta.description:
            yield meta.description
    if get_origin(kind) is not Literal:
        for each in (getattr(kind, "__origin__", None), *get_args(kind)):
            if each is not kind and not isinstance(each, msgspec.Meta) and each is not None:
                yield from _walk(each)


def _fail(key: str, expected: str) -> NoReturn:
    raise SettingsError(f"{key}: {expected}" if key else expected) from None  # what it came of may quote the value
