import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.settings import ClientGrant, Freshness, Kubernetes, Settings, effective
from service.settings_file import SettingsError, load, read_secret, secrets_of

HASH = "ab" * 32

EXAMPLE = f"""
environment = "production"
[server]
host = "127.0.0.1"
port = 8000
metrics_port = 9464
drain = "5s"
tls_certificate_file = "tls/tls.crt"
tls_key_file = "tls/tls.key"
[redis]
url = "redis://127.0.0.1:6379/0"
key_prefix = "coinm"
[exchange]
base_url = "https://dapi.binance.com"
recv_window = "5s"
timeout = "5s"
egress = "default"
weight_limit = 2400
weight_share = 0.8
expected_replicas = 3
[freshness]
fresh_for = "1s"
stale_while_revalidate = "2s"
stale_if_error = "60s"
min_refresh_interval = "1s"
[accounts.main]
api_key_file = "secrets/main/api_key"
secret_key_file = "secrets/main/secret_key"
[accounts.spare]
api_key_file = "/etc/spare/api_key"
secret_key_file = "../secret_key"
[accounts.spare.freshness]
fresh_for = "250ms"
[clients.risk]
token_sha256 = ["{HASH}", "{"cd" * 32}"]
requests_per_second = 200
[clients.risk.accounts.main]
assets = ["BTC", "ETH"]
position_sides = ["LONG"]
[clients.risk.accounts."*"]
assets = "all"
[clients.nobody]
"""

ACCOUNT = '[accounts.main]\napi_key_file = "a"\nsecret_key_file = "s"\n'

Load = Callable[[str], Settings]


@pytest.fixture
def loaded(tmp_path: Path) -> Load:
    """Writes a settings file and reads it."""

    def write_and_load(text: str) -> Settings:
        file = tmp_path / "gateway.toml"
        file.write_text(text)
        return load(file)

    return write_and_load


def test_the_contracts_example_is_taken_as_it_stands(loaded: Load, tmp_path: Path) -> None:
    settings = loaded(EXAMPLE)
    assert (settings.environment, settings.server.drain, settings.exchange.weight_share) == ("production", 5_000, 0.8)
    assert settings.server.tls_key_file == tmp_path / "tls/tls.key"
    assert settings.clients["risk"].requests_per_second == 200
    assert settings.clients["risk"].accounts["main"] == ClientGrant(assets=["BTC", "ETH"], position_sides=["LONG"])
    assert settings.clients["risk"].accounts["*"] == ClientGrant(assets="all", position_sides="all")
    assert settings.clients["nobody"].accounts == {}


def test_what_is_left_out_is_as_the_example_says(loaded: Load) -> None:
    bare, example = loaded(ACCOUNT), loaded(EXAMPLE)
    for table in ("environment", "exchange", "redis", "freshness"):
        assert getattr(bare, table) == getattr(example, table)
    assert (bare.server.host, bare.server.port, bare.server.metrics_port) == ("127.0.0.1", 8000, 9464)
    assert bare.server.tls_certificate_file is None
    assert bare.clients == {}


def test_a_pod_finds_the_api_server_by_itself(loaded: Load) -> None:
    kubernetes = loaded(f'{ACCOUNT}[kubernetes]\naudience = "coinm-gateway"').kubernetes
    assert kubernetes == Kubernetes(audience="coinm-gateway")
    assert kubernetes is not None
    assert kubernetes.token_file == Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


def test_paths_are_relative_to_the_file(loaded: Load, tmp_path: Path) -> None:
    accounts = loaded(EXAMPLE).accounts
    assert accounts["main"].api_key_file == tmp_path / "secrets/main/api_key"
    assert accounts["spare"].api_key_file == Path("/etc/spare/api_key")
    assert accounts["spare"].secret_key_file == tmp_path / "../secret_key"


def test_an_accounts_windows_override_key_by_key(loaded: Load) -> None:
    settings = loaded(EXAMPLE.replace('stale_if_error = "60s"', 'stale_if_error = "7s"'))
    assert settings.accounts["spare"].freshness == Freshness(
        fresh_for=settings.accounts["spare"].freshness.fresh_for, stale_if_error=settings.freshness.stale_if_error
    )
    assert [settings.accounts[name].freshness.fresh_for for name in ("main", "spare")] == [1_000, 250]
    assert settings.accounts["main"].freshness == settings.freshness


