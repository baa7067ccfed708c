"""Whose token it is, decided without asking anybody: by the token's own words, and by an answer."""

import jwt
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jwt.utils import base64url_encode

from service.kubernetes.errors import NotVerifiedError
from service.kubernetes.token_review import (
    ACCEPTED_FOR,
    LEEWAY,
    MAX_TOKEN,
    REFUSED_FOR,
    Claims,
    Refusal,
    ReviewResult,
    ServiceAccount,
    decide,
    precheck,
    remembered_for,
)
from tests.forgeries import signed_by_the_public_key, unsigned

NOW = 1_790_000_000_000
END = NOW // 1000 + 600
OURS = "coinm-gateway"
KEY = "0123456789abcdef0123456789abcdef"

USER = {"username": "system:serviceaccount:desk:risk"}
GOOD = {"authenticated": True, "user": USER, "audiences": [OURS]}


def token(header: dict[str, object] | None = None, **claims: object) -> bytes:
    said = {"iss": "https://cluster", "exp": END, "aud": [OURS]} | claims
    present = {name: value for name, value in said.items() if value is not None}
    return jwt.encode(present, KEY, headers=header).encode()


@pytest.mark.parametrize("aud", [OURS, [OURS], ["other", OURS]])
def test_a_token_with_our_audience_is_worth_a_review(aud: object) -> None:
    claims = precheck(token(aud=aud), OURS, NOW)
    assert isinstance(claims, Claims)
    assert OURS in claims.audiences
    assert (claims.iss, claims.exp) == ("https://cluster", END)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (b"", "malformed"),
        (b"cgw_0123", "malformed"),
        (b"a.b.c", "malformed"),
        (b"..", "malformed"),
        (b"e30.e30.e30", "malformed"),
        (token() + b".x", "malformed"),
        (token() + b"=", "malformed"),
        (b" " + token(), "malformed"),
        (token() + b"\n", "malformed"),
        (token() + "é".encode(), "malformed"),
        (token().rsplit(b".", 1)[0] + b".", "malformed"),
        (token(padding="x" * MAX_TOKEN), "malformed"),
        (token(exp=None), "malformed"),
        (token(aud=None), "malformed"),
        (token(iss=None), "malformed"),
        (token(exp="soon"), "malformed"),
        (token(exp=True), "malformed"),
        (token(exp=1e300), "malformed"),
        (token(aud={"a": OURS}), "malformed"),
        (unsigned(token().decode()).encode(), "malformed"),
        (unsigned(token().decode()).encode() + b"AA", "unsigned"),
        (unsigned(token().decode(), "NoNe").encode() + b"AA", "unsigned"),
        (token(aud=[]), "wrong-audience"),
        (token(aud=["other"]), "wrong-audience"),
        (token(aud=OURS + "x"), "wrong-audience"),
        (token(aud=[OURS.upper()]), "wrong-audience"),
        (token(exp=(NOW - LEEWAY) // 1000), "expired"),
        (token(exp=-END), "expired"),
    ],
    ids=range(28),
)
def test_what_cannot_be_a_token_for_us_is_refused_at_a_look(given: bytes, reason: str) -> None:
    verdict = precheck(given, OURS, NOW)
    assert isinstance(verdict, Refusal)
    assert verdict.reason == reason


def test_a_token_over_by_less_than_clocks_may_differ_is_left_to_the_api_server() -> None:
    assert isinstance(precheck(token(exp=(NOW - LEEWAY) // 1000 + 1), OURS, NOW), Claims)


def test_whether_a_signature_is_good_is_left_to_the_api_server() -> None:
    assert isinstance(precheck(signed_by_the_public_key(token().decode()).encode(), OURS, NOW), Claims)


def test_deeply_nested_claims_are_malformed_and_nothing_worse() -> None:
    payload = base64url_encode(b"[" * 5_000 + b"]" * 900)
    assert precheck(b".".join([token().split(b".")[0], payload, b"x"]), OURS, NOW) == Refusal("malformed")


LONE = b'{"\\ud800":1}', b'{"iss":"\\udc00","exp":1,"aud":[]}', b'{"iss":"i","exp":1,"aud":["\\ud800"]}', b'"\\ud800"'
HUGE = (b'{"iss":"i","aud":[],"exp":%s}' % number for number in (b"9" * 30, b"9" * 5_000, b"-" + b"9" * 20, b"1e999"))
ODD = (
    b"\xff",
    b"",
    b"null",
    b"1",
    b"[]",
    b'{"iss":"i","exp":1,"aud":null}',
    b'{"iss":1,"exp":1,"aud":[]}',
    b"\xef\xbb\xbf{}",
)


@pytest.mark.parametrize("part", [*LONE, *HUGE, *ODD], ids=range(16))
def test_what_an_unverified_token_holds_is_malformed_at_worst(part: bytes) -> None:
    header, payload, signature = token().split(b".")
    assert precheck(b".".join([header, base64url_encode(part), signature]), OURS, NOW) == Refusal("malformed")
    assert precheck(b".".join([base64url_encode(part), payload, signature]), OURS, NOW) == Refusal("malformed")


json_text = st.recursive(
    st.sampled_from([b'"\\ud800"', b'"\\udfff\\ud800"', b"1e999", b"-0", b"9" * 400, b'"x"', b"null", b'"\xff"']),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda each: b"[" + b",".join(each) + b"]"),
        st.lists(st.tuples(st.sampled_from([b"alg", b"aud", b"exp", b"iss", b"\\ud800"]), inner), max_size=5).map(
            lambda each: b"{" + b",".join(b'"%s":%s' % pair for pair in each) + b"}"
        ),
    ),
)


@given(json_text, json_text, st.integers(0, 3_000))
def test_no_json_and_no_nesting_breaks_the_look(header: bytes, payload: bytes, depth: int) -> None:
    deep = b'{"x":' * depth + payload + b"}" * depth
    verdict = precheck(b".".join([base64url_encode(header), base64url_encode(deep), b"x"]), OURS, NOW)
    assert isinstance(verdict, Refusal)


part = st.one_of(
    st.binary(max_size=40),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["alg", "aud", "exp", "iss", "kid", "b64", "crit"]), inner, max_size=4)
        ),
    ).map(msgspec.json.encode),
).map(base64url_encode)


