"""Settings that change while the gateway runs: in force at once and whole, or not at all."""

import asyncio
import io
from pathlib import Path

import pytest

from service.access import tokens
from service.reload import Reloader, changes, read
from service.settings_file import SettingsError
from simulator.faults import Fault
from simulator.signature import DEMO_API_KEY, DEMO_SECRET_KEY
from tests.app.conftest import MakeStage
from tests.app.harness import ACCOUNT, ASSETS, BTC, Stage, logged, told
from tests.support import TOKENS, bearer, write_settings

OTHER = "/v1/accounts/other/assets"
SECOND_KEY = "secondApiKey".ljust(64, "2")


async def test_a_grant_that_is_narrowed_is_narrow_at_once_on_hits_too(stage: Stage) -> None:
    gateway, reloader = await stage.start_watched()
    assert (await gateway.get(f"{ASSETS}/ETH", "treasury")).status_code == 200
    stage.edit('assets = ["BTC", "ETH"]', 'assets = ["BTC"]')
    await reloader.check_now()
    assert told(await gateway.get(f"{ASSETS}/ETH", "treasury"))[:2] == (403, "forbidden")
    assert [row["asset"] for row in (await gateway.get(ASSETS, "treasury")).json()] == ["BTC"]
    assert stage.account_calls == 1


@pytest.mark.parametrize(
    ("old", "new", "due"),
    [
        ('assets = ["BTC", "ETH"]', 'assets = ["BTC"]', {"BTC"}),
        ("[clients.treasury.accounts.main]", "[clients.nobody.accounts.main]", None),
        ("[clients.treasury", "[clients.renamed", {"BTC", "ETH"}),
    ],
    ids=["narrowed", "taken away", "renamed"],
)
async def test_a_grant_that_changes_while_a_read_waits_binds_its_answer(
    stage: Stage, old: str, new: str, due: set[str] | None
) -> None:
    gateway, reloader = await stage.start_watched()
    stage.exchange.hold()
    waiting = asyncio.create_task(gateway.get(ASSETS, "treasury"))
    await stage.exchange.wait_held()
    stage.file.write_text(stage.file.read_text().replace(old, new))
    await reloader.check_now()
    stage.exchange.release()
    answer = await waiting
    assert (answer.status_code == 200) is (due is not None), answer.text
    if due is not None:
        assert {row["asset"] for row in answer.json()} == due


@pytest.mark.parametrize("path", [BTC, "/binance/main/dapi/v1/account"])
@pytest.mark.parametrize("fault", [None, "500"])
async def test_an_account_whose_name_is_given_to_another_while_a_read_waits_is_not_what_answers_it(
    stage: Stage, path: str, fault: str | None
) -> None:
    gateway, reloader = await stage.start_watched()
    stage.exchange.add_book("second")
    stage.exchange.set_balance("BTC", "77.7", "second")
    stage.exchange.add_secret_key(SECOND_KEY, DEMO_SECRET_KEY, account="second")
    if fault:
        stage.fail(Fault(fault, count=3))
    stage.exchange.hold()
    token = bearer() if path == BTC else {"x-mbx-apikey": TOKENS["risk"]}
    waiting = asyncio.create_task(gateway.caller.get(path, headers=token))
    await stage.exchange.wait_held()
    stage.file.write_text(stage.file.read_text().replace("accounts.main", "accounts.spare"))
    await reloader.check_now()
    stage.file.write_text(stage.file.read_text().replace("accounts.spare", "accounts.main"))
    stage.change_key(SECOND_KEY, known=False)
    await reloader.check_now()
    stage.exchange.release()
    answer = await waiting
    assert (answer.status_code, '"77.70000000"' in answer.text) == (200, True)
    assert stage.account_keys[-1] == SECOND_KEY


async def test_a_client_and_a_token_come_and_go(stage: Stage) -> None:
    gateway, reloader = await stage.start_watched()
    second, newcomer = tokens.generate(), tokens.generate()
    old = tokens.digest(TOKENS["risk"].encode())
    stage.edit(f'"{old}"', f'"{old}", "{tokens.digest(second.encode())}"')
    stage.edit(
        "[clients.nobody]", f'[clients.new]\ntoken_sha256 = ["{tokens.digest(newcomer.encode())}"]\n[clients.nobody]'
    )
    await reloader.check_now()
    for token, status in ((second, 200), (newcomer, 403)):
        answer = await gateway.caller.get(BTC, headers=bearer() | {"authorization": f"Bearer {token}"})
        assert answer.status_code == status
    stage.edit(f'"{old}", ', "")
    await reloader.check_now()
    assert (await gateway.get(BTC)).status_code == 401