@pytest.mark.parametrize(
    "redis",
    [
        'url = "rediss://redis:6379/0"\nca_file = "ca.pem"',
        'url = "unix:///run/redis.sock"',
        'url_file = "secrets/redis_url"',
        'sentinels = ["a:26379", "b:26379"]\nmaster = "m"\nsentinel_password_file = "q"\nca_file = "c"',
    ],
)
def test_redis_is_found_by_any_one_way(loaded: Load, redis: str) -> None:
    way = redis.partition(" ")[0]
    assert getattr(loaded(f"{ACCOUNT}[redis]\n{redis}").redis, way)


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("250ms", 250),
        ("1s", 1_000),
        ("1.5s", 1_500),
        ("2m", 120_000),
        ("1h", 3_600_000),
        ("0.001s", 1),
        ("1.005s", 1_005),
    ],
)
def test_a_duration_is_a_number_with_its_unit(loaded: Load, text: str, milliseconds: int) -> None:
    assert loaded(f'{ACCOUNT}[exchange]\ntimeout = "{text}"').exchange.timeout == milliseconds


@given(milliseconds=st.integers(1, 10_000_000))
def test_seconds_with_three_decimals_are_whole_milliseconds(
    milliseconds: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "durations.toml"
    seconds = f"{milliseconds // 1_000}.{milliseconds % 1_000:03d}s"
    file.write_text(f'{ACCOUNT}[exchange]\ntimeout = "{seconds}"')
    assert load(file).exchange.timeout == milliseconds


@pytest.mark.parametrize(
    "value",
    ['"5"', "5", "5.0", '""', '"5 s"', '"-5s"', '"1d"', '"1S"', '"1s2s"', '"s"', '"1e3ms"', '"0.0001s"', '"\u0665s"'],
)
def test_what_is_no_duration_is_refused(loaded: Load, value: str) -> None:
    with pytest.raises(SettingsError, match=r"^freshness\.stale_if_error: expected "):
        loaded(f"{ACCOUNT}[freshness]\nstale_if_error = {value}")


WHOLE = [
    ("", "accounts: expected at least one [accounts.NAME] table"),
    ("x = ", "expected TOML"),
    ("accounts = 1", "accounts: expected a table"),
    ("[accounts]\nmain = 1", "accounts.main: expected a table"),
    ("[accounts.main]", "accounts.main: missing key api_key_file"),
    (ACCOUNT.replace("main", "Main"), "accounts.#1: expected a name"),
    (ACCOUNT.replace("main", '"*"'), "accounts.*: expected a name"),
    (ACCOUNT.replace("main", "a" * 64), "accounts.#1: expected a name"),
    (ACCOUNT.replace('"a"', "1"), "accounts.main.api_key_file: expected a string"),
    ("color = 1\n" + ACCOUNT, "unknown key, like none that is expected"),
    ('environment = ""\n' + ACCOUNT, "environment: expected a name of letters, digits, ., _ and -, 64 at the most"),
    ('environment = "a b"\n' + ACCOUNT, "environment: expected a name of letters, digits, ., _ and -, 64 at the most"),
]

GRANT = "[clients.risk.accounts.main]"

# What follows a whole account.
APPENDED = [
    ("[watch]", "unknown key, like none that is expected"),
    ("[kubernetes]", "kubernetes: missing key audience"),
    ('[kubernetes]\naudience = ""', "kubernetes.audience: expected `str` of length >= 1"),
    ('[kubernetes]\naudience = "a"\napi_server = "http://h"', "kubernetes.api_server: expected https"),
    (
        '[clients.risk]\nservice_accounts = ["ns/a"]',
        "clients.risk.service_accounts: expected with a ",
    ),
    (
        '[clients.risk]\nservice_accounts = ["a"]',
        "clients.risk.service_accounts[0]: expected a ServiceAccount, NAMESPACE/NAME",
    ),
    (
        (
            '[kubernetes]\naudience = "a"\n'
            '[clients.a]\nservice_accounts = ["n/s"]\n[clients.b]\nservice_accounts = ["n/s"]'
        ),
        "clients.b.service_accounts: expected a ServiceAccount of its own, not a's",
    ),
    ('[exchange]\nwallet_url = "https://h/sapi"', "exchange.wallet_url: expected no path"),
    ('[audit]\nwhen_full = "fail"', "audit.when_full: expected one of drop, refuse"),
    ("[audit]\nqueue = 0", "audit.queue: expected `int` >= 1"),
    ("[server]\nprot = 1", "server: unknown key prot: did you mean port?"),
    ('[redis]\npassword = "canary"', "redis: unknown key password: did you mean password_file?"),
    ("[exchange]\nproxy = 1", "exchange: unknown key, like none that is expected"),
    ("[freshness]\nfresh = 1", "freshness: unknown key, like none that is expected"),
    ('secret_key = "canary"', "accounts.main: unknown key secret_key: did you mean secret_key_file?"),
    ("[accounts.main.freshness]\nx = 1", "accounts.main.freshness: unknown key, like none that is expected"),
    ('[clients.risk]\ntoken = "canary"', "clients.risk: unknown key, like none that is expected"),
    (f'{GRANT}\nassets = "all"\nx = 1', "clients.risk.accounts.main: unknown key, like none that is expected"),
    ("freshness = 1", "accounts.main.freshness: expected a table"),
    ('[accounts.main.freshness]\nfresh_for = "0s"', "accounts.main.freshness.fresh_for: expected more than 0"),
    ('[freshness]\nfresh_for = "0s"', "freshness.fresh_for: expected more than 0"),
    ("[server]\nport = 65536", "server.port: expected `int` <= 65535"),
    ('[server]\nport = "80"', "server.port: expected `int`"),
    ('[server]\ntls_key_file = "k"', "server: expected tls_certificate_file and tls_key_file together"),
    ('[redis]\nurl = "redis://:canary@h"\nurl_file = "f"', "redis: expected one of url, url_file and sentinels"),
    ('[redis]\nurl = "http://:canary@h"', "redis.url: expected redis://, rediss:// or unix://"),
    ('[redis]\nurl = ""', "redis.url: expected redis://, rediss:// or unix://"),
    ('[redis]\nurl = "redis://h?password=canary"', "redis.url: expected no query"),
    ('[freshness]\nfresh_for = "25h"', "freshness.fresh_for: expected 24h at the most"),
    ("[exchange]\nweight_limit = 11", "exchange.weight_limit: expected weight_share of it to be at least 10"),
    ('[accounts.""]\napi_key_file = "a"\nsecret_key_file = "s"', "accounts.#2: expected a name"),
    ('[redis]\nurl = "redis://:canary@[h"', "redis.url: expected redis://HOST or redis://HOST:PORT"),
    ('[redis]\nurl = "redis://h"\nca_file = "ca.pem"', "redis.ca_file: expected "),  # no TLS to check with it
    ('[redis]\nsentinels = ["h:1"]', "redis.master: expected with sentinels"),
    ('[redis]\nmaster = "m"', "redis.master: expected with sentinels"),
    ('[redis]\nsentinels = ["h"]\nmaster = "m"', "redis.sentinels[0]: expected HOST:PORT, or [ADDRESS]:PORT for IPv6"),
    ('[redis]\nkey_prefix = "a:b"', "redis.key_prefix: expected a name of letters"),
    ('[exchange]\nrecv_window = "60001ms"', "exchange.recv_window: expected more than 0 and at most 60s"),
    ('[exchange]\nrecv_window = "0s"', "exchange.recv_window: expected more than 0 and at most 60s"),
    ('[exchange]\ntimeout = "0s"', "exchange.timeout: expected more than 0"),
    ("[exchange]\nweight_limit = 0", "exchange.weight_limit: expected `int` >= 1"),
    ("[exchange]\nweight_share = 0", "exchange.weight_share: expected `float` > 0"),
    ("[exchange]\nweight_share = 1.01", "exchange.weight_share: expected `float` <= 1"),
    ("[exchange]\nweight_share = nan", "exchange.weight_share: expected `float`"),
    ("[exchange]\nexpected_replicas = 0", "exchange.expected_replicas: expected `int` >= 1"),
    ("[clients.risk]\nrequests_per_second = 0", "clients.risk.requests_per_second: expected `float` > 0"),
    ("[clients.risk]\nrequests_per_second = inf", "clients.risk.requests_per_second: expected "),
    ('[clients.risk]\ntoken_sha256 = ["canary"]', "clients.risk.token_sha256[0]: expected the SHA-256 of a token"),
    (
        f'[clients.risk]\ntoken_sha256 = ["{HASH.upper()}"]',
        "clients.risk.token_sha256[0]: expected the SHA-256 of a token",
    ),
    ('[clients."*"]', "clients.*: expected a name"),
    (GRANT, "clients.risk.accounts.main: missing key assets"),
    (f"{GRANT}\nassets = []", "clients.risk.accounts.main.assets: expected `array` of length >= 1"),
    (f'{GRANT}\nassets = ["B,C"]', "clients.risk.accounts.main.assets[0]: expected the name of an asset"),
    (f'{GRANT}\nassets = "BTC"', 'clients.risk.accounts.main.assets: expected "all" or a list'),
    (
        f'{GRANT}\nassets = "all"\nposition_sides = ["long"]',
        "clients.risk.accounts.main.position_sides[0]: expected one of all, BOTH, LONG, SHORT",
    ),
    (GRANT.replace("main", "other"), "clients.risk.accounts.#1: expected one of the accounts main or *"),
    (
        GRANT.replace("main", "mian"),
        "clients.risk.accounts.#1: expected one of the accounts main or *: did you mean main?",
    ),
]


@pytest.mark.parametrize(("text", "message"), [*WHOLE, *((ACCOUNT + text, message) for text, message in APPENDED)])
def test_an_error_names_the_file_and_the_key_and_shows_no_secret(loaded: Load, text: str, message: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        loaded(text)
    assert str(refusal.value).startswith(message)
    assert "canary" not in str(refusal.value)


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        ("https://testnet.binancefuture.com", True),
        ("http://localhost:8100", True),
        ("http://127.0.0.1:8100", True),
        ("http://127.9.9.9", True),
        ("http://[::1]:8100", True),
        ("http://dapi.binance.com", False),
        ("http://10.0.0.1", False),
        ("http://localhost.example.com", False),
        ("http://0.0.0.0:8100", False),
        ("https://", False),
        ("ftp://dapi.binance.com", False),
        ("dapi.binance.com", False),
        ("https://dapi.binance.com/dapi", False),
        ("https://dapi.binance.com?x=1", False),
        ("https://user:canary@dapi.binance.com", False),
        ("https://dapi.binance.com:port", False),
        ("https://dapi.binance.com:65536", False),
        ("https://[dapi.binance.com", False),
    ],
)
def test_the_exchange_is_asked_over_tls_or_on_this_machine(loaded: Load, url: str, *, taken: bool) -> None:
    text = f'{ACCOUNT}[exchange]\nbase_url = "{url}"'
    if taken:
        assert loaded(text).exchange.base_url == url
    else:
        with pytest.raises(SettingsError, match=r"exchange\.base_url: expected ") as refusal:
            loaded(text)
        assert "canary" not in str(refusal.value)


