"""Pods call with ServiceAccounts' tokens: what they get, who is refused, and what an API server in trouble means."""

import asyncio
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from service import check
from service.kubernetes.reviews import AT_ONCE
from service.kubernetes.token_review import ACCEPTED_FOR, REFUSED_FOR
from service.settings_file import SettingsError
from simulator.asgi import Ending, Reply
from tests.app.conftest import MakeStage
from tests.app.harness import (
    ACCOUNT,
    ASSETS,
    BALANCE,
    BRACKETS,
    BTC,
    ITEMS,
    LISTS,
    POSITIONS,
    RISK,
    Stage,
    logged,
    problem,
    told,
)
from tests.app.pods import CLIENTS, KUBERNETES, OURS, Pods, ask, outcomes
from tests.forgeries import FOREIGN_KEY, altered, signed_by_the_public_key, unsigned
from tests.support import TOKENS, bearer

MakePods = Callable[..., Pods]


@pytest.fixture
def make_pods(make_stage: MakeStage) -> MakePods:
    return lambda **tables: Pods(make_stage(**{"kubernetes": KUBERNETES, "clients": CLIENTS} | tables))


@pytest.fixture
def pods(make_pods: MakePods) -> Pods:
    return make_pods()


# What a good token gets.

PATHS = [
    *("/v1/accounts", "/v1/accounts/nope", *LISTS, *ITEMS),
    *(f"{BALANCE}/SOL", f"{BRACKETS}?symbol=SOLUSD_PERP", f"{RISK}/ETHUSD_PERP/LONG", f"{BRACKETS}/NONEUSD_PERP"),
    *(f"{ASSETS}/SOL", f"{ASSETS}?asset=BTC,SOL", f"{ASSETS}?x=1", f"{POSITIONS}?open=true", f"{ACCOUNT}?asset=ETH"),
]


@pytest.mark.parametrize("path", PATHS)
async def test_a_service_account_reads_its_clients_slice_and_is_refused_the_same(pods: Pods, path: str) -> None:
    gateway, token = await pods.stage.warm(), pods.token()
    await gateway.get(path)
    by_token = await gateway.get(path, "treasury", x_request_id="r")
    by_account = await ask(gateway, token, path, x_request_id="r")
    assert (by_account.status_code, by_account.content) == (by_token.status_code, by_token.content)
    assert by_account.headers.raw == by_token.headers.raw


async def test_one_of_several_audiences_may_be_ours(pods: Pods) -> None:
    gateway = await pods.stage.start()
    assert (await ask(gateway, pods.cluster.token(pods.caller, "vault", OURS))).status_code == 200


async def test_the_log_names_the_client_and_the_service_account(pods: Pods, log_text: io.StringIO) -> None:
    gateway = await pods.stage.start()
    await ask(gateway, pods.token())
    (line,) = logged(log_text)
    assert (line["client"], line["service_account"], line["account"]) == ("treasury", "desk/treasury", "main")
    assert "refusal" not in line


async def test_a_client_has_one_request_limit_however_it_calls(make_pods: MakePods) -> None:
    limited = {"treasury": {"service_accounts": ["desk/treasury"], "requests_per_second": 2}}
    pods = make_pods(clients=limited, exchange={"expected_replicas": 1})
    gateway, token = await pods.stage.start(), pods.token()
    assert [(await ask(gateway, token)).status_code for _ in range(2)] == [200, 200]
    assert told(await ask(gateway, token)) == (429, "too-many-requests", "1")
    assert told(await gateway.get(client="treasury")) == (429, "too-many-requests", "1")


async def test_callers_with_tokens_of_ours_cost_no_review(pods: Pods) -> None:
    gateway = await pods.stage.start()
    pods.stage.way_to_cluster.down = True
    for client in TOKENS:
        assert (await gateway.get(client=client)).status_code in (200, 403)
    assert outcomes(gateway) == {}


# Who is refused.


def _deleted(pods: Pods) -> str:
    token = pods.token()
    pods.cluster.delete(pods.caller)
    return token


def _made_anew(pods: Pods) -> str:
    token = pods.token()
    pods.cluster.add("desk/treasury")
    return token


def _over_by_its_clock(pods: Pods) -> str:
    token = pods.token(ends_in=10)
    pods.cluster.clock.skew_ms += 80_000
    return token


def _taken_for_any_audience(pods: Pods) -> str:
    pods.cluster.accounts.checks_audiences = False
    return pods.token()


