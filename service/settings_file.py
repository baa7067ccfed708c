"""One TOML file into `Settings`, and the secret files beside it.

Read once, complete, silent about secrets: every error names the file, the key and what was expected, never the
value. Durations become whole milliseconds, relative paths relative to the TOML file.
"""

import ipaddress
import re
import tomllib
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from service.settings import (
    NAME_PATTERN,
    Account,
    Client,
    ClientGrant,
    Duration,
    Exchange,
    Freshness,
    Kubernetes,
    Redis,
    Secret,
    Server,
    Settings,
)

T = TypeVar("T")

MAX_RECV_WINDOW = 60_000
"""Ms; the exchange's own bound."""

MIN_WEIGHT = 10
"""A minute and address: what the first refresh of all costs (account 5, clock 3, exchangeInfo 1, a probe 1)."""

_HOST = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?")
LONGEST = 24 * 3_600_000
"""Ms; no window or deadline of the gateway makes sense beyond a day."""

_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h)")


class SettingsError(Exception):
    """A line for the operator: which file, which key, what was expected. Never holds a secret."""


def load(path: Path) -> Settings:
    """Read and check a settings file.

    Raises:
        SettingsError: the file can't be read, is not TOML, or does not say what is expected.
    """
    return _Reader(path).settings(_read_toml(path))


def read_secret(path: Path) -> Secret:
    """A secret file's content less one trailing newline.

    Raises:
        SettingsError: unreadable, not UTF-8, or nothing but white space.
    """
    try:
        text = path.read_text("utf-8")
    except OSError as exc:
        raise SettingsError(f"{path}: cannot be read: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: expected UTF-8 text") from None
    if not text.strip():
        raise SettingsError(f"{path}: expected a secret, found nothing")
    return Secret(text.removesuffix("\n").removesuffix("\r"))


def secrets_of(settings: Settings) -> list[Secret]:
    """Every secret the settings name, for the logs' mask.

    Raises:
        SettingsError: a secret file is not what is expected.
    """
    redis = settings.redis
    files = [file for each in settings.accounts.values() for file in (each.api_key_file, each.secret_key_file)]
    files += [file for file in (redis.url_file, redis.password_file, redis.sentinel_password_file) if file]
    url = redis.url or (read_secret(redis.url_file).reveal() if redis.url_file else "")
    parts = _split(url)
    if parts is None:
        raise SettingsError(f"{redis.url_file}: expected redis://, rediss:// or unix://")
    password = parts.password
    return [read_secret(file) for file in files] + ([Secret(unquote(password)), Secret(password)] if password else [])


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except OSError as exc:
        raise SettingsError(f"{path}: cannot be read: {exc.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{path}: expected UTF-8 text") from None
    except tomllib.TOMLDecodeError as exc:
        raise SettingsError(f"{path}: expected TOML: {exc}") from None


