"""Whose token is it? Two pure decisions: on the token before anybody is asked, and on the API server's answer.

The first believes nothing it reads, for no signature is checked: it only refuses what can't be a token for us, so that
garbage costs no review. Who the caller is, the API server alone says.
"""

import base64
import binascii
import re
from typing import Annotated, Literal, TypeAlias

import msgspec

from service.kubernetes.errors import NotVerifiedError

MAX_TOKEN = 8_192
"""Characters. A projected token has some 1,200; long names in it may add as many, and further audiences more."""
MAX_SECONDS = 2**53
"""An `exp` beyond it, either way, is no time: it is as far as every JSON reader counts exactly."""
LEEWAY = 60_000
"""Ms that our clock may be ahead of the API server's; as much as that itself allows for."""
ACCEPTED_FOR = 10_000
"""Ms that an accepted token is remembered: what a deleted ServiceAccount, or a pod's, may go on for. The API server is
asked six times a minute for each caller, however often it reads."""
REFUSED_FOR = 2_000
"""Ms that a refused one is: a caller's loop costs little, and a token that becomes valid is soon accepted."""

_JWT = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_USERNAME = re.compile(r"system:serviceaccount:([a-z0-9][a-z0-9-]{0,62}):([a-z0-9][a-z0-9.-]{0,252})")

Reason: TypeAlias = Literal[
    "malformed",  # not three parts of base64url, or no JSON with the claims that every projected token has
    "unsigned",  # `alg: none`
    "wrong-audience",
    "expired",
    "not-authenticated",  # the API server says no
    "audiences-ignored",  # the API server says yes, but not for which audience
    "no-service-account",  # a token of somebody else
]


class ServiceAccount(msgspec.Struct, frozen=True):
    """Whose token it is."""

    name: str
    """`namespace/name`, as the settings list it."""


class Refusal(msgspec.Struct, frozen=True):
    """Why it is nobody's; for the log, not for the caller."""

    reason: Reason


ReviewResult: TypeAlias = ServiceAccount | Refusal


class Claims(msgspec.Struct, frozen=True):
    """What a token says of itself. One without `exp` or `aud`, as of old kept in Secrets, is bound to no audience."""

    iss: str
    exp: Annotated[int, msgspec.Meta(ge=-MAX_SECONDS, le=MAX_SECONDS)]
    """Seconds since the epoch."""
    aud: str | tuple[str, ...]

    @property
    def audiences(self) -> tuple[str, ...]:
        return (self.aud,) if isinstance(self.aud, str) else self.aud


class _Header(msgspec.Struct, frozen=True):
    alg: str


class _User(msgspec.Struct, frozen=True):
    username: str = ""


class _Status(msgspec.Struct, frozen=True):
    """As Go writes it: what is false or empty may be missing."""

    authenticated: bool = False
    user: _User = _User()
    audiences: tuple[str, ...] | None = None


class _TokenReview(msgspec.Struct, frozen=True):
    kind: Literal["TokenReview"]
    status: _Status


_ANSWER = msgspec.json.Decoder(_TokenReview)
_HEADER = msgspec.json.Decoder(_Header)
_CLAIMS = msgspec.json.Decoder(Claims)


def precheck(token: bytes, audience: str, now: int) -> Claims | Refusal:
    """What a token says of itself, or why it is not worth a review; `now` is ms since the epoch."""
    if len(token) > MAX_TOKEN or not _JWT.fullmatch(token):
        return Refusal("malformed")
    first, second, _ = token.split(b".")
    try:
        header, claims = _HEADER.decode(_decoded(first)), _CLAIMS.decode(_decoded(second))
    except (binascii.Error, msgspec.MsgspecError, UnicodeError, RecursionError):
        return Refusal("malformed")
    if header.alg.lower() == "none":
        return Refusal("unsigned")
    if audience not in claims.audiences:
        return Refusal("wrong-audience")
    if claims.exp * 1000 + LEEWAY <= now:
        return Refusal("expired")
    return claims


def _decoded(part: bytes) -> bytes:
    """Base64url without its padding, as a token has it (RFC 7515 §2)."""
    return base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))


def decide(answer: bytes, audience: str) -> ReviewResult:
    """Whose token it is by a TokenReview that came back.

    An answer without audiences is of a server that doesn't know them, and would take any pod's token (Kubernetes'
    API reference, TokenReviewStatus).

    Raises:
        NotVerifiedError: it is no TokenReview.
    """
    try:
        status = _ANSWER.decode(answer).status
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotVerifiedError("invalid") from None
    if not status.authenticated:
        return Refusal("not-authenticated")
    if audience not in (status.audiences or ()):
        return Refusal("audiences-ignored")
    username = _USERNAME.fullmatch(status.user.username)
    return ServiceAccount(f"{username[1]}/{username[2]}") if username else Refusal("no-service-account")


def remembered_for(verdict: ReviewResult, claims: Claims, now: int) -> int:
    """How many ms a verdict holds, asked for at `now` (ms since the epoch); an accepted token never past its end."""
    if isinstance(verdict, Refusal):
        return REFUSED_FOR
    return max(0, min(ACCEPTED_FOR, claims.exp * 1000 - now))