REFUSED: dict[str, tuple[str, int, Callable[[Pods], str]]] = {
    # how: (why, reviews, token)
    "another audience": ("wrong-audience", 0, lambda pods: pods.cluster.token(pods.caller, "vault")),
    "the API server's audience": ("wrong-audience", 0, lambda pods: pods.cluster.token(pods.caller)),
    "our audience, put in": ("not-authenticated", 1, lambda pods: altered(pods.cluster.token(pods.caller), aud=[OURS])),
    "expired": ("expired", 0, lambda pods: pods.token(ends_in=-60)),
    "expired, by the API server's clock": ("not-authenticated", 1, _over_by_its_clock),
    "not yet valid": ("not-authenticated", 1, lambda pods: pods.token(starts_in=120)),
    "deleted": ("not-authenticated", 1, _deleted),
    "deleted and made anew": ("not-authenticated", 1, _made_anew),
    "signed by somebody else": ("not-authenticated", 1, lambda pods: pods.token(key=FOREIGN_KEY)),
    "another issuer": ("not-authenticated", 1, lambda pods: pods.token(issuer="https://elsewhere")),
    "another's name": ("not-authenticated", 1, lambda pods: altered(pods.token(), sub="system:serviceaccount:a:b")),
    "alg none": ("malformed", 0, lambda pods: unsigned(pods.token())),
    "alg none with a signature": ("unsigned", 0, lambda pods: unsigned(pods.token()) + "AA"),
    "HS256 by the public key": ("not-authenticated", 1, lambda pods: signed_by_the_public_key(pods.token())),
    "a cgw_ token": ("malformed", 0, lambda pods: TOKENS["treasury"] + "x"),
    "garbage": ("malformed", 0, lambda _: "a.b.c"),
    "nothing": ("malformed", 0, lambda _: ""),
    "oversize": ("malformed", 0, lambda pods: pods.token(padding=9_000)),
    "of a Secret": ("malformed", 0, lambda pods: pods.token(ends_in=None)),
    "audiences ignored": ("audiences-ignored", 1, _taken_for_any_audience),
    "listed for nobody": ("not-listed", 1, lambda pods: pods.token(pods.cluster.add("desk/other"))),
}


@pytest.mark.parametrize("how", REFUSED)
async def test_who_is_not_known_gets_the_same_401_and_the_log_says_why(
    pods: Pods, how: str, log_text: io.StringIO
) -> None:
    gateway, (reason, reviews, make) = await pods.stage.start(), REFUSED[how]
    answer = await ask(gateway, make(pods), x_request_id="r")
    (line,) = logged(log_text)
    unknown = await ask(gateway, "cgw_unknown", x_request_id="r")
    assert told(answer) == (401, "unauthenticated", None)
    assert (answer.content, answer.headers.raw) == (unknown.content, unknown.headers.raw)
    assert (line["level"], line["refusal"]) == ("warning", reason)
    assert line.get("service_account") == ("desk/other" if reason == "not-listed" else None)
    assert "client" not in line
    assert len(pods.cluster.reviews) == reviews
    assert pods.stage.exchange.calls.count() == 0


async def test_two_credentials_at_once_are_none(pods: Pods) -> None:
    gateway, token = await pods.stage.start(), pods.token()
    both = [("authorization", f"Bearer {token}"), ("authorization", bearer("treasury")["authorization"])]
    for headers in (both, [*both[:1], ("x-mbx-apikey", token)], [*both[1:], ("x-mbx-apikey", token)], both[:1] * 2):
        assert told(await gateway.caller.get(BTC, headers=headers))[:2] == (401, "unauthenticated")
    assert pods.cluster.requests == 0


async def test_without_a_kubernetes_table_no_service_account_is_known(stage: Stage) -> None:
    gateway, caller = await stage.start(), stage.cluster.add("desk/treasury")
    assert problem(await ask(gateway, stage.cluster.token(caller, OURS))) == "unauthenticated"
    assert stage.cluster.requests == 0


# What is remembered.


