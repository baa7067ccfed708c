"""A simulated Kubernetes API server, as far as ServiceAccount tokens go: it issues them, and reviews them.

It speaks `POST /apis/authentication.k8s.io/v1/tokenreviews` in the API's own objects, and `Status` where it refuses.
The way of one request: counted, then a fault if one is set, else the caller's own token, its right to create
TokenReviews, and the review; the answer, complete by now, is held back while the gate is closed.
"""

import time
from collections.abc import Callable
from typing import Literal

import msgspec

from simulator.asgi import Receive, Reply, Request, Scope, Send, deliver, json_reply, outlasts, read_body
from simulator.observing import Clock, Condition, Gate
from simulator.service_accounts import ISSUER, Account, Known, ServiceAccounts, Terms, issue

PATH = "/apis/authentication.k8s.io/v1/tokenreviews"
ANONYMOUS = "system:anonymous"


class Review(msgspec.Struct, frozen=True):
    """A review that was carried out, and what came of it: whose the token is, or what is wrong with it."""

    audiences: tuple[str, ...]
    username: str | None
    error: str | None


class Cluster:
    """A cluster without any ServiceAccounts. Belongs to one event loop.

    Args:
        clock: Seconds since the epoch; `cluster.clock` can skew or stop it.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.clock = Clock(clock)
        self.gate = Gate()
        self.accounts = ServiceAccounts()
        self.fault: Reply | None = None
        """What every request is answered with; None: what is due."""
        self.reviewers: set[str] = set()
        """Usernames that may create TokenReviews, as those bound to the ClusterRole system:auth-delegator may."""
        self.requests = 0
        self.reviews: list[Review] = []
        self.issued: list[str] = []
        """Every token there is, for who looks whether one has leaked."""
        self._changed = Condition()

    def add(self, name: str, *, reviewer: bool = False) -> Account:
        """Make the ServiceAccount `namespace/name`, or make it anew."""
        account = self.accounts.add(*name.split("/"))
        if reviewer:
            self.reviewers.add(account.username)
        return account

    def delete(self, account: Account) -> None:
        self.accounts.delete(account)

    def token(self, account: Account, *audiences: str, terms: Terms | None = None) -> str:
        """A token of an account; without audiences, one for the API server itself."""
        token = issue(account, audiences or (ISSUER,), terms or Terms(), self.clock.now_ms() // 1000)
        self.issued.append(token)
        return token

    async def wait_for(self, requests: int) -> None:
        """Return once so many requests have arrived since the start."""
        await self._changed.wait_for(lambda: self.requests >= requests)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotImplementedError(f"no {scope['type']} here")
        body = await read_body(receive)
        self.requests += 1
        self._changed.notify_all()
        reply = self.fault or self._answer(Request.from_scope(scope), body or b"")
        if (reply.hangs or self.gate.closed) and not await outlasts(self.gate.stop(), receive):
            return
        await deliver(reply, scope, receive, send, now_ms=self.clock.now_ms())

    def _answer(self, request: Request, body: bytes) -> Reply:
        username = self._caller(request)
        if username is None:
            return _status(401, "Unauthorized", "Unauthorized")
        if request.path != PATH:
            return _status(404, "NotFound", "the server could not find the requested resource")
        if request.method != "POST":
            words = "the server does not allow this method on the requested resource"
            return _status(405, "MethodNotAllowed", words)
        if username not in self.reviewers:
            return _status(403, "Forbidden", _FORBIDDEN.format(username))
        try:
            asked = msgspec.json.decode(body, type=_Asked)
        except msgspec.DecodeError as exc:
            return _status(400, "BadRequest", f"the object provided is unrecognized: {exc}")
        if not asked.spec.token:
            return _status(400, "BadRequest", "token is required for TokenReview in authentication")
        return json_reply(self._review(asked.spec), 201)

    def _caller(self, request: Request) -> str | None:
        """Who asks; None: somebody with a token that is none of ours."""
        scheme, _, token = request.headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        if scheme.lower() != "bearer":
            return ANONYMOUS
        found = self._authenticate(token, (ISSUER,))
        return found.account.username if isinstance(found, Known) else None

    def _review(self, spec: "_Spec") -> object:
        """The TokenReview as it goes back: what was asked, the token with it, and its status."""
        audiences = spec.audiences or (ISSUER,)
        found = self._authenticate(spec.token, audiences)
        known = found if isinstance(found, Known) else None
        error = None if isinstance(found, Known) else found
        self.reviews.append(Review(audiences, known.account.username if known else None, error))
        return {
            "kind": "TokenReview",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {"creationTimestamp": None},
            "spec": spec,
            # As Go has it: what is false or empty is left out.
            "status": self._good(known) if known else {"user": {}, "error": error},
        }

    def _good(self, known: Known) -> object:
        account = known.account
        groups = ["system:serviceaccounts", f"system:serviceaccounts:{account.namespace}", "system:authenticated"]
        extra = {
            "authentication.kubernetes.io/credential-id": [f"JTI={known.claims['jti']}"],
            "authentication.kubernetes.io/pod-name": [known.claims["kubernetes.io"]["pod"]["name"]],
        }
        user = {"username": account.username, "uid": account.uid, "groups": groups, "extra": extra}
        audiences = {"audiences": list(known.audiences)} if self.accounts.checks_audiences else {}
        return {"authenticated": True, "user": user} | audiences

    def _authenticate(self, token: str, audiences: tuple[str, ...]) -> Known | str:
        return self.accounts.authenticate(token, audiences, self.clock.now_ms() / 1000)


class _Spec(msgspec.Struct, frozen=True, omit_defaults=True):
    token: str = ""
    audiences: tuple[str, ...] = ()


class _Asked(msgspec.Struct, frozen=True, rename="camel"):
    """What a caller sends."""

    api_version: Literal["authentication.k8s.io/v1"]
    kind: Literal["TokenReview"]
    spec: _Spec


_FORBIDDEN = (
    'tokenreviews.authentication.k8s.io is forbidden: User "{}" cannot create resource "tokenreviews" '
    'in API group "authentication.k8s.io" at the cluster scope'
)


def _status(code: int, reason: str, message: str) -> Reply:
    """How the API server says no."""
    content = {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": reason,
        "code": code,
    }
    return json_reply(content, code)
