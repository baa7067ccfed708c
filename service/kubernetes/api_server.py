"""The only access to the cluster's API server: sends a TokenReview and returns the answer's bytes.

Messages of httpx may quote header values, so only the kind of a failure is kept.
"""

# Two tokens are in play, and must not be confused. Ours authenticates the request (`Authorization`). The caller's is
# the subject of the review (`spec.token`). A status of 401 or 403 is always about ours: a caller's bad token gives a
# 201 with `authenticated: false`.
#
# HTTP/1.1 matches answers to requests by their order on a connection, and by nothing else. An answer that belongs to
# another request would give a caller an identity that is not its own. `bounded_http` discards connections with bytes
# left over, and `_is_about` compares the token in the answer.

import contextlib
import hmac
import ssl

import httpx
import msgspec

from service.bounded_http import client as bounded_http
from service.bounded_http.client import BodyError, Client
from service.kubernetes.errors import NotVerifiedError
from service.settings import Kubernetes
from service.settings_file import SettingsError, read_secret
from service.tls import trust

PATH = b"/apis/authentication.k8s.io/v1/tokenreviews"
CONNECT_TIMEOUT = 1.0
"""Seconds to connect; within the cluster it takes milliseconds."""
CONNECTIONS = 16
"""As many as there are concurrent reviews: 8 for each of the two queues of `TokenReviews`."""
MAX_ANSWER = 64 * 1024
"""Bytes. An answer repeats the token, of 8 KiB at most, and adds a handful of groups."""


class _Spec(msgspec.Struct, frozen=True):
    token: str | None = None


class _Echo(msgspec.Struct, frozen=True):
    """The part of an answer that repeats the request."""

    spec: _Spec = _Spec()


_BROKEN = (httpx.ReadError, httpx.WriteError, httpx.CloseError, httpx.RemoteProtocolError)
_REFUSALS = {401: "unauthorized", 403: "forbidden", 408: "unavailable", 429: "unavailable"}
"""Kinds of failure by status, beside 5xx (unavailable) and any other (invalid)."""


class ApiServer:
    """Sends reviews with the gateway's own token.

    That token is read from its file for every review, so an outdated one is never used: the kubelet replaces it by
    swapping a symlink, without notice. The file is small and in memory, and reviews are rare.

    Raises:
        SettingsError: the token can't be read.
    """

    def __init__(self, settings: Kubernetes, http: Client) -> None:
        self._token_file = settings.token_file
        self._http = http
        self._own_token()

    async def review(self, token: str, audience: str) -> bytes:
        """The TokenReview as received; the caller bounds the time.

        Raises:
            NotVerifiedError: there was no such answer, or it is about another token.
        """
        spec = {"token": token, "audiences": [audience]}
        content = msgspec.json.encode({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec})
        answer: bytes | None = None
        try:
            # The server may have closed an idle connection just as it was reused, so a broken one gets a second try. To
            # review twice changes nothing.
            with contextlib.suppress(*_BROKEN):
                answer = await self._post(content)
            if answer is None:
                answer = await self._post(content)
        except httpx.HTTPError as exc:
            raise NotVerifiedError(_failure_kind(exc)) from None
        if not _is_about(answer, token):
            raise NotVerifiedError("invalid")
        return answer

    async def selftest(self, audience: str) -> bytes:
        """The review of our own token, which shows whether reviews are possible.

        Raises:
            NotVerifiedError: they aren't.
        """
        return await self.review(self._read_token(), audience)

    async def close(self) -> None:
        await self._http.aclose()

    async def _post(self, content: bytes) -> bytes:
        headers = {"authorization": f"Bearer {self._read_token()}"}
        async with self._http.stream("POST", PATH, headers, content) as response:
            if response.status_code != httpx.codes.CREATED:
                other = "unavailable" if response.status_code >= 500 else "invalid"
                raise NotVerifiedError(_REFUSALS.get(response.status_code, other))
            body = bytearray()
            try:
                await bounded_http.read_into(body, response, MAX_ANSWER)
            except BodyError:
                raise NotVerifiedError("invalid") from None
            return bytes(body)

    def _read_token(self) -> str:
        try:
            return self._own_token()
        except SettingsError:
            raise NotVerifiedError("no-token") from None

    def _own_token(self) -> str:
        return read_secret(self._token_file, "kubernetes.token_file").reveal()


def open_client(settings: Kubernetes, transport: httpx.AsyncBaseTransport | None) -> Client:
    """The HTTP client; it trusts the cluster's CA and no other.

    Raises:
        SettingsError: the file of the CA holds no certificates.
    """
    return bounded_http.open_client(
        settings.api_server,
        transport=transport,
        trust=trust(settings.ca_file, "kubernetes.ca_file") if settings.api_server.startswith("https:") else None,
        timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT),  # the rest is bounded as a whole
        connections=CONNECTIONS,
        headers={"content-type": "application/json"},
    )


def _is_about(answer: bytes, token: str) -> bool:
    """Whether an answer can be decoded, and repeats this token or none."""
    try:
        echoed = msgspec.json.decode(answer, type=_Echo).spec.token
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return echoed is None or hmac.compare_digest(echoed.encode(), token.encode())


def _failure_kind(exc: BaseException) -> str:
    """The kind in `errors.FAILURES` of a failed call. httpx wraps the TLS error, so the whole chain is searched."""
    if isinstance(exc, httpx.TimeoutException):
        return "timeout"
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "untrusted"
        cause = cause.__cause__ or cause.__context__
    return "unreachable"