async def test_callers_with_one_token_cost_one_review_and_another_when_it_is_ten_seconds_old(pods: Pods) -> None:
    gateway, token = await pods.stage.warm(), pods.token()
    pods.cluster.gate.hold()
    asked = [asyncio.create_task(ask(gateway, token)) for _ in range(20)]
    await pods.cluster.gate.wait_held()
    pods.cluster.gate.release()
    assert {answer.status_code for answer in await asyncio.gather(*asked)} == {200}
    await pods.stage.advance(ACCEPTED_FOR - 1)
    assert {(await ask(gateway, token)).status_code for _ in range(20)} == {200}
    assert pods.cluster.requests == 1
    await pods.stage.advance(1)
    assert (await ask(gateway, token)).status_code == 200
    assert pods.cluster.requests == 2
    assert outcomes(gateway) == {"accepted": 2, "remembered": 21}  # the last one waited, and was looked up again


async def test_a_caller_who_hangs_up_takes_nobody_with_it(pods: Pods) -> None:
    gateway, token = await pods.stage.warm(), pods.token()
    pods.cluster.gate.hold()
    leader, *others = [asyncio.create_task(ask(gateway, token)) for _ in range(5)]
    await pods.cluster.gate.wait_held()
    leader.cancel()
    await asyncio.wait([leader])
    pods.cluster.gate.release()
    assert {answer.status_code for answer in await asyncio.gather(*others)} == {200}
    assert pods.cluster.requests == 1


async def test_a_deleted_accounts_token_stops_within_ten_seconds(pods: Pods) -> None:
    gateway, token = await pods.stage.warm(), pods.token()
    assert (await ask(gateway, token)).status_code == 200
    pods.cluster.delete(pods.caller)
    await pods.stage.advance(ACCEPTED_FOR - 1)
    assert (await ask(gateway, token)).status_code == 200
    await pods.stage.advance(1)
    assert problem(await ask(gateway, token)) == "unauthenticated"


async def test_no_token_is_remembered_past_its_own_end(pods: Pods) -> None:
    gateway, token = await pods.stage.warm(), pods.token(ends_in=5)
    await ask(gateway, token)
    await pods.stage.advance(4_999)
    await ask(gateway, token)
    assert pods.cluster.requests == 1
    await pods.stage.advance(1)
    # For as long as clocks may differ the API server decides, each time anew; then nobody is asked.
    assert [(await ask(gateway, token)).status_code for _ in range(2)] == [200, 200]
    assert pods.cluster.requests == 3
    await pods.stage.advance(60_000)
    assert (await ask(gateway, token)).status_code == 401
    assert pods.cluster.requests == 3


async def test_a_refused_token_is_asked_about_again_after_two_seconds(pods: Pods) -> None:
    gateway = await pods.stage.warm()
    token = _deleted(pods)
    assert {(await ask(gateway, token)).status_code for _ in range(5)} == {401}
    assert pods.cluster.requests == 1
    await pods.stage.advance(REFUSED_FOR)
    assert (await ask(gateway, token)).status_code == 401
    assert pods.cluster.requests == 2


async def test_a_rotated_token_of_the_caller_is_as_good_as_the_first(pods: Pods) -> None:
    gateway = await pods.stage.warm()
    for _ in range(3):
        assert (await ask(gateway, pods.token())).status_code == 200
    assert pods.cluster.requests == 3


# An API server in trouble.


def _down(pods: Pods) -> None:
    pods.stage.way_to_cluster.down = True


def _answering(reply: Reply) -> Callable[[Pods], None]:
    def set_fault(pods: Pods) -> None:
        pods.cluster.fault = reply

    return set_fault


def _not_known(pods: Pods) -> None:
    pods.cluster.delete(pods.own)


def _not_allowed(pods: Pods) -> None:
    pods.cluster.reviewers.clear()


def _without_a_token(pods: Pods) -> None:
    (pods.folder / "..data").unlink()


