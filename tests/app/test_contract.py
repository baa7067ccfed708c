"""Proof that the judge, which holds the document against every answer of this folder, bites."""

from typing import Any

import httpx
import pytest

from tests.app.contract import deviations
from tests.app.harness import ASSETS, BALANCE, BRACKETS, BTC, DROP_INS, ITEMS, PATHS, RISK, Replica
from tests.support import TOKENS

REFUSED = (f"{ASSETS}?nonzero=x", f"{ASSETS}?asset=btc")


PATHS_BELOW = {
    path: next(each for each in reversed(ITEMS) if each.startswith(path)) for path in (BALANCE, RISK, BRACKETS)
}
"""The path of an item that names the most."""


def changed(
    answer: httpx.Response, *, status: int | None = None, body: str | None = None, **headers: str | None
) -> httpx.Response:
    """The answer as it would be with another status, body or headers (`None` drops one)."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    merged = {**answer.headers, "content-length": None, **given}
    return httpx.Response(
        status or answer.status_code,
        headers={name: value for name, value in merged.items() if value is not None},
        content=answer.content if body is None else body.encode(),
        request=answer.request,
    )


async def test_good_answers_have_no_deviation(gateway: Replica) -> None:
    for path in (
        *PATHS.values(),
        "/v1/accounts",
        "/v1/status",
        "/healthz",
        f"{ASSETS}?nonzero=x",
        f"{ASSETS}?asset=btc",
        "/v1/nothing",
    ):
        assert deviations(await gateway.get(path)) == [], path
    for path in (*DROP_INS, f"{DROP_INS[2]}?pair=BTCUSD", f"{DROP_INS[2]}?pair=X", f"{DROP_INS[3]}?symbol=X"):
        assert deviations(await gateway.get(path, client=None, x_mbx_apikey=TOKENS["risk"])) == [], path


ROWS = {
    BALANCE: '{"balance":"1"}',
    RISK: '{"symbol":"BTCUSD_PERP"}',
    BRACKETS: '{"brackets":[]}',
}
"""Of each further document, what can be no row of it."""


@pytest.mark.parametrize("path", ROWS)
async def test_a_row_of_a_further_document_without_its_key_is_found(gateway: Replica, path: str) -> None:
    answers = [await gateway.get(path), await gateway.get(PATHS_BELOW[path])]
    for answer, body in zip(answers, (f"[{ROWS[path]}]", ROWS[path]), strict=True):
        assert deviations(answer) == []
        assert deviations(changed(answer, body=body)) != []
    assert deviations(changed(answers[0], etag=None)) == [f"GET {path} 200: header etag is missing"]


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ({"status": 206}, "a status that isn't documented"),
        ({"etag": None}, "header etag is missing"),
        ({"etag": "W/x"}, "header etag"),
        ({"age": "-1"}, "header age"),
        ({"gateway_snapshot_time": "yesterday"}, "header gateway-snapshot-time"),
        ({"x_mbx_used_weight_1m": "5"}, "header x-mbx-used-weight-1m isn't documented"),
        ({"content_type": "text/plain"}, "media type text/plain"),
        ({"content_type": None}, "media type None"),
        ({"body": '{"walletBalance":"1"}'}, '"asset" is a required property'),
        ({"body": '{"asset":"BTC","walletBalance":1.5}'}, "1.5 is not of type"),
        ({"body": "[]"}, "[] is not of type"),
    ],
)
async def test_a_deviation_of_a_row_is_found(gateway: Replica, parts: dict[str, Any], found: str) -> None:
    (told,) = deviations(changed(await gateway.get(BTC), **parts))
    assert found in told


async def test_a_problem_that_the_operation_does_not_document_is_found(gateway: Replica) -> None:
    refused = await gateway.get(f"{ASSETS}?nonzero=x")
    other = changed(refused, body=refused.text.replace("invalid-parameter", "exchange-banned"))
    assert deviations(other) == [f"GET {ASSETS} 400: problem exchange-banned isn't documented"]


async def test_a_body_where_none_may_be_is_found(gateway: Replica) -> None:
    row = await gateway.get(BTC)
    same = await gateway.get(BTC, if_none_match=row.headers["etag"])
    assert deviations(changed(same, body="{}")) == [f"GET {BTC} 304: a body"]
    head = await gateway.ask("HEAD", BTC)
    assert deviations(changed(head, body="{}")) == [f"HEAD {BTC} 200: a body"]