def test_a_token_belongs_to_one_client(loaded: Load) -> None:
    with pytest.raises(
        SettingsError, match=r"clients\.b\.token_sha256: expected a token of its own, not a's"
    ) as refusal:
        loaded(f'{ACCOUNT}[clients.a]\ntoken_sha256 = ["{HASH}"]\n[clients.b]\ntoken_sha256 = ["{HASH}"]')
    assert HASH not in str(refusal.value)


def test_a_file_that_can_not_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^cannot be read: No such file or directory$"):
        load(tmp_path / "nowhere.toml")


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (b"secret", "secret"),
        (b"secret\n", "secret"),
        (b"secret\r\n", "secret"),
        (b"\xef\xbb\xbfsecret\r\n", "secret"),  # a byte-order mark
    ],
)
def test_a_secret_loses_one_trailing_newline(tmp_path: Path, content: bytes, secret: str) -> None:
    file = tmp_path / "secret"
    file.write_bytes(content)
    assert read_secret(file, "key").reveal() == secret


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "expected a secret, found nothing"),
        (b"\xef\xbb\xbf\n", "expected a secret, found nothing"),
        (b" \t\r\n", "expected a secret, found nothing"),
        (b"canary\n\n", "expected one word of printable ASCII"),  # one newline is trimmed, no more
        (b" canary\n", "expected one word of printable ASCII"),
        (b"canary two", "expected one word of printable ASCII"),
        (b"canary\0", "expected one word of printable ASCII"),
        ("canär".encode(), "expected one word of printable ASCII"),
        (b"-----BEGIN canary", "expected one word of printable ASCII"),
        (b"\xff\xfec\0a\0n\0", "expected UTF-8 text, found UTF-16"),
        (b"canary\xff", "expected UTF-8 text"),
        (b"canary" * 16 * 1024, "expected 64 KiB at the most"),
    ],
)
def test_a_secret_of_another_form_is_refused_by_its_key(tmp_path: Path, content: bytes, expected: str) -> None:
    file = tmp_path / "canary"
    file.write_bytes(content)
    with pytest.raises(SettingsError) as refusal:
        read_secret(file, "redis.password_file")
    assert str(refusal.value) == f"redis.password_file: {expected}"


