import msgspec
import pytest

from service.settings import Duration, Exchange, Freshness, Secret, mask_url

SECRET = Secret("canary")


def test_a_secret_shows_nowhere_by_accident() -> None:
    assert "canary" not in f"{SECRET} {SECRET!r} {[SECRET]} {SECRET!s:>20}"
    assert SECRET.reveal() == "canary"
    with pytest.raises(TypeError):
        msgspec.json.encode({"secret": SECRET})


def test_a_duration_is_milliseconds_and_says_so() -> None:
    assert (Duration(1_500).seconds, f"{Duration(1_500)}") == (1.5, "1500ms")


def test_the_hard_cap_counts_from_the_end_of_freshness() -> None:
    assert Freshness().hard_cap == 61_000
    assert Freshness(stale_while_revalidate=Duration(90_000)).hard_cap == 91_000


def test_the_exchanges_host_keeps_its_port() -> None:
    assert Exchange().host == "dapi.binance.com"
    assert Exchange(base_url="http://127.0.0.1:8100").host == "127.0.0.1:8100"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://redis:6379/0", "redis://redis:6379/0"),
        ("redis://:canary@redis:6379/0", "redis://…@redis:6379/0"),
        ("rediss://user:canary@redis/1", "rediss://…@redis/1"),
        ("redis://user:can@ary@redis/1", "redis://…@redis/1"),  # an @ in the password
        ("redis://redis/0?password=canary", "redis://redis/0"),
        ("unix://canary@/run/redis.sock?db=1", "unix://…@/run/redis.sock"),
    ],
)
def test_a_url_is_shown_without_what_could_be_secret(url: str, shown: str) -> None:
    assert mask_url(url) == shown