@given(st.one_of(st.binary(max_size=60), st.tuples(part, part, part).map(b".".join)))
def test_nothing_that_is_sent_as_a_token_makes_more_of_it_than_a_refusal_or_claims(sent: bytes) -> None:
    verdict = precheck(sent, OURS, NOW)
    assert isinstance(verdict, Refusal) or OURS in verdict.audiences


def answer(**status: object) -> bytes:
    return msgspec.json.encode({"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "status": status})


@pytest.mark.parametrize(
    ("status", "verdict"),
    [
        (GOOD, ServiceAccount("desk/risk")),
        (GOOD | {"audiences": ["other", OURS]}, ServiceAccount("desk/risk")),
        (GOOD | {"user": {"username": "system:serviceaccount:a-1:b.c-2"}}, ServiceAccount("a-1/b.c-2")),
        ({}, Refusal("not-authenticated")),
        ({"user": {}, "error": "[invalid bearer token]"}, Refusal("not-authenticated")),
        (GOOD | {"authenticated": False}, Refusal("not-authenticated")),
        (GOOD | {"audiences": []}, Refusal("audiences-ignored")),
        (GOOD | {"audiences": None}, Refusal("audiences-ignored")),
        ({"authenticated": True, "user": USER}, Refusal("audiences-ignored")),
        (GOOD | {"audiences": ["other"]}, Refusal("audiences-ignored")),
        ({"authenticated": True, "audiences": [OURS]}, Refusal("no-service-account")),
        *(
            (GOOD | {"user": {"username": name}}, Refusal("no-service-account"))
            for name in (
                "",
                "kubernetes-admin",
                "system:node:a",
                "system:serviceaccount:desk",
                "system:serviceaccount:desk:",
                "system:serviceaccount::risk",
                "system:serviceaccount:desk:risk:x",
                "system:serviceaccount:desk/x:risk",
                "system:serviceaccount:desk:risk\n",
                "xsystem:serviceaccount:desk:risk",
            )
        ),
    ],
    ids=range(21),
)
def test_only_a_service_account_authenticated_for_our_audience_is_somebody(
    status: dict[str, object], verdict: ReviewResult
) -> None:
    assert decide(answer(**status), OURS) == verdict


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"kind":"TokenReview"}',
        b'{"kind":"Status","status":"Failure"}',
        b'{"kind":"TokenReview","status":{"authenticated":"true"}}',
        b'{"kind":"TokenReview","status":{"authenticated":1}}',
        b'{"kind":"TokenReview","status":{"audiences":"coinm-gateway"}}',
        b'{"kind":"TokenReview","status":{"user":{"username":"\xff"}}}',
        b"[" * 50_000,
    ],
    ids=range(11),
)
def test_what_is_no_review_is_no_verdict(body: bytes) -> None:
    with pytest.raises(NotVerifiedError) as raised:
        decide(body, OURS)
    assert raised.value.kind == "invalid"


@given(st.integers(-(10**12), 10**12), st.integers(0, 10**13))
def test_an_accepted_token_is_remembered_for_seconds_and_never_past_its_end(exp: int, now: int) -> None:
    held = remembered_for(ServiceAccount("desk/risk"), Claims("i", exp, OURS), now)
    assert 0 <= held <= ACCEPTED_FOR
    assert held == 0 or now + held <= exp * 1000


def test_a_refused_one_is_remembered_briefly_whatever_it_says_of_itself() -> None:
    assert remembered_for(Refusal("not-authenticated"), Claims("i", END, OURS), NOW) == REFUSED_FOR
    assert REFUSED_FOR < ACCEPTED_FOR
