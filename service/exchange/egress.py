"""One public address: the weight spent through it, and the time before which nothing may be sent.

State only; every rule is `service.exchange.budget`'s.
"""

from msgspec.structs import replace

from service.exchange import budget
from service.exchange.budget import NO_HOLD, Barrier, Ceiling, Hold
from service.exchange.clock import ExchangeClock
from service.settings import Exchange

ADDRESS = ""
"""The scope of a not-before that binds every credential; the others are credentials' identities."""


class Egress:
    """What this replica knows of its address. All calls to the exchange pass `barrier` and `reserve`."""

    def __init__(self, settings: Exchange, clock: ExchangeClock) -> None:
        self._settings = settings
        self.clock = clock
        self._window = budget.Window(0)
        self._holds: dict[str, Hold] = {}
        self.live_limit: int | None = None
        """The exchange's own weight limit, from exchangeInfo; lowers ours, never raises it."""
        self.degraded = False
        """Whether the replicas can't tell each other what they spend."""

    @property
    def ceiling(self) -> Ceiling:
        limit = min(self._settings.weight_limit, self.live_limit or self._settings.weight_limit)
        address = limit * self._settings.weight_share
        return Ceiling(address, address / self._settings.expected_replicas if self.degraded else address)

    @property
    def window(self) -> budget.Window:
        """The current minute's. Stores nothing: metrics read it from a thread of their own."""
        return budget.window_at(self._window, self.clock.now())

    def barrier(self, credential: str, weight: int, *, forced: bool = False) -> Barrier | None:
        """Why a call of this weight may not be sent now, or `None`."""
        now = self.clock.now()
        hold = max(self.hold(ADDRESS), self.hold(credential), key=lambda each: each.until)
        if hold.until > now:
            return budget.hold_barrier(hold)
        if budget.overspent(self.window, weight, self.ceiling, forced=forced):
            return budget.weight_barrier(self.window)
        return None

    def reserve(self, weight: int, *, forced: bool) -> int:
        """Count a call before it is sent; `settle` or `abandon` follows. Gives the minute it is sent in."""
        self._window = budget.reserve(self.window, weight, forced=forced)
        return self._window.minute

    def settle(self, weight: int, reported: int | None, minute: int) -> None:
        """A call sent in `minute` was answered; `reported` is the exchange's count for the address then, if any."""
        window = self.window
        self._window = budget.settle(window, weight, reported if window.minute == minute else None)

    def abandon(self, weight: int) -> None:
        """No answer came."""
        self._window = budget.abandon(self.window, weight)

    def hold(self, scope: str) -> Hold:
        """The not-before of a scope; it may have passed."""
        return self._holds.get(scope, NO_HOLD)

    def learn(self, scope: str, hold: Hold) -> None:
        """Take over a not-before if it overrides what is known: it only grows, but for a resume."""
        longest = self.clock.now() + budget.MAX_HOLD
        self._holds[scope] = max(self.hold(scope), replace(hold, until=min(hold.until, longest)))

    def impose(self, scope: str, hold: Hold) -> None:
        """Remember a refusal of just now."""
        self.learn(scope, replace(hold, epoch=self.hold(scope).epoch))