async def test_an_account_comes_and_its_readers_wait_for_its_own_call(make_stage: MakeStage) -> None:
    stage = make_stage()
    gateway, reloader = await stage.start_watched()
    assert (await gateway.get(OTHER)).status_code == 403
    stage.edit(
        "[clients.risk]",
        '[accounts.other]\napi_key_file = "secrets/api_key"\nsecret_key_file = "secrets/secret_key"\n[clients.risk]',
    )
    await reloader.check_now()
    assert (await gateway.get(OTHER)).status_code == 200
    assert [each["account"] for each in (await gateway.status())["accounts"]] == ["main", "other"]
    assert 'coinm_snapshot_age_seconds{account="other",document="account"} 0.0' in gateway.metrics()
    await stage.advance(10_000)
    started = await stage.start()  # by the settings of before
    await started.get()
    assert stage.account_calls == 2


async def test_an_account_that_goes_is_nobodys_and_not_either_of_who_waits_for_it(make_stage: MakeStage) -> None:
    stage = make_stage(accounts={"main": None, "other": None})
    gateway, reloader = await stage.start_watched()
    stage.exchange.hold()
    waiting = asyncio.create_task(gateway.get(OTHER))
    await stage.exchange.wait_held()
    write_settings(stage.folder)
    await reloader.check_now()
    assert (await gateway.get(OTHER)).status_code == 403
    stage.exchange.release()
    assert (await waiting).status_code == 403
    assert "other" not in str(await gateway.status())
    assert 'account="other"} ' not in gateway.metrics().partition("coinm_snapshot_age_seconds")[2]


async def test_windows_change_for_the_account_that_is_kept(stage: Stage) -> None:
    gateway, reloader = await stage.start_watched()
    await gateway.get()
    await stage.advance(8_000)
    stage.edit("[freshness]", '[freshness]\nfresh_for = "10s"')
    await reloader.check_now()
    assert (await gateway.get()).headers["cache-status"] == "coinm-gateway; hit; ttl=2"
    assert stage.account_calls == 1


async def test_limits_change_and_who_keeps_its_limit_keeps_its_bucket(make_stage: MakeStage) -> None:
    limits = {"risk": {"requests_per_second": 2}, "treasury": {"requests_per_second": 1}}
    stage = make_stage(exchange={"expected_replicas": 1}, clients=limits)
    gateway, reloader = await stage.start_watched()
    for client in ("risk", "risk", "treasury"):
        assert (await gateway.get(BTC, client)).status_code == 200
    stage.edit("requests_per_second = 2", "requests_per_second = 3")
    await reloader.check_now()
    assert [(await gateway.get(BTC, "risk")).status_code for _ in range(4)] == [200, 200, 200, 429]
    assert (await gateway.get(BTC, "treasury")).status_code == 429


TWIN = f'[clients.twin]\ntoken_sha256 = ["{tokens.digest(TOKENS["risk"].encode())}"]'
BROKEN = [
    ("assets = ", "asset = ", "clients.risk.accounts.*: unknown key asset: did you mean assets?"),
    ("[clients.risk]", "[clients.risk", "expected TOML"),
    (
        'api_key_file = "secrets/api_key"',
        'api_key_file = "secrets/nowhere"',
        "accounts.main.api_key_file: cannot be read",
    ),
    ("[clients.nobody]", f"{TWIN}\n[clients.nobody]", "expected a token of its own"),
    ("secrets/api_key", "secrets\\u0000", "accounts.main.api_key_file: expected the path of a file"),
    ("secrets/api_key", "/dev/zero", "accounts.main.api_key_file: expected a regular file"),
    ("http://127.0.0.1:1", "https://b\u00fccher..example", "exchange.base_url: expected https://HOST"),
    ("[clients.risk]", f"x = {'[' * 10_000}", "expected TOML that is nested less deeply"),
    ("[clients.risk]", f"x = {'9' * 10_000}", "expected TOML with numbers of fewer digits"),
]


