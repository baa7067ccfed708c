"""Proof that the canary, which searches what every test of this folder produced, bites."""

import logging

import pytest

from tests.app.canary import leaks
from tests.app.harness import ACCOUNT, Replica, Stage
from tests.conftest import LogText
from tests.support import IDENTITY, TOKENS


@pytest.mark.parametrize("name", ["API key", "secret key", "token of risk", "token of nobody", "signature 0"])
async def test_a_planted_secret_is_found(stage: Stage, gateway: Replica, name: str) -> None:
    await gateway.get(ACCOUNT)
    secrets = stage.secrets()
    assert leaks("a line", f'{{"event":"oops {secrets[name]}"}}', secrets) == [f"{name} in a line"]


async def test_every_place_is_searched(stage: Stage, gateway: Replica) -> None:
    await gateway.get(ACCOUNT)
    await stage.stop()
    places = {place async for place, _ in stage.traces()}
    account, egress = "{account:testing:127.0.0.1:1:main}", "{egress:127.0.0.1:1:default}"
    assert places == {
        f"answer {ACCOUNT}",
        "answer /v1/status",
        "metrics of replica 0",
        "repr of replica 0",
        "the audit log",
        f"Redis coinm:{account}:snapshot:{IDENTITY}",
        f"Redis coinm:{account}:credentials",
        "Redis coinm:testing:127.0.0.1:1:listing",
        "Redis coinm:testing:127.0.0.1:1:listing-claim",
        f"Redis coinm:{egress}:ledger:29833333",  # by the first answer's `Date`, a second at the most
        f"Redis coinm:{egress}:ledger:29833334",
        "Redis coinm:heartbeat",
    }


async def test_what_is_logged_is_searched_before_and_after_masking(log_text: LogText) -> None:
    logging.getLogger("anybody").error("it was %s", TOKENS["risk"])
    secrets = {"token": TOKENS["risk"]}
    assert leaks("raw", "".join(log_text.unmasked()), secrets) == ["token in raw"]
    assert "it was …" in log_text.getvalue()
    assert leaks("masked", log_text.getvalue(), secrets) == []
