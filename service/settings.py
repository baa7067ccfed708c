"""Everything the gateway can be told, as frozen structs. `service.settings_file` reads them."""

from pathlib import Path
from typing import Annotated, Any, Literal, cast
from urllib.parse import SplitResult, urlsplit

import msgspec
from msgspec import Meta, Struct

NAME_PATTERN = r"[a-z0-9][a-z0-9-]{0,62}"
"""Of accounts and clients."""
MAX_NAME = 64
"""Characters of an asset's or a symbol's name; the exchange's longest have some 20."""
EXCHANGE_NAME_PATTERN = rf"[^\x00-\x1f\x7f-\x9f\ud800-\udfff/,]{{1,{MAX_NAME}}}"
"""Of assets and symbols: any text that the exchange may use, but for control characters and halves of surrogate pairs.
`/` and `,` separate names in paths and lists."""
Asset = Annotated[str, Meta(pattern=rf"^{EXCHANGE_NAME_PATTERN}\Z")]
ServiceAccount = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,62}/[a-z0-9][a-z0-9.-]{0,252}\Z")]
"""`namespace/name`."""
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Label = Annotated[str, Meta(pattern=r"^[A-Za-z0-9._-]{1,64}\Z")]  # safe in headers, metrics and Redis keys
Port = Annotated[int, Meta(ge=0, le=65535)]
Positive = Annotated[int, Meta(ge=1)]
Sides = Annotated[list[Literal["BOTH", "LONG", "SHORT"]], Meta(min_length=1)]


IN_CLUSTER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds its own token and the API server's CA."""


class Duration(int):
    """Whole milliseconds, written `250ms`, `1.5s`, `2m` or `1h`."""

    __slots__ = ()

    @property
    def seconds(self) -> float:
        return self / 1000

    def __str__(self) -> str:
        return f"{int(self)}ms"


class Secret:
    """Text that shows nowhere by accident: not in `repr`, not in f-strings, and msgspec refuses to encode it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"


class Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A TOML table; a misspelt key is an error, never ignored."""


Scheduling = Literal["batch", "normal"]
"""How the process's threads take turns on a core; see `service.process`."""


class Server(Table, frozen=True, kw_only=True):
    """Where the gateway listens."""

    host: str = "127.0.0.1"
    port: Port = 8000
    metrics_port: Port = 9464
    drain: Duration = Duration(5_000)
    scheduling: Scheduling = "batch"
    tls_certificate_file: Path | None = None
    tls_key_file: Path | None = None


class Redis(Table, frozen=True, kw_only=True):
    """Where the shared state lives: one of `url`, `url_file`, `sentinels` with `master`."""

    url: str | None = None
    url_file: Path | None = None
    sentinels: list[str] = []
    master: str | None = None
    password_file: Path | None = None
    sentinel_password_file: Path | None = None
    ca_file: Path | None = None
    key_prefix: Label = "coinm"


class Exchange(Table, frozen=True, kw_only=True):
    """How the exchange is asked, and how much of the address's weight may be spent on it."""

    base_url: str = "https://dapi.binance.com"
    recv_window: Duration = Duration(5_000)
    timeout: Duration = Duration(5_000)
    egress: Label = "default"
    weight_limit: Positive = 2_400
    weight_share: Annotated[float, Meta(gt=0, le=1)] = 0.8
    expected_replicas: Positive = 3
    wallet_url: str | None = None

    @property
    def host(self) -> str:
        """Host and port: part of every Redis key, so that testnet is never taken for live."""
        return urlsplit(self.base_url).netloc


class Freshness(Table, frozen=True, kw_only=True):
    """How old an answer may be; `stale_…` count from the end of `fresh_for`."""

    fresh_for: Duration = Duration(1_000)
    stale_while_revalidate: Duration = Duration(2_000)
    stale_if_error: Duration = Duration(60_000)
    min_refresh_interval: Duration = Duration(1_000)

    @property
    def hard_cap(self) -> int:
        """Ms; nothing older is ever served."""
        return self.fresh_for + max(self.stale_while_revalidate, self.stale_if_error)


class Kubernetes(Table, frozen=True, kw_only=True):
    """Whose ServiceAccounts may call, and where their tokens are reviewed."""

    audience: Annotated[str, Meta(min_length=1, max_length=253)]
    api_server: str = "https://kubernetes.default.svc"
    ca_file: Path = IN_CLUSTER / "ca.crt"
    token_file: Path = IN_CLUSTER / "token"


class Log(Table, frozen=True, kw_only=True):
    """How much is logged."""

    hits: Positive = 1
    """One line for so many reads that were met from memory; all that is not well has its line in any case."""


class Audit(Table, frozen=True, kw_only=True):
    """Where a line about every read goes."""

    file: Path | None = None
    """None: stdout."""
    queue: Positive = 10_000
    """Lines that may wait to be written."""
    when_full: Literal["drop", "refuse"] = "drop"
    """What becomes of a line that finds no room: lost and counted, or the read is refused."""


class Account(Table, frozen=True, kw_only=True):
    """One exchange account: its credential's files, and its own windows where they differ."""

    api_key_file: Path
    secret_key_file: Path
    freshness: Freshness = Freshness()


class ClientGrant(Table, frozen=True, kw_only=True):
    """What a client may see of one account."""

    assets: Literal["all"] | Annotated[list[Asset], Meta(min_length=1)]
    position_sides: Literal["all"] | Sides = "all"


class Client(Table, frozen=True, kw_only=True):
    """Who may call; without grants it sees nothing."""

    token_sha256: list[Digest] = []
    service_accounts: list[ServiceAccount] = []
    requests_per_second: Annotated[float, Meta(gt=0, le=1_000_000)] | None = None
    accounts: dict[str, ClientGrant] = {}


class Settings(Table, frozen=True, kw_only=True):
    """Everything the gateway can be told."""

    environment: Label = "production"
    server: Server = Server()
    redis: Redis = Redis()
    exchange: Exchange = Exchange()
    freshness: Freshness = Freshness()
    kubernetes: Kubernetes | None = None
    audit: Audit | None = None
    log: Log = Log()
    accounts: dict[str, Account]
    clients: dict[str, Client] = {}


def effective(settings: Settings) -> dict[str, Any]:
    """The settings as they are in force, for the one log line at start; what could be secret is masked."""
    shown = msgspec.to_builtins(settings, enc_hook=str)
    if settings.redis.url is not None:
        shown["redis"]["url"] = mask_url(settings.redis.url)
    for client in shown["clients"].values():
        client["token_sha256"] = [f"{digest[:8]}…" for digest in client["token_sha256"]]
    return cast("dict[str, Any]", shown)


def mask_url(url: str) -> str:
    """A URL without its user, password and query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return SplitResult(parts.scheme, f"…@{host}" if "@" in parts.netloc else host, parts.path, "", "").geturl()
