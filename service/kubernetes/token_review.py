"""The owner of a token, in two pure decisions: `precheck` on the token alone, `decide` on the API server's answer.

`precheck` checks no signature, so it trusts nothing it reads. It only refuses what can't be a token for us, so that
garbage costs no review. Only the API server identifies a caller.
"""

import base64
import binascii
import re
from typing import Annotated, Literal, TypeAlias

import msgspec

from service.kubernetes.errors import NotVerifiedError

MAX_TOKEN = 8_192
"""Characters. A projected token has some 1,200; long names in it may double that, and further audiences add more."""
MAX_SECONDS = 2**53
"""Bound of `exp` in either direction: every JSON reader is exact up to here."""
LEEWAY = 60_000
"""Milliseconds that our clock may be ahead of the API server's, which allows for as much itself."""
ACCEPTED_FOR = 10_000
"""Milliseconds that an accepted token is remembered: a deleted ServiceAccount, or one of a deleted pod, is served for
so long. Each caller costs at most six reviews per minute, however often it reads."""
REFUSED_FOR = 2_000
"""Milliseconds that a refused token is remembered: a retry loop costs little, a token that becomes valid works soon."""

_JWT = re.compile(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_USERNAME = re.compile(r"system:serviceaccount:([a-z0-9][a-z0-9-]{0,62}):([a-z0-9][a-z0-9.-]{0,252})")

Reason: TypeAlias = Literal[
    "malformed",  # not three parts of base64url, or no JSON with the claims that every projected token has
    "unsigned",  # `alg: none`
    "wrong-audience",
    "expired",
    "not-authenticated",  # the API server says no
    "audiences-ignored",  # the API server says yes, but not for which audience
    "no-service-account",  # the token of a user or a node
]


class ServiceAccount(msgspec.Struct, frozen=True):
    """The owner of a token."""

    name: str
    """`namespace/name`, as the settings list it."""


class Refusal(msgspec.Struct, frozen=True):
    """Why a token is refused; for the log, not for the caller."""

    reason: Reason


ReviewResult: TypeAlias = ServiceAccount | Refusal


class Claims(msgspec.Struct, frozen=True):
    """Unverified claims. Legacy tokens in Secrets have no `exp` or `aud`: they are bound to no audience, so refused."""

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
    """Go's `omitempty` leaves out false and empty members, so each has a default."""

    authenticated: bool = False
    user: _User = _User()
    audiences: tuple[str, ...] | None = None


class _TokenReview(msgspec.Struct, frozen=True):
    kind: Literal["TokenReview"]
    status: _Status


_ANSWER = msgspec.json.Decoder(_TokenReview)
_HEADER = msgspec.json.Decoder(_Header)
_CLAIMS = msgspec.json.Decoder(Claims)


def precheck(token: bytes, audience: str, epoch_ms: int) -> Claims | Refusal:
    """The token's claims, or why it is not worth a review; `epoch_ms` is the present time."""
    # The bounded length and the regular expression come first: nothing is decoded that can't be a JWT.
    if len(token) > MAX_TOKEN or not _JWT.fullmatch(token):
        return Refusal("malformed")
    first, second, _ = token.split(b".")
    try:
        header, claims = _HEADER.decode(_decoded(first)), _CLAIMS.decode(_decoded(second))
    except (binascii.Error, msgspec.MsgspecError, UnicodeError, RecursionError):
        return Refusal("malformed")
    # Reasons that no clock decides come before the expiry, so that the log names the lasting one.
    if header.alg.lower() == "none":
        return Refusal("unsigned")
    if audience not in claims.audiences:
        return Refusal("wrong-audience")
    if claims.exp * 1000 + LEEWAY <= epoch_ms:
        return Refusal("expired")
    return claims


def _decoded(part: bytes) -> bytes:
    """Decode base64url without padding, the encoding of a token's parts (RFC 7515 §2)."""
    return base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))


def decide(answer: bytes, audience: str) -> ReviewResult:
    """The owner of the reviewed token, or why it is refused.

    Raises:
        NotVerifiedError: the answer is no TokenReview.
    """
    try:
        status = _ANSWER.decode(answer).status
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise NotVerifiedError("invalid") from None
    if not status.authenticated:
        return Refusal("not-authenticated")
    # A server that doesn't support audiences answers without them, and would accept any pod's token
    # (Kubernetes API reference, TokenReviewStatus).
    if audience not in (status.audiences or ()):
        return Refusal("audiences-ignored")
    username = _USERNAME.fullmatch(status.user.username)
    return ServiceAccount(f"{username[1]}/{username[2]}") if username else Refusal("no-service-account")


def remembered_for(result: ReviewResult, claims: Claims, epoch_ms: int) -> int:
    """Milliseconds that a result is valid from `epoch_ms` on; an accepted token never past its expiry."""
    if isinstance(result, Refusal):
        return REFUSED_FOR
    return max(0, min(ACCEPTED_FOR, claims.exp * 1000 - epoch_ms))
