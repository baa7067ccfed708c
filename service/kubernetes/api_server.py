"""The one way to the cluster's API server: a TokenReview sent, its bytes back.

Messages of httpx may quote header values, so only the kind of a failure is kept.
"""

import contextlib
import hmac
import ssl

import httpx
import msgspec

from service import bounded_http
from service.bounded_http import BodyError
from service.kubernetes.errors import NotVerifiedError
from service.settings import Kubernetes
from service.settings_file import SettingsError, read_secret
from service.tls import trust

PATH = "/apis/authentication.k8s.io/v1/tokenreviews"
CONNECT_TIMEOUT = 1.0
"""Seconds to connect, within the cluster a matter of milliseconds."""
CONNECTIONS = 16
"""At a time: as many as reviews (`TokenReviews`)."""
MAX_ANSWER = 64 * 1024
"""Bytes. The token comes back in it, 8 KiB at the most, with a handful of groups."""


class _Spec(msgspec.Struct, frozen=True):
    token: str | None = None


class _Echo(msgspec.Struct, frozen=True):
    """What comes back of a request."""

    spec: _Spec = _Spec()


_BROKEN = (httpx.ReadError, httpx.WriteError, httpx.CloseError, httpx.RemoteProtocolError)


class ApiServer:
    """Asks by the gateway's own token.

    It is read for every review: the file is small and in memory, reviews are rare, and a kubelet changes it by swapping
    a symlink, at a time of its own. So an outdated one is never used.

    Raises:
        SettingsError: there is no such token.
    """

    def __init__(self, settings: Kubernetes, http: httpx.AsyncClient) -> None:
        self._token_file = settings.token_file
        self._http = http
        self._own_token()

    async def review(self, token: str, audience: str) -> bytes:
        """The TokenReview as it came back; the caller bounds the time.

        Raises:
            NotVerifiedError: there was no such answer, or it is about another token.
        """
        content = _tokenreview(token, audience)
        try:
            answer = await self._post_again_if_broken(content)
        except httpx.HTTPError as exc:
            raise NotVerifiedError(_kind(exc)) from None
        if not _is_about(answer, token):
            raise NotVerifiedError("invalid")
        return answer

    async def selftest(self, audience: str) -> bytes:
        """The review of our own token, to see whether there can be any.

        Raises:
            NotVerifiedError: there can't.
        """
        return await self.review(self._read_token(), audience)

    async def close(self) -> None:
        await self._http.aclose()

    async def _post_again_if_broken(self, content: bytes) -> bytes:
        """A second try for a connection kept open that the server closed just then; to review twice changes nothing."""
        with contextlib.suppress(*_BROKEN):
            return await self._post(content)
        return await self._post(content)

    async def _post(self, content: bytes) -> bytes:
        headers = {"authorization": f"Bearer {self._read_token()}"}
        async with self._http.stream("POST", PATH, content=content, headers=headers) as response:
            if response.status_code != httpx.codes.CREATED:
                raise NotVerifiedError(_refusal(response.status_code))
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


def open_client(settings: Kubernetes, transport: httpx.AsyncBaseTransport | None) -> httpx.AsyncClient:
    """The one client; nobody is trusted but the cluster's CA.

    Raises:
        SettingsError: the CA's file is not what is expected.
    """
    return bounded_http.open_client(
        settings.api_server,
        transport=transport,
        trust=trust(settings.ca_file, "kubernetes.ca_file") if settings.api_server.startswith("https:") else None,
        timeout=httpx.Timeout(None, connect=CONNECT_TIMEOUT),  # the rest is bounded as a whole
        connections=CONNECTIONS,
        headers={"content-type": "application/json"},
    )


def _tokenreview(token: str, audience: str) -> bytes:
    return msgspec.json.encode(
        {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
    )


def _is_about(answer: bytes, token: str) -> bool:
    """Whether an answer can be read and names no other token than this.

    Answers are matched to requests by their order alone. One that belongs to another would give a caller a name that is
    not its own.
    """
    try:
        echoed = msgspec.json.decode(answer, type=_Echo).spec.token
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return echoed is None or hmac.compare_digest(echoed.encode(), token.encode())


def _refusal(status: int) -> str:
    """What a status other than 201 means; a caller's token can bring about no 401 or 403: those are of our own."""
    match status:
        case 401:
            return "unauthorized"
        case 403:
            return "forbidden"
        case 408 | 429:
            return "unavailable"
        case _:
            return "unavailable" if status >= 500 else "invalid"


def _kind(exc: BaseException) -> str:
    """What failed, of the kinds in `errors.FAILURES`."""
    if isinstance(exc, httpx.TimeoutException):
        return "timeout"
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "untrusted"
        cause = cause.__cause__ or cause.__context__
    return "unreachable"
