"""What the benchmark makes of its rounds; the rounds themselves are measured by `make bench` alone."""

import re
from pathlib import Path

import pytest

from bench.exchange import statement_of
from bench.measure import Results, Round
from bench.processes import Load
from bench.report import BATCHES, INSTALLED, SAMPLED, grid, ratios, spread, table
from bench.world import BARE, BenchServers, Setup
from service import settings, settings_file
from service.access import tokens
from service.account.documents import ACCOUNT
from service.account.parsing import parse
from simulator.exchange import Exchange

ROOT = Path(__file__).parents[2]


def rounds(*rates: float) -> list[Round]:
    steady = Load(requests=1, microseconds=1, failed=0, p50=1_000, p99=2_500, p999=9_000)
    return [Round(rate, 1e6 / rate, steady) for rate in rates]


def settings_of(setup: Setup, folder: Path) -> settings.Settings:
    servers = BenchServers(folder, redis=6379, exchange=8001, token=tokens.generate())
    (file := folder / "gateway.toml").write_text(servers.settings(setup, 8002, 8003))
    return settings_file.load(file)


def test_ratios_are_of_the_same_round_and_their_median_counts() -> None:
    results = Results({BARE: rounds(100, 200, 400), "other": rounds(50, 180, 200)}, {BARE: 2**20, "other": 2**21})
    assert results.ratios("other", BARE, lambda each: each.rate) == [0.5, 0.9, 0.5]
    *_, bare, other = table(results).splitlines()
    assert bare == f"| {BARE} | 200 (100 to 400) | 1.00 | 5,000 (2,500 to 10,000) | 1.00 | 1.00 | 2.50 | 9.00 | 1 |"
    assert "| 180 (50 to 200) | 0.50 |" in other


def test_the_commonest_read_is_compared_with_every_peer_as_installed_and_otherwise() -> None:
    names = (INSTALLED, SAMPLED, BATCHES, "gateway: one asset, unchanged (304)", BARE, "nginx")
    results = Results({name: rounds(10 * number, 20 * number) for number, name in enumerate(names, 1)}, {})
    *_, bare, nginx = ratios(results).splitlines()
    assert bare == f"| {BARE} | 0.20 | 5.00 | 1.00 | 0.40 | 2.50 | 1.00 | 0.60 | 1.67 | 1.00 |"
    assert nginx == "| nginx | 0.17 | 6.00 | 1.00 | 0.33 | 3.00 | 1.00 | 0.50 | 2.00 | 1.00 |"


def test_a_grid_has_a_column_for_each_name_and_spreads_name_the_extremes() -> None:
    text = grid("rows|CPU", [("30", spread([3, 1, 2.5], ".1f"))])
    assert text == "| rows | CPU |\n|--:|--:|\n| 30 | 2.5 (1.0 to 3.0) |"


@pytest.mark.parametrize("rows", [30, 31, 300])
def test_the_exchange_has_as_many_position_rows_as_it_is_told(rows: int) -> None:
    _, positions = parse(ACCOUNT, statement_of(Exchange(), rows), 0, 0, {}).rows.values()
    assert len(positions) == rows
    assert len({row.symbol for row in positions}) == rows


def test_the_measured_gateway_has_the_default_settings(tmp_path: Path) -> None:
    found = settings_of(Setup(), tmp_path)
    assert (found.log, found.freshness) == (settings.Log(), settings.Freshness())
    assert found.server == settings.Server(port=8002, metrics_port=8003)


def test_another_gateway_differs_in_what_its_setup_names(tmp_path: Path) -> None:
    setup = Setup(
        accounts=3, log_hits=100, scheduling="batch", fresh_for="5s", fleet="one", tokens=(tokens.generate(),)
    )
    found = settings_of(setup, tmp_path)
    assert (found.log.hits, found.server.scheduling, found.freshness.fresh_for) == (100, "batch", 5_000)
    assert (list(found.accounts), len(found.clients), found.redis.key_prefix) == (["main", "a1", "a2"], 2, "one")


def test_the_results_are_of_the_targets_that_there_are() -> None:
    text = (ROOT / "bench/RESULTS.md").read_text()
    told = re.findall(r"^\| ([^|]+) \| [0-9,]+ \(", text, re.MULTILINE)
    assert BARE in told
    assert "nginx proxy_cache" in told
    assert len([name for name in told if name.startswith("gateway: ")]) >= 8
