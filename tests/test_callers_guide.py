"""The caller's guide says what the code says. That its programs run is proven in `process/test_callers_guide.py`."""

import re
from pathlib import Path
from typing import get_args

import pytest

from service.cache.policy import StaleReason
from service.fleet.budget import BarrierReason
from service.settings import Freshness
from tests.app.contract import PROBLEMS

GUIDE = (Path(__file__).parent.parent / "docs" / "callers.md").read_text()


def section(title: str) -> str:
    return GUIDE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_its_table_of_errors_is_the_closed_list() -> None:
    told = {name: int(status) for name, status in re.findall(r"^\| `([a-z-]+)` \| (\d+) \|", GUIDE, re.MULTILINE)}

    assert told == PROBLEMS


def test_its_cache_statuses_name_every_reason_to_serve_something_old() -> None:
    told = set(re.findall(r"detail=([a-z-]+)", section("How old is it?")))

    assert told == {*get_args(StaleReason), *get_args(BarrierReason), "stale-if-error"}


@pytest.mark.parametrize(
    ("words", "number"),
    [
        (r"By default an answer is up to (\d+) s old", Freshness().fresh_for // 1000),
        (
            r"up to (\d+) s while a refresh is under way",
            (Freshness().fresh_for + Freshness().stale_while_revalidate) // 1000,
        ),
        (r"with the default settings (\d+) s", (Freshness().fresh_for + Freshness().stale_if_error) // 1000),
        (r"`min_refresh_interval` \((\d+) s\)", Freshness().min_refresh_interval // 1000),
    ],
)
def test_the_numbers_it_gives_are_the_defaults(words: str, number: int) -> None:
    assert re.findall(words, GUIDE) == [str(number)]
