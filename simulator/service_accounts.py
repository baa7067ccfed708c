"""ServiceAccounts of a simulated cluster: their tokens, and what the API server finds when it looks at one.

Checks, their order and their messages follow Kubernetes' source (`pkg/serviceaccount/jwt.go`, `claims.go`).
Nothing here looks at a clock: times are seconds since the epoch, as arguments.
"""

import uuid
from collections.abc import Sequence
from functools import cache
from typing import Any

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.types import Options

ISSUER = "https://kubernetes.default.svc.cluster.local"
"""Who signs tokens; also the API server's own audience."""
LEEWAY = 60
"""Seconds that clocks may differ: go-jose's default, which the API server takes."""

_INVALID = "invalid bearer token"
_BY_ARGUMENT: Options = {"verify_exp": False, "verify_nbf": False, "verify_iat": False, "verify_aud": False}
"""The library would look at the machine's clock, and at audiences its own way."""


class Account(msgspec.Struct, frozen=True):
    """A ServiceAccount; one that is deleted and made again has another uid."""

    namespace: str
    name: str
    uid: str

    @property
    def username(self) -> str:
        return f"system:serviceaccount:{self.namespace}:{self.name}"


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What a token says, and what it is signed with, where it isn't as usual. Seconds from now."""

    starts_in: int = 0
    ends_in: int | None = 3600
    issuer: str = ISSUER
    key: rsa.RSAPrivateKey | None = None
    padding: int = 0
    """Characters of a pod's name, to make it long."""


class Known(msgspec.Struct, frozen=True):
    """A good token: whose it is, and for which of the audiences that were asked for."""

    account: Account
    audiences: tuple[str, ...]
    claims: dict[str, Any]


class ServiceAccounts:
    """All of a cluster's."""

    def __init__(self) -> None:
        self.checks_audiences = True
        """False: as an authenticator that takes a good token for any audience."""
        self._accounts: dict[tuple[str, str], Account] = {}

    def add(self, namespace: str, name: str) -> Account:
        """Make one, or make it anew."""
        account = self._accounts[namespace, name] = Account(namespace, name, str(uuid.uuid4()))
        return account

    def delete(self, account: Account) -> None:
        """KeyError if there is none of its name."""
        del self._accounts[account.namespace, account.name]

    def authenticate(self, token: str, audiences: Sequence[str], now: float) -> Known | str:
        """Whose token it is, or what is wrong with it, in the API server's words."""
        try:
            claims = jwt.decode(token, signing_key().public_key(), ["RS256"], options=_BY_ARGUMENT)
        except jwt.InvalidSignatureError:
            return f"[{_INVALID}, go-jose/go-jose: error in cryptographic primitive]"
        except jwt.InvalidTokenError:
            return _INVALID
        if claims["iss"] != ISSUER:
            return _INVALID
        told = claims.get("aud", [ISSUER])
        shared = tuple(each for each in audiences if each in told)
        if not shared and self.checks_audiences:
            return f"[{_INVALID}, token audiences {_go(told)} is invalid for the target audiences {_go(audiences)}]"
        fault = _fault_of_times(claims, now) or self._fault_of_account(claims)
        if fault is not None:
            return f"[{_INVALID}, {fault}]"
        return Known(self._bound(claims), shared, claims)

    def _fault_of_account(self, claims: dict[str, Any]) -> str | None:
        bound = claims["kubernetes.io"]["serviceaccount"]
        account = self._accounts.get((claims["kubernetes.io"]["namespace"], bound["name"]))
        if account is None:
            return f'serviceaccounts "{bound["name"]}" not found'
        if account.uid != bound["uid"]:
            return f"service account UID ({account.uid}) does not match claim ({bound['uid']})"
        return None

    def _bound(self, claims: dict[str, Any]) -> Account:
        bound = claims["kubernetes.io"]
        return self._accounts[bound["namespace"], bound["serviceaccount"]["name"]]


def issue(account: Account, audiences: Sequence[str], terms: Terms, now: int) -> str:
    """A token as a kubelet projects it into a pod; without `ends_in` it says neither its end nor its audience."""
    claims: dict[str, Any] = {
        "iat": now + terms.starts_in,
        "iss": terms.issuer,
        "jti": str(uuid.uuid4()),
        "kubernetes.io": {
            "namespace": account.namespace,
            "pod": {"name": "caller-7d9c5b9f6-x2x4z" + "x" * terms.padding, "uid": str(uuid.uuid4())},
            "serviceaccount": {"name": account.name, "uid": account.uid},
        },
        "nbf": now + terms.starts_in,
        "sub": account.username,
    }
    if terms.ends_in is not None:
        claims |= {"aud": list(audiences), "exp": now + terms.ends_in}
    return jwt.encode(claims, terms.key or signing_key(), algorithm="RS256", headers={"kid": "simulated"})


@cache
def signing_key() -> rsa.RSAPrivateKey:
    """What every simulated cluster of this process signs with: making one takes a while."""
    return rsa.generate_private_key(65537, 2048)


def public_key_pem() -> bytes:
    """What everybody may know of it."""
    return signing_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _fault_of_times(claims: dict[str, Any], now: float) -> str | None:
    if now - LEEWAY > claims.get("exp", now):
        return "service account token has expired"
    if now + LEEWAY < claims["nbf"]:
        return "service account token is not valid yet"
    return None


def _go(texts: Sequence[str]) -> str:
    """A list of strings as Go prints it with %q."""
    return "[" + " ".join(f'"{each}"' for each in texts) + "]"
