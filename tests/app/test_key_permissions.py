"""What `check` says of the API keys: their permissions, why it is not known, and nothing that the exchange wrote."""

import httpx
import msgspec
import pytest

from service.check import Finding, line, run
from service.exchange.signing import read_credential
from service.fleet.errors import ExchangeError
from service.key_permissions import Restrictions as Permissions
from service.key_permissions import WalletApi
from simulator.exchange import MAIN
from simulator.faults import Fault
from simulator.signature import DEMO_API_KEY
from simulator.wallet import RESTRICTIONS_PATH, Restrictions
from tests.app.conftest import MakeStage
from tests.app.harness import ADDRESS, BTC, Replica, Stage, Wire, settle, told
from tests.support import START

WALLET = {"wallet_url": "https://wallet.test"}
OTHER_KEY, OTHER_SECRET = "otherApiKey".ljust(64, "0"), "otherSecretKey".ljust(64, "0")


@pytest.fixture
def stage(make_stage: MakeStage) -> Stage:
    return make_stage(exchange=WALLET)


async def check(stage: Stage) -> list[Finding]:
    """All findings; what they say is searched for secrets after the test, like everything else."""
    found: list[Finding] = []
    await run(stage.app().gateway, stage.file, found.append)
    stage.exposed["check"] = "\n".join(map(line, found))
    return found


async def key(stage: Stage) -> list[tuple[str, str]]:
    """Verdicts and texts on the key of the account that there is."""
    return [(finding.verdict, finding.text) for finding in await check(stage) if finding.subject == "key main"]


async def restrictions(replica: Replica) -> Permissions:
    """What the wallet API says of the account's key while a replica runs, whose cooldowns bind the call."""
    gateway = replica.gateway
    exchange = gateway.config.settings.exchange
    wallet = WalletApi(exchange, gateway.exchange.address, lambda: gateway.open_http(exchange.wallet_url))
    return await wallet.restrictions(read_credential(MAIN, gateway.config.settings.accounts[MAIN]))


async def test_a_reading_key_bound_to_addresses_is_fine(stage: Stage) -> None:
    assert await key(stage) == [("ok", "the key can only read, and only from the addresses it is bound to")]
    assert stage.exchange.calls.count(RESTRICTIONS_PATH) == 1


@pytest.mark.parametrize(
    ("restrictions", "verdict", "named"),
    [
        (Restrictions(enable_withdrawals=True), "fail", "enableWithdrawals"),
        (Restrictions(permits_universal_transfer=True), "fail", "permitsUniversalTransfer"),
        (Restrictions(enable_reading=False), "fail", "enableReading"),
        (Restrictions(enable_futures=True), "warn", "enableFutures"),
        (Restrictions(enable_fix_api_trade=True), "warn", "enableFixApiTrade"),
        (Restrictions(ip_restrict=False), "warn", "from anywhere"),
    ],
    ids=["withdraws", "transfers", "can't read", "futures", "FIX", "any address"],
)
async def test_what_a_key_can_do_beside_reading_is_told(
    stage: Stage, restrictions: Restrictions, verdict: str, named: str
) -> None:
    stage.exchange.restrict(DEMO_API_KEY, restrictions)
    ((found, text),) = await key(stage)
    assert found == verdict
    assert named in text


async def test_the_question_costs_nothing_of_the_weight_that_the_ledger_counts(stage: Stage) -> None:
    gateway = await stage.warm()
    before = (await gateway.status())["weight"], stage.exchange.limits.tally(ADDRESS, START)
    await restrictions(gateway)
    assert ((await gateway.status())["weight"], stage.exchange.limits.tally(ADDRESS, START)) == before
    assert stage.exchange.wallet_limits.tally(ADDRESS, START).used == 1


async def test_without_a_wallet_url_nobody_is_asked(make_stage: MakeStage) -> None:
    stage = make_stage()
    assert await key(stage) == [("skip", "skipped: no exchange.wallet_url")]
    assert stage.exchange.calls.count(RESTRICTIONS_PATH) == 0


