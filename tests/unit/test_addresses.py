"""What is taken for an address is one to the libraries too, and what is shown of it is no secret."""

from typing import Any
from urllib.parse import quote, urlsplit

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from service.addresses import base_url_fault, host_and_port, is_host, mask_url, redis_url_fault

HOSTS = [
    "h",
    "redis_master",
    "redis-0.redis.svc.cluster.local",
    "10.0.0.1",
    "::1",
    "fe80::1",
    "a" * 63,
    "xn--bcher-kva.example",
]
NO_HOSTS = [
    "",
    "a b",
    "bücher",
    "a" * 64,
    ".".join(["a" * 63] * 5),
    "a..b",
    "-a",
    "a-",
    "999.1.1.1",
    "1.2.3",
    "fe80::1%eth0",
    "[::1]",
    "h:1",
    "user@h",
]


@pytest.mark.parametrize("host", HOSTS)
def test_an_address_or_a_name_in_ascii_is_a_host(host: str) -> None:
    assert is_host(host)
    assert host_and_port(f"[{host}]:1" if ":" in host else f"{host}:1") == (host, 1)


@pytest.mark.parametrize("host", NO_HOSTS)
def test_what_a_resolver_would_choke_on_is_no_host(host: str) -> None:
    assert not is_host(host)
    assert base_url_fault(f"https://{host}") or host in {"[::1]", "h:1"}


@pytest.mark.parametrize(
    "text",
    [
        ":canary@h:26379",
        "user:canary@h:1",
        "h",
        "h:",
        "h:0",
        "h:65536",
        "::1:26380",
        "[h]:1",
        "h:1/canary",
        "h:1 ",
        "h:\u0661",
    ],
)
def test_a_sentinel_is_a_host_and_a_port_and_nothing_else(text: str) -> None:
    assert host_and_port(text) is None


REDIS = [
    ("redis://redis:6379/0", "redis://redis:6379"),
    ("redis://:canary@redis.:6379", "redis://…@redis.:6379"),
    ("rediss://user:can:ary@redis/1", "rediss://…@redis"),
    ("redis://user@[::1]/", "redis://…@[::1]"),
    ("unix:///run/canary.sock", "unix://…"),
    ("unix://user:canary@/run/redis.sock", "unix://…@…"),
]


@pytest.mark.parametrize(("url", "shown"), REDIS)
def test_a_url_of_redis_is_taken_and_shown_without_user_path_or_query(url: str, shown: str) -> None:
    assert redis_url_fault(url) is None
    assert mask_url(url) == shown


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("redis://u:p@ss/w#x@h/0", "fragment"),
        ("redis://:can#ary@h/0", "fragment"),
        ("redis://:can/ary@h/0", "one @"),
        ("redis://:c@nary@h/0", "one @"),
        ("redis://:can?ary@h/0", "query"),
        ("redis://h?password=canary", "query"),
        ("redis://h/canary", "the number of a database"),
        ("redis://h/0/canary", "the number of a database"),
        ("redis://:canary@", "redis://HOST"),
        ("redis://:canary@h:port", "redis://HOST"),
        ("redis://:canary@[h", "redis://HOST"),
        ("redis://:canary@bücher", "printable ASCII"),
        ("redis://:can\tary@h", "printable ASCII"),
        ("unix://canary", "unix:///PATH"),
        ("unix:///", "unix:///PATH"),
        ("unix:///a%00b", "unix:///PATH"),
        ("REDIS://h", "redis://"),
        ("canary", "redis://"),
    ],
)
def test_a_url_that_parsers_may_read_two_ways_is_refused_by_what_is_wrong(url: str, named: str) -> None:
    fault = redis_url_fault(url)
    assert fault is not None
    assert named in fault
    assert "canary" not in fault + mask_url(url)


TEXT = st.text(st.sampled_from("ab1:/@#?%[]._- \t\0é"), max_size=12)


@given(user=TEXT, password=TEXT, host=st.sampled_from([*HOSTS[:4], "[::1]"]), path=st.sampled_from(["", "/", "/3"]))
def test_whatever_is_percent_encoded_is_read_alike_by_redis_and_by_us(
    user: str, password: str, host: str, path: str
) -> None:
    url = f"redis://{quote(user, '')}:{quote(password, '')}@{host}:7{path}"
    assert redis_url_fault(url) is None
    options: Any = Redis.from_url(url).connection_pool.connection_kwargs
    assert (options.get("username", ""), options.get("password", "")) == (user, password)
    assert (options["host"], options["port"]) == (host.strip("[]").lower(), 7)


@given(scheme=st.sampled_from(["redis", "rediss", "unix"]), rest=TEXT)
def test_a_url_that_is_taken_has_one_meaning(scheme: str, rest: str) -> None:
    url = f"{scheme}://{rest}"
    if redis_url_fault(url) is None:
        parts = urlsplit(url)
        assert parts.path.strip("/").isdigit() or not parts.path.strip("/") or scheme == "unix"
        assert not parts.query + parts.fragment
        assert parts.netloc.count("@") <= 1
        _ = Redis.from_url(url)


@given(scheme=st.sampled_from(["https", "http"]), rest=st.one_of(TEXT, st.sampled_from([*HOSTS, *NO_HOSTS])))
def test_a_base_url_that_is_taken_is_one_to_the_http_client(scheme: str, rest: str) -> None:
    url = f"{scheme}://{rest}"
    if base_url_fault(url) is None:
        assert httpx.URL(url).host
        assert httpx.URL(url).raw_path.strip(b"/") == b""
        assert not httpx.URL(url).userinfo
