"""One public address: the weight spent through it, and the cooldowns that bind it and its credentials.

State only; every rule is `service.fleet.budget`'s.
"""

# Which reading of the clock decides (`ExchangeClock`): the exchange's time is known to within an error bound.
# - Cooldowns and minutes end by `earliest`, the lower bound: not a moment too soon.
# - A refusal is stamped with `latest`, the upper bound: never earlier than a resume that an operator gave before it.
# - Our own pauses and caps use `now`, the best estimate; nothing at the exchange depends on them.
#
# Nothing here awaits, so each method is atomic on the event loop. Only `window`, `used`, `ceiling` and `cooldown` are
# read from another thread (metrics), and they change nothing.

from msgspec.structs import replace

from service.exchange.clock import ExchangeClock
from service.fleet import budget
from service.fleet.budget import NO_COOLDOWN, Barrier, Ceiling, Charge, Cooldown, Window
from service.settings import Exchange

ADDRESS = ""
"""The scope of a cooldown that binds every credential; the other scopes are identities of credentials."""


class AddressBudget:
    """What this replica knows of its address. All calls to the exchange pass `barrier` and `reserve`."""

    def __init__(self, settings: Exchange, clock: ExchangeClock) -> None:
        self._settings = settings
        self.clock = clock
        self._window = Window(0)
        self._fleet_window = Window(0)
        self._cooldowns: dict[str, Cooldown] = {}
        self._probe_deferred_until_ms = 0
        self.live_limit: int | None = None
        """The exchange's own weight limit per minute, from exchangeInfo; lowers ours, never raises it."""
        self.degraded = False
        """Whether the replicas can't share what they spend."""

    @property
    def ceiling(self) -> float:
        """The weight that everyone on the address together may spend per minute, as far as we decide it."""
        limit = min(self._settings.weight_limit, self.live_limit or self._settings.weight_limit)
        return limit * self._settings.weight_share

    @property
    def window(self) -> Window:
        """This replica's window of the current minute. Stores nothing: metrics read it from a thread of their own."""
        # The exchange counts a call that arrives a moment early in its old minute, so the lower bound decides.
        return budget.window_at(self._window, self.clock.earliest())

    @property
    def used(self) -> int:
        """The address's weight this minute, by all that is known."""
        own, fleet = self.window, self._fleet_window
        return max(own.used, fleet.used if fleet.minute == own.minute else 0)

    def barrier(self, charge: Charge, *, probing: bool = False) -> Barrier | None:
        """Why a call may not be sent now, or `None`; `probing`: it is the probe itself."""
        now = self.clock.now()
        forbidden = self.forbidden(charge.credential)
        if forbidden is not None:
            return forbidden
        if self._probe_deferred_until_ms > now and self.half_open and not probing:
            return budget.probe_barrier(self.cooldown(ADDRESS), now)
        # Without Redis a replica has an equal part. It knows of the others' calls only what its own last answer
        # reported, so each of them may be one account call past that.
        window, together, earliest = self.window, self.ceiling, self.clock.earliest()
        own_ceiling = Ceiling(together, together)
        if self.degraded:
            replicas = self._settings.expected_replicas
            margin = (replicas - 1) * budget.ACCOUNT_WEIGHT
            own_ceiling = Ceiling(max(1, together - margin), together / replicas)
        barrier = budget.weight_barrier(window, charge, own_ceiling, earliest)
        if barrier is None and self._fleet_window.minute == window.minute:
            barrier = budget.weight_barrier(self._fleet_window, charge, Ceiling(together, together), earliest)
        return barrier

    @property
    def half_open(self) -> bool:
        """Whether the address's cooldown has expired, but no probe has confirmed that the exchange agrees."""
        return self.cooldown(ADDRESS).awaits_probe(self.clock.earliest())

    @property
    def held(self) -> bool:
        """Whether nothing but that probe may be sent."""
        return self.half_open or self.cooldown(ADDRESS).binds(self.clock.earliest())

    def forbidden(self, credential: str) -> Barrier | None:
        """The cooldown that forbids a call whatever it weighs, or `None`."""
        now = self.clock.earliest()
        cooldowns = (self.cooldown(ADDRESS), self.cooldown(credential))
        binding = [cooldown for cooldown in cooldowns if cooldown.binds(now)]
        return budget.cooldown_barrier(max(binding, key=lambda cooldown: cooldown.until)) if binding else None

    def reserve(self, charge: Charge) -> None:
        """Count a call before it is sent; `settle` or `abandon` follows."""
        self._window = budget.reserve(self.window, charge)
        self._fleet_window = budget.reserve(self._fleet_window, charge)

    def settle(self, weight: int, reported: int | None, minute: int) -> None:
        """A call sent in `minute` was answered; `reported` is the exchange's count for the address then, if any."""
        window = self.window
        # A report of the minute that has just ended says nothing about the new one.
        current = reported if window.minute == minute else None
        self._window = budget.settle(window, weight, current)
        self._fleet_window = budget.settle(self._fleet_window, weight, current)

    def abandon(self, weight: int) -> None:
        """No answer came."""
        self._window = budget.abandon(self.window, weight)

    def learn_window(self, fleet: Window) -> None:
        """Adopt what the replicas together have spent."""
        self._fleet_window = fleet

    def cooldown(self, scope: str) -> Cooldown:
        """The cooldown of a scope; it may have expired."""
        return self._cooldowns.get(scope, NO_COOLDOWN)

    def learn(self, scope: str, cooldown: Cooldown) -> None:
        """Adopt a cooldown and a resume as far as they override what is known."""
        longest = self.clock.now() + budget.MAX_COOLDOWN
        capped = replace(cooldown, until=min(cooldown.until, longest))
        self._cooldowns[scope] = budget.merged(self.cooldown(scope), capped)

    def impose(self, scope: str, cooldown: Cooldown) -> None:
        """Remember a refusal of just now: it is later than any known resume, even if our clock is behind."""
        self.learn(scope, replace(cooldown, imposed=max(self.clock.latest(), self.cooldown(scope).resumed)))

    def defer_probe(self) -> None:
        """Another caller or replica sends the probe: nothing else is sent for `PROBE_PAUSE`."""
        self._probe_deferred_until_ms = self.clock.now() + budget.PROBE_PAUSE
