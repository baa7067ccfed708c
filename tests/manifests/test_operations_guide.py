"""The operators' guide is true: its figures follow from the code, its settings load, its objects are the manifests'."""

import math
import re
from pathlib import Path

import pytest

from service.account.documents import ACCOUNT, DOCUMENTS
from service.cache.policy import windows
from service.fleet.budget import MINUTE
from service.settings import Duration, Exchange, Freshness, Settings
from service.settings_file import load
from tests.guides import blocks
from tests.manifests.rendered import MADE_ELSEWHERE, Manifests

ROOT = Path(__file__).parents[2]
PAGE = "docs/operations.md"
GUIDE = (ROOT / PAGE).read_text()
PRODUCTION = ROOT / "k8s/overlays/production/gateway.toml"
SHARE = Exchange().weight_limit * Exchange().weight_share
"""Weight a minute."""


def commands() -> list[str]:
    return [line.strip() for block in blocks(PAGE, "sh") for line in block.splitlines() if line.strip()]


def weight(accounts: int, fresh_for: float) -> float:
    """A minute, of accounts that are always read; seconds."""
    return accounts * ACCOUNT.weight * MINUTE / 1000 / fresh_for


def in_percent(accounts: int, fresh_for: float) -> str:
    percent = 100 * weight(accounts, fresh_for) / SHARE
    return "over" if percent > 100 else str(round(percent))


def with_tables(folder: Path, tables: str) -> Settings:
    """The production overlay's settings with tables of the guide at their end."""
    (folder / "gateway.toml").write_text(PRODUCTION.read_text() + tables)
    return load(folder / "gateway.toml")


def test_the_table_of_documents_is_what_each_costs() -> None:
    rows = re.findall(r"^\| ([a-z-]+) \| `.*` \| (\d) \| ([\d.]+)(?:: one call an hour)? \|$", GUIDE, re.MULTILINE)
    freshness = Freshness(fresh_for=Duration(1_000))
    per_minute = {each: each.weight * MINUTE / windows(each, freshness).fresh_for for each in DOCUMENTS}
    assert rows == [(each.name, str(each.weight), f"{round(per_minute[each], 2):g}") for each in DOCUMENTS]


def test_the_table_of_weights_is_what_the_settings_cost() -> None:
    (head,) = re.findall(r"^\| accounts \| `fresh_for` (.*) \|$", GUIDE, re.MULTILINE)
    windows = [0.5 if each == "500ms" else float(each.removesuffix("s")) for each in head.split(" | ")]
    rows = [row.split(" | ") for row in re.findall(r"^\| (\d+ \| .*) \|$", GUIDE, re.MULTILINE)]
    assert len(windows) == 5
    assert len(rows) == 7
    for accounts, *told in rows:
        assert told == [in_percent(int(accounts), window) for window in windows], accounts


@pytest.mark.parametrize("seconds", [1, 2, 5])
def test_an_address_has_room_for_as_many_accounts_as_it_says(seconds: int) -> None:
    section = GUIDE.partition("## Capacity")[2].split("\n\n")[1]
    at = dict(re.findall(r"(\d+)(?: accounts)? at (?:a `fresh_for` of )?(\d+) s", section.replace("\n", " ")))
    told = {int(window): int(accounts) for accounts, window in at.items()}
    assert told[seconds] == math.floor(SHARE / weight(1, seconds))


def test_its_example_of_several_addresses_is_reckoned_by_its_own_formula() -> None:
    wanted = weight(20, 1)
    assert f"20 accounts at 1 s want {wanted:,.0f} a minute: four addresses" in GUIDE
    assert math.ceil(wanted / SHARE) == 4
    assert f"{SHARE:,.0f}" in GUIDE
    assert f" {weight(1, 1):.0f} ÷" in GUIDE


def test_a_team_and_an_account_of_its_examples_are_taken_into_the_production_settings(tmp_path: Path) -> None:
    team, account = blocks(PAGE, "toml")
    settings = with_tables(tmp_path, team + account)
    assert settings.clients["reporting"].accounts["main"].assets == ["BTC"]
    assert settings.accounts["hedge"].api_key_file == tmp_path / "hedge.api_key"


def test_the_secrets_it_makes_are_those_that_are_mounted() -> None:
    made = {
        name: dict.fromkeys(re.findall(r"--from-file=(\S+)", rest))
        for name, rest in re.findall(r"create secret generic (\S+) (.*)", GUIDE)
    }
    assert {name: set(keys) for name, keys in made.items()} == {
        name: set(MADE_ELSEWHERE[name]) for name in ("coinm-gateway-accounts", "coinm-gateway-redis")
    }


@pytest.mark.parametrize("command", [each for each in commands() if "kustomize k8s" in each])
def test_the_overlays_it_applies_exist(command: str) -> None:
    (folder,) = re.findall(r"kustomize (k8s/\S+)", command)
    assert (ROOT / folder / "kustomization.yaml").is_file()


def test_its_commands_name_objects_that_there_are(manifests: Manifests) -> None:
    (namespace,) = [each["metadata"]["name"] for each in manifests.of("Namespace")]
    here = [each for each in commands() if f"--namespace {namespace} " in each]
    there = {
        f"{kind.lower()}/{each['metadata']['name']}"
        for kind in ("Deployment", "Service")
        for each in manifests.of(kind)
    }
    named = {name for each in here for name in re.findall(r"(?:deployment|service)/\S+", each)}
    assert named
    assert named <= there
