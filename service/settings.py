"""Every setting of the gateway, as frozen structs. `service.settings_file` reads them from TOML."""

# A type here is the whole rule for one key; `settings_file._check` has the rules over several. A `Meta.description` is
# the text after "expected" in an error: it says what the pattern accepts, and the value is never shown.
#
# No secret shows by accident: `Secret` masks itself and refuses to be encoded, and `effective` (so every `repr` too)
# masks all text that is not on a list of keys. A new key's text is masked until the key is added there.

from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from service.addresses import mask_url

NAME_PATTERN = r"[a-z0-9][a-z0-9-]{0,62}"
"""Of accounts and clients."""
MAX_NAME = 64
"""Characters of an asset's or a symbol's name; the exchange's longest have some 20."""
EXCHANGE_NAME_PATTERN = rf"[^\x00-\x1f\x7f-\x9f\ud800-\udfff/,]{{1,{MAX_NAME}}}"
"""Of assets and symbols: any text that the exchange may use, except control characters and halves of surrogate pairs.
`/` and `,` separate names in paths and lists."""
Asset = Annotated[
    str,
    Meta(pattern=rf"^{EXCHANGE_NAME_PATTERN}\Z", description="the name of an asset, without / or ,"),
]
ServiceAccount = Annotated[
    str,
    Meta(
        pattern=r"^[a-z0-9][a-z0-9-]{0,62}/[a-z0-9][a-z0-9.-]{0,252}\Z", description="a ServiceAccount, NAMESPACE/NAME"
    ),
]
"""`namespace/name`."""
Digest = Annotated[
    str, Meta(pattern=r"^[0-9a-f]{64}\Z", description="the SHA-256 of a token, 64 hex digits in lower case")
]
LONG_RUN = r"[A-Za-z0-9]{32}"
"""Keys, tokens, digests and PEM have so many letters and digits in a row; no name that people give has."""
Label = Annotated[
    str,
    Meta(
        pattern=rf"^(?!.*{LONG_RUN})[A-Za-z0-9._-]{{1,64}}\Z",
        description="a name of letters, digits, ., _ and -, 64 at the most and fewer than 32 in a row without . _ or -",
    ),
]
"""Safe in answers' headers, metrics and Redis keys, where an API key pasted here by mistake would stay visible."""
MasterName = Annotated[str, Meta(pattern=r"^[!-~]{1,253}\Z", description="the name of a master, printable ASCII")]
Port = Annotated[int, Meta(ge=0, le=65535)]
Positive = Annotated[int, Meta(ge=1)]
Sides = Annotated[list[Literal["BOTH", "LONG", "SHORT"]], Meta(min_length=1)]


IN_CLUSTER = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""The folder of a pod's own token and the API server's CA."""


class Duration(int):
    """Whole milliseconds, written `250ms`, `1.5s`, `2m` or `1h`."""

    __slots__ = ()

    @property
    def seconds(self) -> float:
        return self / 1000


class Secret:
    """Text that never shows by accident: `repr` and f-strings mask it; msgspec and pickle refuse to encode it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    def __copy__(self) -> "Secret":  # copying would otherwise pickle it
        return self

    def __deepcopy__(self, memo: object) -> "Secret":
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled")