REVIEW = b'{"kind":"TokenReview","status":{"authenticated":true,"user":{"username":"system:serviceaccount:a:b"},'
TROUBLES: dict[str, tuple[str, str, Callable[[Pods], None]]] = {
    # what: (kind, level, how)
    "no connection": ("unreachable", "warning", _down),
    "a reset": ("unreachable", "warning", _answering(Reply(201, b"", ending=Ending.RESET))),
    "an answer cut short": ("unreachable", "warning", _answering(Reply(201, REVIEW, ending=Ending.TRUNCATED))),
    "a 500": ("unavailable", "warning", _answering(Reply(500, b"{}"))),
    "a 503": ("unavailable", "warning", _answering(Reply(503, b"{}"))),
    "a 429": ("unavailable", "warning", _answering(Reply(429, b"{}"))),
    "a redirect": ("invalid", "warning", _answering(Reply(302, b"", headers=((b"location", b"http://x/"),)))),
    "a 404": ("invalid", "warning", _answering(Reply(404, b"{}"))),
    "a 200": ("invalid", "warning", _answering(Reply(200, REVIEW + b'"audiences":["coinm-gateway"]}}'))),
    "no JSON": ("invalid", "warning", _answering(Reply(201, b"<html>", b"text/html"))),
    "half of it": ("invalid", "warning", _answering(Reply(201, REVIEW))),
    "no status": ("invalid", "warning", _answering(Reply(201, b'{"kind":"TokenReview"}'))),
    "too much": ("invalid", "warning", _answering(Reply(201, b" " * 100_000 + REVIEW))),
    "our own token not known": ("unauthorized", "error", _not_known),
    "no right to review": ("forbidden", "error", _not_allowed),
    "no token of our own": ("no-token", "error", _without_a_token),
    "no answer": ("timeout", "warning", _answering(Reply(201, b"", hangs=True))),
}


@pytest.mark.parametrize("what", TROUBLES)
async def test_while_nobody_can_say_a_token_is_refused_with_a_time_to_come_back(
    pods: Pods, what: str, log_text: io.StringIO
) -> None:
    gateway, token, (kind, level, make) = await pods.stage.warm(), pods.token(), TROUBLES[what]
    make(pods)
    answers = [await ask(gateway, token) for _ in range(2)]
    for answer in answers:
        assert told(answer) == (401, "unauthenticated", "1")
        assert answer.json()["detail"] == "the token cannot be verified now"
        assert answer.headers["www-authenticate"] == 'Bearer realm="coinm-gateway"'
    assert (await gateway.get(client="treasury")).status_code == 200
    (event,) = logged(log_text, "token_reviews_away")
    assert (event["kind"], event["level"]) == (kind, level)
    assert [line["refusal"] for line in logged(log_text) if line["status"] == 401] == [kind] * len(answers)
    assert outcomes(gateway) == {kind: len(answers)}


async def test_what_failed_is_not_remembered_and_the_log_says_when_it_is_over(
    pods: Pods, log_text: io.StringIO
) -> None:
    gateway, token = await pods.stage.warm(), pods.token()
    for reply in (Reply(503, b""), Reply(503, b""), Reply(404, b""), None, None):
        pods.cluster.fault = reply
        assert (await ask(gateway, token)).status_code == (401 if reply else 200)
    assert [line["kind"] for line in logged(log_text, "token_reviews_away")] == ["unavailable", "invalid"]
    assert len(logged(log_text, "token_reviews_back")) == 1
    assert outcomes(gateway) == {"unavailable": 2, "invalid": 1, "accepted": 1, "remembered": 1}


async def test_what_was_accepted_a_moment_ago_outlives_the_api_server_by_seconds_only(pods: Pods) -> None:
    gateway, token = await pods.stage.warm(), pods.token()
    assert (await ask(gateway, token)).status_code == 200
    pods.stage.way_to_cluster.down = True
    await pods.stage.advance(ACCEPTED_FOR - 1)
    assert (await ask(gateway, token)).status_code == 200
    await pods.stage.advance(1)
    assert told(await ask(gateway, token)) == (401, "unauthenticated", "1")


async def test_a_connection_that_was_closed_meanwhile_is_no_failure(pods: Pods) -> None:
    gateway = await pods.stage.warm()
    pods.cluster.fault = Reply(201, b"", ending=Ending.RESET)
    pods.cluster.gate.hold()
    asked = asyncio.create_task(ask(gateway, pods.token()))
    await pods.cluster.gate.wait_held()
    pods.cluster.fault = None
    pods.cluster.gate.release()
    assert (await asked).status_code == 200
    assert outcomes(gateway) == {"accepted": 1}


async def test_our_own_token_may_be_rotated_at_any_time(pods: Pods) -> None:
    gateway = await pods.stage.warm()
    assert (await ask(gateway, pods.token())).status_code == 200
    pods.own = pods.cluster.add("coinm/gateway", reviewer=True)  # what we have is worth nothing from now on
    assert told(await ask(gateway, pods.token())) == (401, "unauthenticated", "1")
    pods.rotate()
    assert (await ask(gateway, pods.token())).status_code == 200