def test_the_effective_settings_are_complete_and_masked(loaded: Load) -> None:
    shown = effective(loaded(EXAMPLE.replace("redis://", "redis://user:canary@")))
    assert shown["redis"]["url"] == "redis://…@127.0.0.1:6379"
    assert shown["clients"]["risk"]["token_sha256"] == "2 given"
    assert shown["accounts"]["main"]["api_key_file"] == "…"
    assert shown["exchange"]["timeout"] == "5000ms"
    assert "canary" not in str(shown)
    assert HASH not in str(shown)


def test_an_address_of_redis_that_is_none_is_refused_without_quoting_it(loaded: Load, tmp_path: Path) -> None:
    for name in ("a", "s"):
        (tmp_path / name).write_text("x")
    settings = loaded(f'{ACCOUNT}[redis]\nurl_file = "url"')
    (tmp_path / "url").write_text("redis://:canary[@h#:6379")
    with pytest.raises(SettingsError, match=r"^redis\.url_file: expected no fragment") as refusal:
        secrets_of(settings)
    assert "canary" not in str(refusal.value)


@pytest.mark.parametrize("file", ["/dev/zero", "/", "pipe", "nowhere", "nowhere/" + "x" * 300])
def test_what_is_no_file_to_read_is_refused_at_once(loaded: Load, tmp_path: Path, file: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    settings = loaded(ACCOUNT.replace('"a"', f'"{file}"'))
    with pytest.raises(SettingsError, match=r"^accounts\.main\.api_key_file: (expected a regular|cannot be read: )"):
        secrets_of(settings)


def test_a_byte_order_mark_begins_a_file_as_well_as_none(tmp_path: Path) -> None:
    (tmp_path / "gateway.toml").write_text("\ufeff" + EXAMPLE, "utf-8")
    assert load(tmp_path / "gateway.toml").accounts.keys() == {"main", "spare"}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"# canary \xff", "expected UTF-8 text"),
        ("x = 1".encode("utf-16"), "expected UTF-8 text, found UTF-16"),
        (b"#\n" * 2**20, "expected 1024 KiB at the most"),
        (b"x = " + b"[" * 10_000, "expected TOML that is nested less deeply"),
        (b"a" + b".a" * 100_000 + b" = 1", "expected lines of 16384 characters at the most"),
        (b"x = " + b"9" * 5_000, "expected TOML with numbers of fewer digits"),
        (b'[canary]\n[canary]\nx = "canary"', "expected TOML at line 2, column 8"),
        (b'canary = "canary', "expected TOML at end of document: Unterminated string"),
        (b'x = "canary\\qcanary"', "expected TOML at line 1, column 14"),
        (b"canary canary", "expected TOML at line 1, column 8: Expected '=' after a key in a key/value pair"),
    ],
    ids=["latin", "utf-16", "large", "deep", "wide", "long", "twice", "open", "escape", "no value"],
)
def test_what_is_no_settings_file_is_refused_in_words_of_ours(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "gateway.toml").write_bytes(content)
    with pytest.raises(SettingsError) as refusal:
        load(tmp_path / "gateway.toml")
    assert str(refusal.value) == expected
