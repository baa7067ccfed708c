"""Proof that the canary, which searches what every test of this folder produced, bites."""

import logging

import msgspec
import pytest

from service.account.documents import DOCUMENTS
from simulator.exchange import BALANCE_PATH
from tests.app.canary import leaks
from tests.app.harness import ACCOUNT, BALANCE, DROP_INS, LISTS, PATHS, Replica, Stage
from tests.conftest import LogText
from tests.support import IDENTITY, TOKENS


@pytest.mark.parametrize("name", ["API key", "secret key", "token of risk", "token of nobody", "signature 0"])
async def test_a_planted_secret_is_found(stage: Stage, gateway: Replica, name: str) -> None:
    await gateway.get(ACCOUNT)
    secrets = stage.secrets()
    assert leaks("a line", f'{{"event":"oops {secrets[name]}"}}', secrets) == [f"{name} in a line"]


async def test_every_place_is_searched(stage: Stage, gateway: Replica) -> None:
    for path in LISTS:
        await gateway.get(path)
    for path in DROP_INS:
        await gateway.get(path, client=None, x_mbx_apikey=TOKENS["risk"])
    await stage.stop()
    places = {place async for place, _ in stage.traces()}
    account, egress = "{account:testing:127.0.0.1:1:main}", "{egress:127.0.0.1:1:default}"
    assert places == {
        *(f"answer {path}" for path in (*LISTS, *DROP_INS)),
        "answer /v1/status",
        "metrics of replica 0",
        "repr of replica 0",
        "the audit log",
        f"Redis coinm:{account}:snapshot:{IDENTITY}",
        *(f"Redis coinm:{account}:{document.name}:snapshot:{IDENTITY}" for document in DOCUMENTS[1:]),
        f"Redis coinm:{account}:credentials",
        "Redis coinm:testing:127.0.0.1:1:listing",
        "Redis coinm:testing:127.0.0.1:1:listing-claim",
        f"Redis coinm:{egress}:ledger:29833333",  # by the first answer's `Date`, a second at the most
        f"Redis coinm:{egress}:ledger:29833334",
        "Redis coinm:heartbeat",
    }


ALIAS = "PlAnTeDaLiAs"


@pytest.mark.parametrize("coding", ["identity", "gzip"])
async def test_an_accounts_alias_is_in_no_answer_to_who_sees_part_of_it_and_in_no_record(
    stage: Stage, gateway: Replica, log_text: LogText, coding: str
) -> None:
    """Whoever asked before: the views of one snapshot are remembered, and answers prepared for each client."""
    body = stage.raw(BALANCE_PATH)
    alias = msgspec.json.decode(body)[0]["accountAlias"]
    stage.exchange.book().raw_by_path[BALANCE_PATH] = body.replace(alias.encode(), ALIAS.encode())
    seen = set[str]()
    for client in ("risk", "treasury", "longs", "nobody") * 3:
        for path in (*PATHS.values(), f"{BALANCE}?asset=BTC", f"{BALANCE}/SOL"):
            answer = await gateway.get(path, client, accept_encoding=coding)
            seen |= {client} if ALIAS in answer.text else set()
            for etag in {answer.headers.get("etag", "*"), "*"}:
                assert ALIAS not in (await gateway.get(path, client, if_none_match=etag)).text
        for path in DROP_INS:
            answer = await gateway.get(path, None, x_mbx_apikey=TOKENS[client], accept_encoding=coding)
            seen |= {client} if ALIAS in answer.text else set()
    assert seen == {"risk"}
    assert gateway.app.edge.hits > 0
    await stage.stop()
    told = [leak async for place, text in stage.traces() for leak in leaks(place, text, {"alias": ALIAS})]
    plain = {f"alias in answer {path}" for path in (BALANCE, f"{BALANCE}/BTC", f"{BALANCE}/SOL", DROP_INS[1])}
    key = f"coinm:{{account:testing:127.0.0.1:1:main}}:balance:snapshot:{IDENTITY}"
    assert set(told) == plain | {f"alias in Redis {key}"}
    assert leaks("log", "\n".join([log_text.getvalue(), *log_text.unmasked()]), {"alias": ALIAS}) == []


async def test_what_is_logged_is_searched_before_and_after_masking(log_text: LogText) -> None:
    logging.getLogger("anybody").error("it was %s", TOKENS["risk"])
    secrets = {"token": TOKENS["risk"]}
    assert leaks("raw", "".join(log_text.unmasked()), secrets) == ["token in raw"]
    assert "it was …" in log_text.getvalue()
    assert leaks("masked", log_text.getvalue(), secrets) == []
