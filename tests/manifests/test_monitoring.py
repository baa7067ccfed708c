"""Alerts and dashboard ask for what a scrape has, promtool takes it, and each alert has its tests and its section."""

import asyncio
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from k8s import rules
from service.fleet.budget import BarrierReason
from tests.app.harness import Stage
from tests.app.pods import CLIENTS, KUBERNETES, Pods, ask
from tests.manifests.rendered import ROOT, rendered

RUNBOOK = (ROOT / "docs/runbook.md").read_text()
DASHBOARD: dict[str, Any] = msgspec.json.decode((rules.MONITORING / "dashboard.json").read_bytes())
ALERTS = {rule["alert"]: rule for rule in rules.alerts()}
BY_THE_OPERATOR = {"namespace", "pod"}
"""Labels that a scrape of a pod gets on its way into Prometheus."""
_SELECTOR = re.compile(r"\b((?:coinm|process)_[a-z_]+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
_GROUPING = re.compile(r"\b(?:by|on) \(([^)]*)\)")


def panels() -> list[dict[str, Any]]:
    return [each for each in DASHBOARD["panels"] if each["type"] != "row"]


def of_the_dashboard() -> Iterator[tuple[str, str]]:
    """Titles and expressions, with a value for each of Grafana's variables."""
    values = {"$__rate_interval": "1m", "$namespace": "coinm-gateway", "$account": ".*"}
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], re.sub(r"\$\w+", lambda found: values[found.group()], target["expr"])


def expressions() -> Iterator[tuple[str, str]]:
    """Of alerts and panels, by their names."""
    yield from ((name, rule["expr"]) for name, rule in ALERTS.items())
    yield from of_the_dashboard()


Scrape = dict[str, set[str]]
"""Metrics that there are, and their labels."""


@pytest.fixture
async def scrape(tmp_path: Path) -> Scrape:
    """Of a gateway that has met callers of both kinds and too many, a failing exchange and a Redis that is away."""
    stage = Stage(tmp_path, kubernetes=KUBERNETES, clients=CLIENTS, server={"waiters": 1})
    pods = Pods(stage)
    gateway, _ = await stage.start_watched()
    for _ in range(2):  # a miss and a hit
        await ask(gateway, pods.token())
    await stage.advance(10_000)
    stage.exchange.hold()
    waiting = asyncio.create_task(gateway.get())
    await stage.exchange.wait_held()
    await gateway.get()  # one too many
    stage.exchange.release()
    await waiting
    await stage.advance(10_000)
    stage.fail("not-json")
    stage.redis_server.connected = False
    await gateway.get()
    families = list(text_string_to_metric_families(gateway.metrics()))
    await stage.stop()
    found: Scrape = {sample.name: set() for family in families for sample in family.samples}
    for family in families:
        for sample in family.samples:
            found[sample.name] |= set(sample.labels)
    return found


async def test_expressions_ask_for_metrics_and_labels_that_a_scrape_has(scrape: Scrape) -> None:
    for name, expression in expressions():
        asked = _SELECTOR.findall(expression)
        assert asked, name
        assert {metric for metric, _ in asked} <= set(scrape), name
        labels = BY_THE_OPERATOR.union(*(scrape[metric] for metric, _ in asked))
        matched = {label for _, matchers in asked for label in _MATCHER.findall(matchers)}
        grouped = {label.strip() for group in _GROUPING.findall(expression) for label in group.split(",")}
        assert matched | grouped <= labels | {"le"}, name


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_it_means_and_where_it_is_explained(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
    assert "{{" not in rule["annotations"]["description"], "what depends on the case belongs into the summary"


def test_the_runbook_has_a_section_for_each_alert_and_no_other() -> None:
    assert re.findall(r"^## (Coinm\w+)$", RUNBOOK, re.MULTILINE) == list(ALERTS)


def test_the_runbook_names_events_problems_and_settings_that_there_are() -> None:
    source = "".join(file.read_text() for file in (ROOT / "service").rglob("*.py"))
    named = set(re.findall(r"`([a-z]+(?:[_-][a-z]+)+)`", RUNBOOK)) - {"stale-if-error"}
    assert len(named) > 20
    declared = {name: name.removeprefix("coinm_").removesuffix("_total") for name in named}  # metrics are so declared
    assert [name for name in sorted(named) if declared[name] not in source] == []


def test_each_alert_is_fired_by_a_test_and_kept_quiet_by_another() -> None:
    tests = yaml.safe_load(rules.TESTS.read_text())["tests"]
    verdicts = [(each["alertname"], bool(each.get("exp_alerts"))) for test in tests for each in test["alert_rule_test"]]
    assert set(verdicts) == {(name, fires) for name in ALERTS for fires in (True, False)}


def test_the_answers_that_count_as_old_are_those_that_the_policy_gives_where_it_cannot_ask() -> None:
    (told,) = re.findall(r'result=~"([^"]*)"', ALERTS["CoinmSnapshotOld"]["expr"])
    assert set(told.split("|")) == set(get_args(BarrierReason))


def test_promtool_takes_every_expression_of_the_dashboard(promtool: str, tmp_path: Path) -> None:
    recorded = [{"record": f"panel:{number}", "expr": each} for number, (_, each) in enumerate(of_the_dashboard())]
    file = tmp_path / "dashboard.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    said = subprocess.run([promtool, "check", "rules", file], check=False, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout + said.stderr
    assert f"{len(recorded)} rules found" in said.stdout


def test_every_panel_has_its_place_and_says_what_it_shows() -> None:
    taken = set[tuple[int, int]]()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        columns, lines = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        cells = {(column, line) for column in columns for line in lines}
        assert not cells & taken, panel["title"]
        assert max(columns) < 24
        taken |= cells
    assert all(panel["description"] for panel in panels())
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))


def test_the_dashboard_finds_whatever_prometheus_there_is() -> None:
    sources = {msgspec.json.encode(each["datasource"]) for panel in panels() for each in (panel, *panel["targets"])}
    assert sources == {b'{"type":"prometheus","uid":"${datasource}"}'}


def test_what_is_scraped_are_the_gateways_pods_on_their_metrics_port(kubectl: str) -> None:
    production = rendered(kubectl, "production")
    monitor = production.one("PodMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= production.pod["metadata"]["labels"].items()
    (endpoint,) = monitor["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in production.gateway["ports"]}


def test_an_alert_misses_a_replica_where_the_autoscaler_keeps_as_many(kubectl: str) -> None:
    least = rendered(kubectl, "production").one("HorizontalPodAutoscaler")["spec"]["minReplicas"]
    assert f"(coinm_ready) < {least}\n" in ALERTS["CoinmReplicaNotReady"]["expr"].replace(" or ", "\n")


def test_grafana_finds_the_dashboard(kubectl: str) -> None:
    config = rendered(kubectl, "production").one("ConfigMap", "coinm-gateway-dashboard")
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    (content,) = config["data"].values()
    assert msgspec.json.decode(content) == DASHBOARD