class _Reader:
    """Converts table by table, so that an error can name accounts and clients, not just "a value"."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def settings(self, document: dict[str, Any]) -> Settings:
        accounts = self._tables("accounts", document.pop("accounts", {}))
        clients = self._tables("clients", document.pop("clients", {}))
        settings = self._convert("", document | {"accounts": {}}, Settings)
        if not accounts:
            self._fail("accounts", "expected at least one [accounts.NAME] table")
        self._check_freshness("freshness", settings.freshness)
        settings = msgspec.structs.replace(
            settings,
            redis=self._redis(settings.redis),
            accounts={name: self._account(name, table, settings) for name, table in accounts.items()},
            clients={name: self._client(name, table, accounts) for name, table in clients.items()},
        )
        self._check_server(settings.server)
        self._check_exchange(settings.exchange)
        self._check_kubernetes(settings.kubernetes, settings.clients)
        self._check_holders("token_sha256", "token", settings.clients)
        self._check_holders("service_accounts", "ServiceAccount", settings.clients)
        return settings

    def _account(self, name: str, table: dict[str, Any], settings: Settings) -> Account:
        where = f"accounts.{name}"
        own = table.pop("freshness", {})
        account = self._convert(where, table, Account)
        overrides = self._convert(f"{where}.freshness", own, Freshness)
        given = {key: getattr(overrides, key) for key in own}
        freshness = msgspec.structs.replace(settings.freshness, **given)
        self._check_freshness(f"{where}.freshness", freshness)
        return msgspec.structs.replace(account, freshness=freshness)

    def _client(self, name: str, table: dict[str, Any], accounts: dict[str, Any]) -> Client:
        where = f"clients.{name}"
        grants = self._tables(f"{where}.accounts", table.pop("accounts", {}), also="*")
        for account in grants:
            if account != "*" and account not in accounts:
                self._fail(f"{where}.accounts.{account}", f"expected one of the accounts {sorted(accounts)} or *")
        client = self._convert(where, table, Client)
        converted = {
            account: self._convert(f"{where}.accounts.{account}", grant, ClientGrant)
            for account, grant in grants.items()
        }
        return msgspec.structs.replace(client, accounts=converted)

    def _redis(self, redis: Redis) -> Redis:
        given = [key for key in ("url", "url_file", "sentinels") if getattr(redis, key) not in (None, [])]
        if len(given) > 1:
            self._fail("redis", f"expected one of url, url_file and sentinels, found {' and '.join(given)}")
        if bool(redis.sentinels) != (redis.master is not None):
            self._fail("redis.master", "expected with sentinels, and only with them")
        for sentinel in redis.sentinels:
            if not re.fullmatch(r".+:[0-9]{1,5}", sentinel):
                self._fail("redis.sentinels", 'expected "host:port"')
        if not given:
            redis = msgspec.structs.replace(redis, url="redis://127.0.0.1:6379/0")
        if redis.url is not None:
            fault = redis_url_fault(redis.url)
            if fault is not None:
                self._fail("redis.url", fault)
            if redis.ca_file is not None and not redis.url.startswith("rediss:"):
                self._fail("redis.ca_file", "expected with rediss:// or sentinels only")
        return redis

    def _check_server(self, server: Server) -> None:
        if (server.tls_certificate_file is None) != (server.tls_key_file is None):
            self._fail("server", "expected tls_certificate_file and tls_key_file together")

    def _check_exchange(self, exchange: Exchange) -> None:
        self._check_base_url("exchange.base_url", exchange.base_url)
        if exchange.wallet_url is not None:
            self._check_base_url("exchange.wallet_url", exchange.wallet_url)
        if not 0 < exchange.recv_window <= MAX_RECV_WINDOW:
            self._fail("exchange.recv_window", "expected more than 0 and at most 60s")
        if exchange.timeout <= 0:
            self._fail("exchange.timeout", "expected more than 0")
        if exchange.weight_limit * exchange.weight_share < MIN_WEIGHT:
            self._fail(
                "exchange.weight_limit",
                f"expected weight_share of it to be at least {MIN_WEIGHT}",
            )

    def _check_base_url(self, key: str, url: str) -> None:
        parts = _split(url)
        if parts is None or parts.scheme not in ("https", "http") or not _HOST.fullmatch(parts.netloc):
            self._fail(key, "expected https://HOST or https://HOST:PORT")
        if parts.path.strip("/") or parts.query or parts.fragment:
            self._fail(key, "expected no path: the gateway knows the paths")
        if parts.scheme == "http" and not _is_loopback(parts.hostname):
            self._fail(key, "expected https (http only to a loopback host)")

    def _check_freshness(self, where: str, freshness: Freshness) -> None:
        if freshness.fresh_for <= 0:
            self._fail(f"{where}.fresh_for", "expected more than 0")

    def _check_kubernetes(self, kubernetes: Kubernetes | None, clients: dict[str, Client]) -> None:
        for name, client in clients.items():
            if client.service_accounts and kubernetes is None:
                self._fail(f"clients.{name}.service_accounts", "expected with a [kubernetes] table only")
        if kubernetes is not None:
            self._check_base_url("kubernetes.api_server", kubernetes.api_server)

    def _check_holders(self, key: str, what: str, clients: dict[str, Client]) -> None:
        """Nobody's identity may be another client's too."""
        holders: dict[str, str] = {}
        for name, client in clients.items():
            for identity in getattr(client, key):
                if holders.setdefault(identity, name) != name:
                    self._fail(f"clients.{name}.{key}", f"expected a {what} of its own, not {holders[identity]}'s")

    def _tables(self, where: str, tables: object, also: str | None = None) -> dict[str, dict[str, Any]]:
        if not isinstance(tables, dict):
            self._fail(where, "expected a table")
        named = cast("dict[str, Any]", tables)
        for name, table in named.items():
            if name != also:
                self._check_name(f"{where}.{name}", name)
            if not isinstance(table, dict):
                self._fail(f"{where}.{name}", "expected a table")
        return named

    def _check_name(self, where: str, name: str) -> None:
        if not re.fullmatch(NAME_PATTERN, name):
            self._fail(where, "expected a name of lower-case letters, digits and -, 63 at the most")

    def _convert(self, where: str, value: object, into: type[T]) -> T:
        try:
            return msgspec.convert(value, into, dec_hook=self._decode)
        except msgspec.ValidationError as exc:
            message, _, path = str(exc).partition(" - at `$")
            key = f"{where}{path.rstrip('`')}".lstrip(".")
            self._fail(key, _in_our_words(message))

    def _decode(self, into: type, value: object) -> object:
        """The hook for our own types; msgspec turns its ValueErrors into ValidationErrors that name the key."""
        if not isinstance(value, str):
            raise ValueError("expected a string")  # noqa: TRY004 - msgspec turns ValueError alone into its own
        if into is Duration:
            return _duration(value)
        return self._path.parent / value

    def _fail(self, key: str, expected: str) -> NoReturn:
        raise SettingsError(f"{self._path}: {key}: {expected}" if key else f"{self._path}: {expected}")


def redis_url_fault(url: str) -> str | None:
    """What is wrong with an address of Redis, if anything; never quotes it, for it may hold a password."""
    parts = _split(url)
    if parts is None or parts.scheme not in ("redis", "rediss", "unix"):
        return "expected redis://, rediss:// or unix://"
    if parts.query:
        return "expected no query: it would override the gateway's own time-outs"
    return None


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # checked only when it is read
    except ValueError:
        return None
    return parts


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


def _in_our_words(message: str) -> str:
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", message)
    if unknown:
        return f"unknown key {unknown[1]}"
    missing = re.fullmatch(r"Object missing required field `(.*)`", message)
    if missing:
        return f"missing key {missing[1]}"
    return message[:1].lower() + message[1:]


def _is_loopback(host: str | None) -> bool:
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"