async def test_invented_tokens_are_reviewed_a_few_at_a_time(pods: Pods) -> None:
    gateway = await pods.stage.warm()
    pods.cluster.gate.hold()
    asked = [asyncio.create_task(ask(gateway, pods.token(key=FOREIGN_KEY))) for _ in range(3 * AT_ONCE)]
    await pods.cluster.wait_for(AT_ONCE)
    late = await asyncio.gather(*asked[AT_ONCE:])  # they wait a second for their turn
    assert {told(answer) for answer in late} == {(401, "unauthenticated", "1")}
    assert pods.cluster.requests == AT_ONCE
    pods.cluster.gate.release()
    assert {told(answer) for answer in await asyncio.gather(*asked[:AT_ONCE])} == {(401, "unauthenticated", None)}
    assert outcomes(gateway) == {"busy": 2 * AT_ONCE, "refused": AT_ONCE}


# Starting and checking.


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (None, "cannot be read: No such file or directory"),
        ("", "expected a secret, found nothing"),
        ("two words", "expected one word of printable ASCII"),
        ("ключ", "expected one word of printable ASCII"),
    ],
)
async def test_without_a_token_of_its_own_it_does_not_start(pods: Pods, content: str | None, expected: str) -> None:
    (pods.folder / "token").unlink()
    if content is not None:
        (pods.folder / "token").write_text(content)
    with pytest.raises(SettingsError) as raised:
        pods.stage.app()
    assert str(raised.value) == f"kubernetes.token_file: {expected}"


@pytest.mark.parametrize(
    ("content", "expected"),
    [(None, "cannot be read: No such file or directory"), ("no PEM", "expected certificates in PEM")],
)
async def test_without_the_clusters_ca_it_does_not_start(
    make_pods: MakePods, tmp_path: Path, content: str | None, expected: str
) -> None:
    file = tmp_path / "ca.crt"
    if content is not None:
        file.write_text(content)
    pods = make_pods(kubernetes=KUBERNETES | {"api_server": "https://kubernetes.default.svc", "ca_file": str(file)})
    with pytest.raises(SettingsError) as raised:
        pods.stage.app()
    assert str(raised.value) == f"kubernetes.ca_file: {expected}"


@pytest.mark.parametrize(
    ("make", "verdict", "text"),
    [
        (lambda _: None, "ok", "tokens for the audience coinm-gateway can be reviewed"),
        (_down, "fail", "API server: no connection"),
        (_not_known, "fail", "API server: it doesn't accept our own token: a configuration error"),
        (_not_allowed, "fail", "needs the ClusterRole system:auth-delegator"),
        (_answering(Reply(201, b"[]")), "fail", "API server: its answer is no TokenReview"),
    ],
    ids=["fine", "away", "not known", "not allowed", "no API server"],
)
async def test_check_tries_a_review(pods: Pods, make: Callable[[Pods], None], verdict: str, text: str) -> None:
    app, found = pods.stage.app(), list[check.Finding]()
    make(pods)
    await check.run(app.gateway, pods.stage.file, found.append)
    (finding,) = [each for each in found if each.subject == "kubernetes"]
    assert finding.verdict == verdict
    assert text in finding.text


@pytest.mark.parametrize(("cache_control", "age"), [("max-age=60", 3_000), ("max-age=2", 0)])
async def test_an_answer_is_as_old_as_it_is_after_a_slow_review(
    make_stage: MakeStage, cache_control: str, age: int
) -> None:
    """A read that waits looks its caller up again, and what it brought ages meanwhile: perhaps beyond a bound."""
    pods = Pods(make_stage(kubernetes=KUBERNETES, clients=CLIENTS, exchange={"timeout": "30s"}))
    stage, gateway, token = pods.stage, await pods.stage.start(), pods.token()
    assert (await ask(gateway, token, "/v1/accounts")).status_code == 200  # reviewed, and nothing read yet
    await stage.advance(ACCEPTED_FOR - 100)
    stage.exchange.hold()
    waiting = asyncio.create_task(ask(gateway, token, cache_control=cache_control))
    await stage.exchange.wait_held()
    await stage.advance(200)  # the review is forgotten
    pods.cluster.gate.hold()
    stage.exchange.release()
    await pods.cluster.gate.wait_held()
    await stage.advance(2_800)
    pods.cluster.gate.release()
    answer = await waiting
    assert (answer.status_code, answer.headers["gateway-snapshot-age"]) == (200, str(age))
