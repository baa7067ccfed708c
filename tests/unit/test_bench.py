"""What the benchmark makes of its rounds; the rounds themselves are measured by `make bench` alone."""

import re
from pathlib import Path

import pytest

from bench.exchange import statement_of
from bench.measure import Results, Round
from bench.processes import Load
from bench.report import ratios, table
from bench.world import BARE
from service.account.parsing import parse
from simulator.exchange import Exchange

ROOT = Path(__file__).parents[2]


def rounds(*rates: float) -> list[Round]:
    steady = Load(requests=1, microseconds=1, failed=0, p50=1_000, p99=2_500, p999=9_000)
    return [Round(rate, 1e6 / rate, steady) for rate in rates]


def test_ratios_are_of_the_same_round_and_their_median_counts() -> None:
    results = Results({BARE: rounds(100, 200, 400), "other": rounds(50, 180, 200)}, {BARE: 2**20, "other": 2**21})
    assert results.ratios("other", BARE, lambda each: each.rate) == [0.5, 0.9, 0.5]
    *_, bare, other = table(results)
    assert bare == f"| {BARE} | 200 (100 to 400) | 1.00 | 5,000 (2,500 to 10,000) | 1.00 | 1.00 | 2.50 | 9.00 | 1 |"
    assert "| 180 (50 to 200) | 0.50 |" in other


def test_the_commonest_reads_are_compared_with_every_peer() -> None:
    names = ("gateway: one asset", "gateway: one position", "gateway: one asset, unchanged (304)", BARE, "nginx")
    results = Results({name: rounds(10 * number, 20 * number) for number, name in enumerate(names, 1)}, {})
    *_, bare, nginx = ratios(results)
    assert bare == f"| {BARE} | 0.25 | 4.00 | 1.00 | 0.50 | 2.00 | 1.00 |"
    assert nginx == "| nginx | 0.20 | 5.00 | 1.00 | 0.40 | 2.50 | 1.00 |"


@pytest.mark.parametrize("rows", [30, 31, 300])
def test_the_exchange_has_as_many_position_rows_as_it_is_told(rows: int) -> None:
    snapshot = parse(statement_of(Exchange(), rows), 0, 0, {})
    assert len(snapshot.positions) == rows
    assert len({row.symbol for row in snapshot.positions}) == rows


def test_the_results_are_of_the_targets_that_there_are() -> None:
    text = (ROOT / "bench/RESULTS.md").read_text()
    told = re.findall(r"^\| ([^|]+) \| [0-9,]+ \(", text, re.MULTILINE)
    assert BARE in told
    assert "nginx proxy_cache" in told
    assert len([name for name in told if name.startswith("gateway: ")]) == 8
