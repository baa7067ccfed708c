import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from service.settings import Duration, Exchange, Freshness, Redis, Secret, Settings

SECRET = Secret("canary")


def test_a_secret_shows_nowhere_by_accident() -> None:
    assert "canary" not in f"{SECRET} {SECRET!r} {[SECRET]} {SECRET!s:>20}"
    assert SECRET.reveal() == "canary"
    assert "canary" not in str(msgspec.to_builtins([SECRET], enc_hook=str))
    assert copy.deepcopy([SECRET]) == [SECRET] == copy.copy([SECRET])


@pytest.mark.parametrize(
    "encode", [msgspec.json.encode, msgspec.msgpack.encode, msgspec.to_builtins, json.dumps, pickle.dumps, vars]
)
def test_a_secret_is_encoded_by_nobody(encode: Callable[[object], object]) -> None:
    with pytest.raises(TypeError) as refusal:
        encode(SECRET)
    assert "canary" not in str(refusal.value)


def test_settings_do_not_show_by_accident_what_may_be_secret() -> None:
    settings = Settings(redis=Redis(url="redis://user:canary@h:6379/0", master="canary", password_file=Path("canary")))
    assert "canary" not in f"{settings} {settings!r} {[settings.redis]}"
    assert "redis://…@h:6379" in repr(settings)
    assert "canary" not in repr(Redis(url="canary"))


def test_a_duration_is_a_plain_number_of_milliseconds_also_in_texts() -> None:
    assert (Duration(1_500).seconds, f"{Duration(1_500)}") == (1.5, "1500")


def test_the_hard_cap_counts_from_the_end_of_freshness() -> None:
    assert Freshness().hard_cap == 61_000
    assert Freshness(stale_while_revalidate=Duration(90_000)).hard_cap == 91_000


def test_the_exchanges_host_keeps_its_port() -> None:
    assert Exchange().host == "dapi.binance.com"
    assert Exchange(base_url="http://127.0.0.1:8100").host == "127.0.0.1:8100"