FAILURES = {
    "unreachable": (None, "exchange-unavailable: "),
    "rejected": (Fault("custom", status=401, body='{"code":-2015,"msg":"canary"}'), "exchange-rejected-credentials: "),
    "page": (Fault("custom", body="<html>canary</html>"), "exchange-answer-invalid: "),
    "error page": (Fault("custom", status=502, body="<html>canary</html>"), "exchange-unavailable: "),
    "other shape": (Fault("custom", body='{"canary":true}'), "exchange-answer-invalid: "),
    "redirect": (Fault("custom", status=302, headers={"location": "https://canary.test"}), "exchange-refused: "),
    "reset": (Fault("reset"), "exchange-unavailable: "),
    "gone": (Fault("custom", status=404, body="canary"), "exchange-endpoint-gone: "),
    "firewall": (Fault("custom", status=403, body="canary"), "exchange-blocked: "),
    "banned": (Fault("418"), "exchange-banned: "),
    "limited": (Fault("429"), "exchange-rate-limited: "),
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_what_keeps_the_posture_from_being_known_is_a_warning_that_names_it(stage: Stage, failure: str) -> None:
    fault, named = FAILURES[failure]
    if fault is None:
        stage.transport = _Severed(stage.exchange)
    else:
        stage.fail(msgspec.structs.replace(fault, path=RESTRICTIONS_PATH))
    found = await check(stage)
    ((verdict, text),) = [(each.verdict, each.text) for each in found if each.subject == "key main"]
    assert verdict == "warn"
    assert text.startswith(f"the wallet API didn't tell what the key may do: {named}")
    assert "canary" not in stage.exposed["check"]
    assert [each.verdict for each in found if each.subject == "account main"] == ["ok"]


async def test_an_answer_that_never_comes_is_given_up_in_time(make_stage: MakeStage) -> None:
    stage = make_stage(exchange=WALLET | {"timeout": "100ms"})
    stage.fail(Fault("hang", path=RESTRICTIONS_PATH))
    ((verdict, text),) = await key(stage)
    assert (verdict, "exchange-timeout" in text) == ("warn", True)


async def test_a_refusal_of_the_wallets_binds_no_replica(stage: Stage) -> None:
    gateway = await stage.start()
    stage.fail(Fault("418", path=RESTRICTIONS_PATH))
    await check(stage)
    assert (await gateway.get(BTC)).status_code == 200


@pytest.mark.parametrize("fault", ["418", "429"])
async def test_after_a_refusal_of_the_wallets_no_further_key_is_asked_about(make_stage: MakeStage, fault: str) -> None:
    stage = _with_two_accounts(make_stage)
    stage.fail(Fault(fault, path=RESTRICTIONS_PATH))
    found = [each for each in await check(stage) if each.subject.startswith("key ")]
    assert [(each.subject, each.verdict) for each in found] == [("key main", "warn"), ("key other", "warn")]
    assert stage.exchange.calls.count(RESTRICTIONS_PATH) == 1


async def test_every_accounts_own_key_is_asked_about(make_stage: MakeStage) -> None:
    stage = _with_two_accounts(make_stage)
    stage.exchange.restrict(OTHER_KEY, Restrictions(enable_withdrawals=True))
    found = [(each.subject, each.verdict) for each in await check(stage) if each.subject.startswith("key ")]
    assert found == [("key main", "ok"), ("key other", "fail")]


@pytest.mark.parametrize("fault", ["418", "429", "403-html"])
async def test_while_the_address_is_held_the_wallet_is_not_asked_either(stage: Stage, fault: str) -> None:
    gateway = await stage.start()
    stage.fail(fault)
    _, problem, _ = told(await gateway.get(BTC))
    with pytest.raises(ExchangeError, match="it is not asked until then") as refused:
        await restrictions(gateway)
    assert (refused.value.problem, bool(refused.value.failure.retry_at)) == (problem, True)
    assert stage.exchange.calls.count(RESTRICTIONS_PATH) == 0


async def test_after_a_ban_the_wallet_is_asked_only_once_a_probe_was_answered(stage: Stage) -> None:
    gateway = await stage.start()
    stage.fail(Fault("418", seconds=60))
    await gateway.get(BTC)
    stage.exchange.faults.clear()
    await stage.advance(61_000)
    with pytest.raises(ExchangeError, match="it is not asked until then"):
        await restrictions(gateway)
    await gateway.gateway.exchange.reopen()
    assert (await restrictions(gateway)).on == {"ipRestrict", "enableReading"}


async def test_a_key_that_the_exchange_rejects_is_not_tried_once_more_at_the_wallet(stage: Stage) -> None:
    stage.exchange.revoke(DEMO_API_KEY)
    ((verdict, text),) = await key(stage)
    assert (verdict, "exchange-rejected-credentials" in text) == ("warn", True)
    assert stage.exchange.calls.count(RESTRICTIONS_PATH) == 0


async def test_a_key_file_that_is_gone_meanwhile_is_a_row(stage: Stage) -> None:
    gateway, found = stage.app().gateway, list[Finding]()
    stage.settings.accounts[MAIN].api_key_file.unlink()
    await run(gateway, stage.file, found.append)
    rows = [(each.verdict, each.text) for each in found if each.subject == "key main"]
    assert rows == [("fail", "accounts.main.api_key_file: cannot be read: No such file or directory")]


async def test_no_gateway_asks_what_its_key_may_do(stage: Stage) -> None:
    await stage.warm()
    await settle()
    assert stage.exchange.calls.count(RESTRICTIONS_PATH) == 0


class _Severed(Wire):
    """A way to the exchange on which the wallet's host isn't to be reached."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.host == "wallet.test":
            raise httpx.ConnectError("All connection attempts failed: canary", request=request)
        return await super().handle_async_request(request)


def _with_two_accounts(make_stage: MakeStage) -> Stage:
    stage = make_stage(exchange=WALLET, accounts={MAIN: None, "other": None})
    stage.exchange.add_secret_key(OTHER_KEY, OTHER_SECRET)
    stage.give_credential("other", OTHER_KEY, OTHER_SECRET)
    return stage