@pytest.mark.parametrize(
    ("old", "new", "error"), BROKEN, ids=["key", "toml", "file", "token", "nul", "device", "host", "deep", "digits"]
)
async def test_what_is_broken_changes_nothing_and_is_said_once(
    stage: Stage, log_text: io.StringIO, old: str, new: str, error: str
) -> None:
    gateway, reloader = await stage.start_watched()
    before = (await gateway.get(ACCOUNT, "treasury")).content
    whole = stage.file.read_text()
    stage.edit('assets = ["BTC", "ETH"]', 'assets = ["BTC"]')
    stage.edit(old, new)
    for _ in range(3):
        await reloader.check_now()
    assert (await gateway.get(ACCOUNT, "treasury")).content == before
    [line] = logged(log_text, "settings_refused")
    assert error in line["error"]
    assert line["level"] == "error"
    assert 'coinm_reloads_total{outcome="refused"} 1.0' in gateway.metrics()
    assert "coinm_settings_refused 1.0" in gateway.metrics()
    stage.file.write_text(whole)
    await reloader.check_now()
    assert "coinm_settings_refused 0.0" in gateway.metrics()
    assert logged(log_text, "settings_reloaded") == []


async def test_an_error_that_nobody_foresaw_is_told_by_its_kind_and_changes_nothing(
    stage: Stage, log_text: io.StringIO
) -> None:
    class Unforeseen(type(stage.file)):  # type: ignore[misc]  # pathlib's own class for this platform
        """A path that can't be opened, and for no reason of the system's."""

        def __fspath__(self) -> str:
            raise KeyError("canary")

    reading, gateway = read(stage.file), await stage.start()
    reloader = Reloader(gateway.gateway, Unforeseen(stage.file), reading)
    for _ in range(2):
        await reloader.check_now()
    [line] = logged(log_text, "settings_fault")
    assert line["error"] == "KeyError"
    assert "coinm_settings_refused 1.0" in gateway.metrics()
    assert "canary" not in log_text.getvalue()
    assert (await gateway.get()).status_code == 200


async def test_what_needs_a_restart_is_named_and_the_rest_takes_effect(stage: Stage, log_text: io.StringIO) -> None:
    gateway, reloader = await stage.start_watched()
    stage.edit('timeout = "2s"', 'timeout = "3s"\nweight_share = 0.5')
    stage.edit('assets = ["BTC", "ETH"]', 'assets = ["BTC"]')
    stage.edit('environment = "testing"', 'environment = "other"')
    await reloader.check_now()
    [line] = logged(log_text, "settings_reloaded")
    restart = ["environment", "exchange.timeout", "exchange.weight_share"]
    assert line["needs_restart"] == restart
    assert line["changed"] == ["clients.treasury.accounts.main.assets", *restart]
    assert (await gateway.get(f"{ASSETS}/ETH", "treasury")).status_code == 403
    status = await gateway.status()
    assert (status["environment"], status["weight"]["ceiling"]) == ("testing", 1920)
    assert 'coinm_reloads_total{outcome="applied"} 1.0' in gateway.metrics()


async def test_a_look_that_finds_nothing_new_does_nothing(stage: Stage, log_text: io.StringIO) -> None:
    gateway, reloader = await stage.start_watched()
    caches = gateway.gateway.config.caches
    await reloader.check_now()
    assert gateway.gateway.config.caches is caches
    assert logged(log_text, "settings_reloaded") == []


async def test_a_comment_is_no_change(stage: Stage) -> None:
    before = read(stage.file)
    stage.file.write_text("# why\n" + stage.file.read_text())
    assert changes(before, read(stage.file)) == []


async def test_a_file_that_a_restart_reads_is_named_by_its_key(tmp_path: Path, make_stage: MakeStage) -> None:
    password = tmp_path / "password"
    password.write_text("canary-one")
    stage = make_stage(redis={"password_file": str(password)})
    before = read(stage.file)
    password.write_text("canary-two")
    assert changes(before, read(stage.file)) == ["redis.password_file"]


async def test_every_secret_is_known_to_the_log_before_it_is_used(stage: Stage) -> None:
    gateway, reloader = await stage.start_watched()
    redactor, new = gateway.gateway.redactor, "anotherApiKey".ljust(64, "1")
    assert new in redactor(new)
    stage.change_key(new)
    await reloader.check_now()
    assert (redactor(new), redactor(DEMO_API_KEY)) == ("…", "…")


def test_files_that_do_not_stop_changing_are_refused(stage: Stage) -> None:
    class Restless(type(stage.file)):  # type: ignore[misc]  # pathlib's own class for this platform
        """A path whose file somebody writes to whenever it is opened."""

        def __fspath__(self) -> str:
            file = Path(str(self))
            if file.suffix == ".toml":
                file.write_text(file.read_text().replace('environment = "', 'environment = "x'))
            return str(file)

    with pytest.raises(SettingsError, match="stand still"):
        read(Restless(stage.file))
