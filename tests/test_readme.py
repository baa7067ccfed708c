"""The README is true: its settings are the settings, its example starts, its commands exist."""

import re
from pathlib import Path

import msgspec
import pytest
import yaml
from click.testing import CliRunner

from service.cli import main
from service.kubernetes import errors, reviews, token_review
from service.settings import (
    Account,
    Audit,
    Client,
    ClientGrant,
    Duration,
    Exchange,
    Freshness,
    Kubernetes,
    Log,
    Redis,
    Server,
    Settings,
)
from service.settings_file import load
from simulator.signature import DEMO_API_KEY, DEMO_SECRET_KEY
from tests.fleet.redis_servers import ACL
from tests.guides import blocks

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()

TABLES: dict[str, type[msgspec.Struct]] = {
    "server": Server,
    "redis": Redis,
    "exchange": Exchange,
    "freshness": Freshness,
    "kubernetes": Kubernetes,
    "audit": Audit,
    "log": Log,
    "accounts.NAME": Account,
    "clients.NAME": Client,
    "clients.NAME.accounts.ACCOUNT": ClientGrant,
}
NESTED = {"accounts.NAME.freshness", "clients.NAME.accounts"}


def documented() -> dict[str, str]:
    """The settings table: key to default, as written."""
    section = README.partition("## Settings")[2].partition("## Operations")[0]
    rows = re.findall(r"^\| (`[^|]+) \| ([^|]+) \|", section, re.MULTILINE)
    return {key: default.strip() for keys, default in rows for key in re.findall(r"`([^`]+)`", keys)}


def actual() -> dict[str, str]:
    """Every key there is, and its default as the README writes it."""
    keys = {"environment": f'`"{Settings.__struct_defaults__[0]}"`'}
    for table, struct in TABLES.items():
        for field in msgspec.structs.fields(struct):
            if f"{table}.{field.name}" not in NESTED:
                keys[f"{table}.{field.name}"] = written(field)
    return keys


def written(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    default = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    match default:
        case None:
            return "none"
        case Duration():
            return f'`"{default // 1000}s"`'
        case str() | Path():
            return f'`"{default}"`'
        case _:
            return f"`{default}`"


def test_the_settings_table_lists_every_key_with_its_default() -> None:
    # The address of Redis is filled in only where nothing else says it; overrides stand in one row.
    filled_in = {"redis.url": "none", "redis.sentinels": "`[]`", "accounts.NAME.freshness.…": ""}
    told = documented() | {key: default for key, default in filled_in.items() if default}
    told.pop("accounts.NAME.freshness.…")

    assert actual() == told


def test_the_example_settings_load(tmp_path: Path) -> None:
    example = blocks("README.md", "toml")
    (tmp_path / "gateway.toml").write_text(re.sub("<64 hex[^>]*>", "0" * 64, example[0]))

    settings = load(tmp_path / "gateway.toml")

    assert list(settings.accounts) == ["main"]
    assert settings.clients["risk"].accounts["main"].assets == ["BTC", "ETH"]


def test_the_kubernetes_examples_fit_together(tmp_path: Path) -> None:
    _, example = blocks("README.md", "toml")
    pod, binding = (yaml.safe_load(block) for block in blocks("README.md", "yaml"))
    account = '[accounts.main]\napi_key_file = "a"\nsecret_key_file = "b"\n'
    (tmp_path / "gateway.toml").write_text(account + example)
    settings = load(tmp_path / "gateway.toml")
    (volume,), (container,) = pod["spec"]["volumes"], pod["spec"]["containers"]
    (source,) = volume["projected"]["sources"]

    assert settings.kubernetes is not None
    assert source["serviceAccountToken"]["audience"] == settings.kubernetes.audience
    assert [mount["name"] for mount in container["volumeMounts"]] == [volume["name"]]
    assert settings.clients["risk"].service_accounts == [f"desk/{pod['spec']['serviceAccountName']}"]
    assert binding["roleRef"]["name"] in errors.FAILURES["forbidden"]


@pytest.mark.parametrize(
    ("words", "number"),
    [
        (r"an accepted token for (\d+) s", token_review.ACCEPTED_FOR // 1000),
        (r"stops within (\d+) s", token_review.ACCEPTED_FOR // 1000),
        (r"a refused one for (\d+) s", token_review.REFUSED_FOR // 1000),
        (r"Of the rest (\d+) are reviewed", reviews.AT_ONCE),
        (r"API server away\*\*, slow \((\d+) s\)", int(reviews.REVIEW_TIMEOUT_S)),
    ],
)
def test_what_it_says_of_token_reviews_is_so(words: str, number: int) -> None:
    assert re.findall(words, README) == [str(number)]


def test_the_troubles_it_calls_errors_are_those_that_people_must_act_on() -> None:
    (told,) = re.findall(r"an error where people must act: (.*?)\)", README, re.DOTALL)
    assert set(re.findall(r"`([a-z-]+)`", told)) == errors.MISCONFIGURED


@pytest.mark.parametrize("command", sorted(set(re.findall(r"coinm-gateway ([a-z]+)", README))))
def test_every_command_it_names_exists_and_explains_itself(command: str) -> None:
    result = CliRunner().invoke(main, [command, "--help"])

    assert result.exit_code == 0
    assert f"Usage: main {command}" in result.output


@pytest.mark.parametrize("target", sorted(set(re.findall(r"make ([a-z]+)", README))))
def test_every_make_target_it_names_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_no_example_holds_the_simulators_keys() -> None:
    assert DEMO_API_KEY not in README
    assert DEMO_SECRET_KEY not in README


def test_the_redis_user_is_the_one_the_fleet_tests_prove() -> None:
    assert f"\n{ACL}\n" in README
