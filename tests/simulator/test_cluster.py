"""The simulated API server answers as a real one: the objects, and what it thinks of a token."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import jwt
import pytest

from simulator.asgi import Reply
from simulator.cluster import PATH, Cluster, Review
from simulator.service_accounts import ISSUER, Account, Terms, public_key_pem
from simulator.transport import AppTransport
from tests.forgeries import FOREIGN_KEY, altered, signed_by_the_public_key, unsigned

NOW = 1_795_000_020
OURS = "coinm-gateway"
INVALID = "invalid bearer token"


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(clock=lambda: NOW)


@pytest.fixture
def reviewer(cluster: Cluster) -> Account:
    return cluster.add("coinm/gateway", reviewer=True)


@pytest.fixture
def caller(cluster: Cluster) -> Account:
    return cluster.add("desk/risk")


@pytest.fixture
async def client(cluster: Cluster, reviewer: Account) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"authorization": f"Bearer {cluster.token(reviewer)}"}
    async with httpx.AsyncClient(transport=AppTransport(cluster), base_url="http://cluster", headers=headers) as client:
        yield client


def asked(token: str, *audiences: str) -> dict[str, Any]:
    spec: dict[str, Any] = {"token": token} | ({"audiences": list(audiences)} if audiences else {})
    return {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}


async def reviewed(client: httpx.AsyncClient, token: str, *audiences: str) -> dict[str, Any]:
    answer = await client.post(PATH, json=asked(token, *(audiences or (OURS,))))
    assert answer.status_code == 201
    status: dict[str, Any] = answer.json()["status"]
    return status


async def test_a_good_token_is_its_service_accounts(
    cluster: Cluster, caller: Account, client: httpx.AsyncClient
) -> None:
    token = cluster.token(caller, OURS)
    answer = (await client.post(PATH, json=asked(token, "other", OURS))).json()
    assert (answer["kind"], answer["apiVersion"]) == ("TokenReview", "authentication.k8s.io/v1")
    assert answer["spec"] == {"token": token, "audiences": ["other", OURS]}
    status = answer["status"]
    assert (status["authenticated"], status["audiences"]) == (True, [OURS])
    assert (status["user"]["username"], status["user"]["uid"]) == ("system:serviceaccount:desk:risk", caller.uid)
    assert "system:serviceaccounts:desk" in status["user"]["groups"]
    assert cluster.reviews == [Review(("other", OURS), "system:serviceaccount:desk:risk", None)]


def test_a_token_says_what_a_projected_one_says(cluster: Cluster, caller: Account) -> None:
    claims = jwt.decode(cluster.token(caller, OURS), options={"verify_signature": False})
    assert set(claims) == {"aud", "exp", "iat", "iss", "jti", "kubernetes.io", "nbf", "sub"}
    assert (claims["aud"], claims["sub"], claims["exp"]) == ([OURS], "system:serviceaccount:desk:risk", NOW + 3600)
    bound = claims["kubernetes.io"]
    assert (bound["namespace"], bound["serviceaccount"]) == ("desk", {"name": "risk", "uid": caller.uid})


async def test_without_audiences_a_review_is_for_the_api_servers_own(
    cluster: Cluster, caller: Account, client: httpx.AsyncClient
) -> None:
    assert (await client.post(PATH, json=asked(cluster.token(caller)))).json()["status"]["audiences"] == [ISSUER]
    assert "authenticated" not in (await client.post(PATH, json=asked(cluster.token(caller, OURS)))).json()["status"]


@pytest.mark.parametrize(
    ("terms", "error"),
    [
        (Terms(ends_in=-61), f"[{INVALID}, service account token has expired]"),
        (Terms(starts_in=61), f"[{INVALID}, service account token is not valid yet]"),
        (Terms(issuer="https://elsewhere"), INVALID),
        (Terms(key=FOREIGN_KEY), f"[{INVALID}, go-jose/go-jose: error in cryptographic primitive]"),
    ],
    ids=["expired", "not yet valid", "other issuer", "other key"],
)
async def test_a_token_that_is_not_good_is_refused_in_the_api_servers_words(
    cluster: Cluster, caller: Account, client: httpx.AsyncClient, terms: Terms, error: str
) -> None:
    token = cluster.token(caller, OURS, terms=terms)
    assert await reviewed(client, token) == {"user": {}, "error": error}
    assert cluster.reviews[-1].error == error


@pytest.mark.parametrize("terms", [Terms(ends_in=-59), Terms(starts_in=59)], ids=["just over", "just before"])
async def test_clocks_may_differ_by_a_minute(
    cluster: Cluster, caller: Account, client: httpx.AsyncClient, terms: Terms
) -> None:
    assert (await reviewed(client, cluster.token(caller, OURS, terms=terms)))["authenticated"] is True


async def test_a_token_for_others_is_refused_unless_nobody_looks_at_audiences(
    cluster: Cluster, caller: Account, client: httpx.AsyncClient
) -> None:
    token = cluster.token(caller, "vault", "other")
    told = f'[{INVALID}, token audiences ["vault" "other"] is invalid for the target audiences ["{OURS}"]]'
    assert (await reviewed(client, token))["error"] == told
    cluster.accounts.checks_audiences = False
    status = await reviewed(client, token)
    assert status["authenticated"] is True
    assert "audiences" not in status


async def test_a_deleted_account_and_one_made_anew_have_no_old_tokens(
    cluster: Cluster, caller: Account, client: httpx.AsyncClient
) -> None:
    token = cluster.token(caller, OURS)
    cluster.delete(caller)
    assert (await reviewed(client, token))["error"] == f'[{INVALID}, serviceaccounts "risk" not found]'
    cluster.add("desk/risk")
    assert "does not match claim" in (await reviewed(client, token))["error"]


async def test_forgeries_are_refused(cluster: Cluster, caller: Account, client: httpx.AsyncClient) -> None:
    token = cluster.token(caller, OURS)
    forged = [
        unsigned(token),
        unsigned(token) + "AA",
        signed_by_the_public_key(token),
        altered(token, sub="system:serviceaccount:desk:treasury"),
        altered(token, exp=NOW + 10**6),
        token[:-10],
        "cgw_0123",
        "a.b.c",
    ]
    assert b"PUBLIC KEY" in public_key_pem()
    for each in forged:
        assert INVALID in (await reviewed(client, each))["error"]


async def test_who_may_not_review_gets_a_status(cluster: Cluster, caller: Account, client: httpx.AsyncClient) -> None:
    content = asked("x", OURS)
    cases = [
        ({"authorization": "Bearer nonsense"}, 401, "Unauthorized"),
        ({"authorization": f"Bearer {cluster.token(caller, OURS)}"}, 401, "Unauthorized"),
        ({"authorization": f"Bearer {cluster.token(caller)}"}, 403, "Forbidden"),
        ({"authorization": ""}, 403, "Forbidden"),
    ]
    told: dict[str, Any] = {}
    for headers, code, reason in cases:
        answer = await client.post(PATH, json=content, headers=headers)
        told = answer.json()
        assert (answer.status_code, told["kind"], told["code"], told["reason"]) == (code, "Status", code, reason)
    assert 'User "system:anonymous" cannot create resource "tokenreviews"' in told["message"]
    assert cluster.reviews == []


@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [
        ("POST", PATH, b"{", 400),
        ("POST", PATH, b'{"apiVersion":"v1","kind":"Pod","spec":{}}', 400),
        ("POST", PATH, b'{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{}}', 400),
        ("GET", PATH, b"", 405),
        ("POST", "/apis/authentication.k8s.io/v1beta1/tokenreviews", b"{}", 404),
    ],
    ids=["no JSON", "another kind", "no token", "another method", "another path"],
)
async def test_what_is_not_asked_properly_is_refused(
    client: httpx.AsyncClient, method: str, path: str, body: bytes, code: int
) -> None:
    answer = await client.request(method, path, content=body)
    assert (answer.status_code, answer.json()["code"]) == (code, code)


async def test_a_fault_is_what_everybody_gets(cluster: Cluster, client: httpx.AsyncClient) -> None:
    cluster.fault = Reply(503, b"busy")
    assert (await client.post(PATH, json=asked("x", OURS))).content == b"busy"
    assert (cluster.requests, cluster.reviews) == (1, [])
