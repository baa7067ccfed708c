"""One public address: the weight spent through it, and the time before which nothing may be sent.

State only; every rule is `service.exchange.budget`'s.
"""

from msgspec.structs import replace

from service.exchange import budget
from service.exchange.budget import NO_COOLDOWN, Barrier, Ceiling, Charge, Cooldown, Window
from service.exchange.clock import ExchangeClock
from service.settings import Exchange

ADDRESS = ""
"""The scope of a not-before that binds every credential; the others are credentials' identities."""


class AddressBudget:
    """What this replica knows of its address. All calls to the exchange pass `barrier` and `reserve`."""

    def __init__(self, settings: Exchange, clock: ExchangeClock) -> None:
        self._settings = settings
        self.clock = clock
        self._window = Window(0)
        self._fleet = Window(0)
        self._holds: dict[str, Cooldown] = {}
        self._probed_until = 0
        self.live_limit: int | None = None
        """The exchange's own weight limit, from exchangeInfo; lowers ours, never raises it."""
        self.degraded = False
        """Whether the replicas can't tell each other what they spend."""

    @property
    def ceiling(self) -> float:
        """What everyone on the address together may spend a minute, as far as it is up to us."""
        limit = min(self._settings.weight_limit, self.live_limit or self._settings.weight_limit)
        return limit * self._settings.weight_share

    @property
    def window(self) -> Window:
        """The current minute's, of this replica. Stores nothing: metrics read it from a thread of their own.

        A minute ends when it has surely ended at the exchange, which counts what comes a moment early as the old one's.
        """
        return budget.window_at(self._window, self.clock.earliest())

    @property
    def used(self) -> int:
        """The address's weight this minute, by all that is known."""
        own, fleet = self.window, self._fleet
        return max(own.used, fleet.used if fleet.minute == own.minute else 0)

    def barrier(self, claim: Charge, *, probing: bool = False) -> Barrier | None:
        """Why a call may not be sent now, or `None`; `probing`: it is the probe itself."""
        now = self.clock.now()
        forbidden = self.forbidden(claim.credential)
        if forbidden is not None:
            return forbidden
        if self._probed_until > now and self.half_open and not probing:
            return budget.probe_barrier(self.hold(ADDRESS), now)
        return self._weight_barrier(claim)

    @property
    def half_open(self) -> bool:
        """Whether a refusal of the address has passed, and a probe is to tell whether the exchange agrees."""
        return self.hold(ADDRESS).opens(self.clock.earliest())

    @property
    def held(self) -> bool:
        """Whether nothing but that probe may be sent."""
        return self.half_open or self.hold(ADDRESS).binds(self.clock.earliest())

    def forbidden(self, credential: str) -> Barrier | None:
        """The not-before that forbids a call whatever it weighs, or `None`."""
        now = self.clock.earliest()
        binding = [hold for hold in (self.hold(ADDRESS), self.hold(credential)) if hold.binds(now)]
        return budget.cooldown_barrier(max(binding, key=lambda hold: hold.until)) if binding else None

    def reserve(self, claim: Charge) -> None:
        """Count a call before it is sent; `settle` or `abandon` follows."""
        self._window = budget.reserve(self.window, claim)
        self._fleet = budget.reserve(self._fleet, claim)

    def settle(self, weight: int, reported: int | None, minute: int) -> None:
        """A call sent in `minute` was answered; `reported` is the exchange's count for the address then, if any."""
        window = self.window
        figure = reported if window.minute == minute else None
        self._window = budget.settle(window, weight, figure)
        self._fleet = budget.settle(self._fleet, weight, figure)

    def abandon(self, weight: int) -> None:
        """No answer came."""
        self._window = budget.abandon(self.window, weight)

    def learn_window(self, fleet: Window) -> None:
        """Take over what the replicas together have spent."""
        self._fleet = fleet

    def hold(self, scope: str) -> Cooldown:
        """The not-before of a scope; it may have passed."""
        return self._holds.get(scope, NO_COOLDOWN)

    def learn(self, scope: str, hold: Cooldown) -> None:
        """Take over a not-before and a resume as far as they override what is known."""
        longest = self.clock.now() + budget.MAX_COOLDOWN
        self._holds[scope] = budget.joined(self.hold(scope), replace(hold, until=min(hold.until, longest)))

    def impose(self, scope: str, hold: Cooldown) -> None:
        """Remember a refusal of just now: by a clock that is behind, too, it is later than a resume that is known."""
        self.learn(scope, replace(hold, imposed=max(self.clock.latest(), self.hold(scope).resumed)))

    def defer_probe(self) -> None:
        """Somebody else sends the probe: nothing is sent on this account's behalf for a while."""
        self._probed_until = self.clock.now() + budget.PROBE_PAUSE

    def _weight_barrier(self, claim: Charge) -> Barrier | None:
        together, now = self.ceiling, self.clock.earliest()
        barrier = budget.weight_barrier(self.window, claim, self._own_ceiling(together), now)
        if barrier is None and self._fleet.minute == self.window.minute:
            barrier = budget.weight_barrier(self._fleet, claim, Ceiling(together, together), now)
        return barrier

    def _own_ceiling(self, together: float) -> Ceiling:
        """For this replica's window.

        Without Redis it has an equal part, and knows of the others' calls what its own last answer told: so each of
        them may be one call past that.
        """
        replicas = self._settings.expected_replicas
        if not self.degraded:
            return Ceiling(together, together)
        return Ceiling(max(1, together - (replicas - 1) * budget.ACCOUNT_WEIGHT), together / replicas)