class Table(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A TOML table; a misspelt key is an error, never ignored."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({effective(self)})"


Scheduling = Literal["batch", "normal"]
"""How the process's threads take turns on a core; see `service.process`."""


class Server(Table, frozen=True, kw_only=True):
    """Where the gateway listens, and how much it serves at a time."""

    host: str = "127.0.0.1"
    port: Port = 8000
    metrics_port: Port = 9464
    drain: Duration = Duration(5_000)
    waiters: Positive = 2_000
    """Reads that may wait for a refresh at a time."""
    scheduling: Scheduling = "normal"
    tls_certificate_file: Path | None = None
    tls_key_file: Path | None = None


class Redis(Table, frozen=True, kw_only=True):
    """Where the shared state lives: one of `url`, `url_file`, `sentinels` with `master`."""

    url: str | None = None
    url_file: Path | None = None
    sentinels: list[str] = []
    master: MasterName | None = None
    password_file: Path | None = None
    sentinel_password_file: Path | None = None
    ca_file: Path | None = None
    key_prefix: Label = "coinm"


class Exchange(Table, frozen=True, kw_only=True):
    """How the exchange is called, and how much of the address's weight that may use."""

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
        """Host and port: part of every Redis key, so that testnet data is never taken for live data."""
        return urlsplit(self.base_url).netloc


class Freshness(Table, frozen=True, kw_only=True):
    """How old an answer may be; the `stale_…` windows start at the end of `fresh_for`."""

    fresh_for: Duration = Duration(1_000)
    stale_while_revalidate: Duration = Duration(2_000)
    stale_if_error: Duration = Duration(60_000)
    min_refresh_interval: Duration = Duration(1_000)

    @property
    def revalidate_until(self) -> int:
        """Ms of age up to which a stale answer is served while it is refreshed."""
        return self.fresh_for + self.stale_while_revalidate

    @property
    def error_until(self) -> int:
        """Ms of age up to which a stale answer is served while the exchange can't be called."""
        return self.fresh_for + self.stale_if_error

    @property
    def hard_cap(self) -> int:
        """Ms; nothing older is ever served."""
        return max(self.revalidate_until, self.error_until)


class Kubernetes(Table, frozen=True, kw_only=True):
    """How callers' ServiceAccount tokens are reviewed: the audience they must name, and the API server."""

    audience: Annotated[str, Meta(min_length=1, max_length=253)]
    api_server: str = "https://kubernetes.default.svc"
    ca_file: Path = IN_CLUSTER / "ca.crt"
    token_file: Path = IN_CLUSTER / "token"


class Log(Table, frozen=True, kw_only=True):
    """How much is logged."""

    hits: Positive = 1
    """One line per so many reads answered from memory; any other answer always has its line."""


class Audit(Table, frozen=True, kw_only=True):
    """Where the line about every read is written."""

    file: Path | None = None
    """None: stdout."""
    queue: Positive = 10_000
    """Lines that may wait to be written."""
    when_full: Literal["drop", "refuse"] = "drop"
    """When the queue is full: the line is lost and counted, or the read is refused."""


class Account(Table, frozen=True, kw_only=True):
    """One exchange account: its credential's files, and those of its windows that differ."""

    api_key_file: Path
    secret_key_file: Path
    freshness: Freshness = Freshness()


class ClientGrant(Table, frozen=True, kw_only=True):
    """What a client may see of one account."""

    assets: Literal["all"] | Annotated[list[Asset], Meta(min_length=1)]
    position_sides: Literal["all"] | Sides = "all"


class Client(Table, frozen=True, kw_only=True):
    """A caller and its grants; without grants it sees nothing."""

    token_sha256: list[Digest] = []
    service_accounts: list[ServiceAccount] = []
    requests_per_second: Annotated[float, Meta(gt=0, le=1_000_000)] | None = None
    accounts: dict[str, ClientGrant] = {}


class Settings(Table, frozen=True, kw_only=True):
    """The whole settings file."""

    environment: Label = "production"
    server: Server = Server()
    redis: Redis = Redis()
    exchange: Exchange = Exchange()
    freshness: Freshness = Freshness()
    kubernetes: Kubernetes | None = None
    audit: Audit | None = None
    log: Log = Log()
    accounts: dict[str, Account] = {}
    clients: dict[str, Client] = {}


_SHOWN = frozenset({"environment", "egress", "key_prefix", "host", "scheduling", "when_full", "sentinels"})
"""The keys whose text is a label, a host or a word of ours; all other text is masked."""
_URLS = frozenset({"url", "base_url", "wallet_url", "api_server"})


def effective(table: Table) -> dict[str, Any]:
    """The settings in force, for a log: numbers, names, the hosts of URLs, and no other text."""
    return {name: _shown(name, getattr(table, name)) for name in table.__struct_fields__}


def _shown(key: str, value: object) -> Any:
    match value:
        case Table():
            return effective(value)
        case dict():
            return {name: _shown(key, each) for name, each in value.items()}
        case Duration():
            return f"{value}ms"
        case None | bool() | int() | float():
            return value
        case str() if key in _URLS:
            return mask_url(value)
        case _ if key in _SHOWN:
            return value
        case list():
            return f"{len(value)} given"
        case _:
            return "…"
