"""Every way in which the exchange can fail to return a document, and who must act.

ExchangeError                         status  who must act
├── ExchangeRateLimitedError             503  no one: wait (the exchange's 429, or a 503 with Retry-After)
├── ExchangeBannedError                  503  the operator: something on the address overspends (418)
├── WeightBudgetSpentError               503  no one: wait for the exchange's next minute; nothing was sent
├── ExchangeUnavailableError             503  the exchange: 5xx, connection errors, maintenance
├── ExchangeTimeoutError                 504  the exchange: 408, or no answer in time
├── ExchangeRejectedCredentialsError     502  the operator: key, permission or address list (-2014, -2015, -1022, -1002)
├── ExchangeClockSkewError               502  the operator: -1021 again after one resync
├── ExchangeBlockedError                 502  the operator: firewall (403, a challenge) or region (451)
├── ExchangeEndpointGoneError            502  the developers: the path is gone (404, -5000)
├── ExchangeRefusedError                 502  the developers: any other 3xx or 4xx
├── ExchangeAnswerInvalidError           502  the developers: not the documented shape
└── RefreshFaultError                    500  the developers: a bug of ours while calling or reading the answer

Each class names the problem type and the status that a caller receives.
"""

# The exchange's own text never reaches a caller: it can hold an address, a URL, or anything at all. So each `detail` is
# a sentence of ours. The problem types are stored in Redis as well (cooldowns, failures), so replicas of different
# releases read each other's. A release that doesn't know a cooldown's type treats it as a ban.

# A raised exception collects the traceback, and so the locals, of every frame that it passes. So what is kept or shared
# is the `Failure`, a plain value; a new exception is raised from it where it is reported again.

from typing import ClassVar

import msgspec
from msgspec.structs import replace


class Failure(msgspec.Struct, frozen=True):
    """Why there is no answer: what an `ExchangeError` carries, and what is remembered of it."""

    problem: str
    """The problem type, a key of `ERRORS`."""
    detail: str
    """A sentence of ours, safe to show."""
    answered: int | None = None
    """The exchange's HTTP status, if it answered."""
    code: int | None = None
    """The exchange's error code, if it gave one."""
    retry_at: int | None = None
    """When to call again at the earliest, epoch ms on the exchange's clock, if known."""

    def error(self) -> "ExchangeError":
        """A new exception that carries this failure."""
        error = ERRORS[self.problem](self.detail)
        error.failure = self
        return error

    def until(self, retry_at: int) -> "Failure":
        """The same, to be retried no earlier than then."""
        return replace(self, retry_at=retry_at)


class ExchangeError(Exception):
    """Why there is no answer; base of the tree, never raised itself.

    Args:
        detail, answered, code, retry_at: as in `Failure`.
        transient: whether a retry within the same refresh may help.
    """

    problem: ClassVar[str]
    status: ClassVar[int]
    title: ClassVar[str]

    def __init__(
        self,
        detail: str,
        *,
        answered: int | None = None,
        code: int | None = None,
        retry_at: int | None = None,
        transient: bool = False,
    ) -> None:
        super().__init__(detail)
        self.failure = Failure(self.problem, detail, answered, code, retry_at)
        self.transient = transient

    @property
    def detail(self) -> str:
        return self.failure.detail


class ExchangeRateLimitedError(ExchangeError):
    """The exchange's 429: nothing may be sent until its next minute. Or its 503 that says until when."""

    problem, status, title = "exchange-rate-limited", 503, "The exchange limits our rate"


class ExchangeBannedError(ExchangeError):
    """The exchange's 418: nothing may be sent until the ban ends."""

    problem, status, title = "exchange-banned", 503, "The exchange has banned our address for a while"


class WeightBudgetSpentError(ExchangeError):
    """Our own ceiling: nothing was sent."""

    problem, status, title = "weight-budget-spent", 503, "This minute's request weight is spent"


class ExchangeUnavailableError(ExchangeError):
    """5xx, a connection that failed, or maintenance."""

    problem, status, title = "exchange-unavailable", 503, "The exchange is unavailable"


class ExchangeTimeoutError(ExchangeError):
    """The exchange's 408, or no answer in time."""

    problem, status, title = "exchange-timeout", 504, "The exchange did not answer in time"


class ExchangeRejectedCredentialsError(ExchangeError):
    """Key, signature, permission or address list; repeating the call never helps."""

    problem, status, title = "exchange-rejected-credentials", 502, "The exchange rejects our credentials"


class ExchangeClockSkewError(ExchangeError):
    """-1021 although the clock was measured again."""

    problem, status, title = "exchange-clock-skew", 502, "The exchange rejects our clock"


class ExchangeBlockedError(ExchangeError):
    """403 or a challenge by its firewall, or 451 for our region."""

    problem, status, title = "exchange-blocked", 502, "The exchange blocks our address"


class ExchangeEndpointGoneError(ExchangeError):
    """The path is gone."""

    problem, status, title = "exchange-endpoint-gone", 502, "The exchange's endpoint is gone"


class ExchangeRefusedError(ExchangeError):
    """Any other 3xx or 4xx."""

    problem, status, title = "exchange-refused", 502, "The exchange refuses the request"


class ExchangeAnswerInvalidError(ExchangeError):
    """A success that is not the documented shape."""

    problem, status, title = "exchange-answer-invalid", 502, "The exchange's answer is not what it documents"


class RefreshFaultError(ExchangeError):
    """An unforeseen exception. Remembered like the exchange's failures, so that a bug can't hammer the exchange."""

    problem, status, title = "internal-error", 500, "A fault of the gateway"


ERRORS: dict[str, type[ExchangeError]] = {error.problem: error for error in ExchangeError.__subclasses__()}
"""By problem type: how a remembered refusal becomes an error again."""
