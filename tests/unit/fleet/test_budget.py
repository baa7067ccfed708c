import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from service.fleet import budget
from service.fleet.budget import (
    MAX_COOLDOWN,
    MINUTE,
    NO_COOLDOWN,
    Ceiling,
    Charge,
    Cooldown,
    Failures,
    Window,
    cooldown_after,
    cooldown_barrier,
    failures_after,
    is_credential,
    merged,
    probe_barrier,
    weight_barrier,
    window_at,
)
from service.fleet.errors import (
    ERRORS,
    ExchangeBannedError,
    ExchangeBlockedError,
    ExchangeClockSkewError,
    ExchangeError,
    ExchangeRateLimitedError,
    ExchangeRejectedCredentialsError,
    ExchangeTimeoutError,
    ExchangeUnavailableError,
)

NOW = 29_000_000 * MINUTE + 20_000
DAY = 24 * 60 * MINUTE
CEILING = Ceiling(100, 40)

STEPS = st.lists(
    st.tuples(st.sampled_from(["call", "call", "forced", "answer", "lost", "pass"]), st.integers(0, 90)), max_size=80
)


class Ledger:
    """The rules as they are used, beside a plain count of what was truly sent in each minute."""

    def __init__(self) -> None:
        self.now = NOW
        self.window = Window(0)
        self.flying: list[int] = []
        self.sent: dict[int, int] = {}
        self.forced: dict[int, int] = {}

    def step(self, kind: str, size: int) -> None:
        self.window = window_at(self.window, self.now)
        weight, minute = size % 10 + 1, self.now // MINUTE
        claim = Charge(weight, forced=kind == "forced")
        if kind in ("call", "forced") and weight_barrier(self.window, claim, CEILING, self.now) is None:
            self.window = budget.reserve(self.window, claim)
            self.flying.append(weight)
            self.sent[minute] = self.sent.get(minute, 0) + weight
            self.forced[minute] = self.forced.get(minute, 0) + weight * (kind == "forced")
        elif kind == "answer" and self.flying:
            self.window = budget.settle(self.window, self.flying.pop(), size - 1 if size else None)
        elif kind == "lost" and self.flying:
            self.window = budget.abandon(self.window, self.flying.pop(0))
        elif kind == "pass":
            self.now += size * 1_000


@given(STEPS)
def test_no_minute_ever_sees_more_than_the_ceiling(steps: list[tuple[str, int]]) -> None:
    ledger = Ledger()
    for kind, size in steps:
        ledger.step(kind, size)
        assert ledger.window.pending == sum(ledger.flying)
    assert max(ledger.sent.values(), default=0) <= CEILING.own
    assert max(ledger.forced.values(), default=0) <= CEILING.own / 4


def overspent(window: Window, weight: int, ceiling: Ceiling, *, forced: bool = False) -> bool:
    return weight_barrier(window, Charge(weight, forced=forced), ceiling, window.minute * MINUTE) is not None


@given(st.integers(0, 200), st.integers(0, 200), st.integers(1, 50))
def test_no_call_passes_the_ceiling_on_top_of_what_is_counted(reported: int, own: int, weight: int) -> None:
    window = Window(1, reported=reported, spent=own)
    assert overspent(window, weight, Ceiling(100, 100)) == (max(reported, own) + weight > 100)


def test_the_last_unit_of_the_ceiling_may_be_spent() -> None:
    assert not overspent(Window(1, reported=95), 5, Ceiling(100, 100))
    assert overspent(Window(1, reported=96), 5, Ceiling(100, 100))
    assert not overspent(Window(1, spent=35), 5, Ceiling(100, 40))
    assert overspent(Window(1, spent=36), 5, Ceiling(100, 40))


def test_calls_in_flight_and_calls_without_an_answer_count_on_top() -> None:
    window = Window(1, reported=50, spent=20, pending=10, unanswered=5)
    assert (window.used, window.own) == (65, 35)


def test_what_the_exchange_reports_never_lowers_the_count_within_a_minute() -> None:
    window = budget.settle(budget.reserve(Window(1, reported=50), Charge(5)), 5, 7)
    assert window == Window(1, reported=50, spent=5)
    assert budget.settle(budget.reserve(window, Charge(5)), 5, None).reported == 50


def test_a_new_minute_starts_at_zero_but_for_what_is_under_way() -> None:
    window = Window(7, reported=80, spent=70, pending=5, unanswered=9, forced=20, accounts={"a": 70})
    assert window_at(window, 8 * MINUTE - 1) is window
    assert window_at(window, 8 * MINUTE) == Window(8, pending=5, before=frozenset("a"))
    assert window_at(window, 9 * MINUTE) == Window(9, pending=5)


def test_a_clock_set_back_does_not_open_a_spent_minute_again() -> None:
    assert window_at(Window(7, spent=80), 6 * MINUTE) == Window(6, spent=80)


def may_force(window: Window, second: float, client: str = "a", account: str = "main", weight: int = 5) -> bool:
    """Whether a client may have a refresh on demand at that second of the minute."""
    now = 7 * MINUTE + int(second * 1_000)
    return weight_barrier(window, Charge(weight, account, forced=True, client=client), WIDE, now) is None


def forced(by: dict[tuple[str, str], int], before: frozenset[tuple[str, str]] = frozenset()) -> Window:
    return Window(7, forced=sum(by.values()), forced_by=by, forced_before=before)


WIDE = Ceiling(1_920, 1_920)
"""A quarter of it is 480, of which 60 are kept for who has had none."""


def test_a_client_alone_has_half_of_the_forced_share_at_any_pace_and_the_rest_by_the_minute() -> None:
    assert may_force(forced({("a", "main"): 205}), 0)
    assert not may_force(forced({("a", "main"): 206}), 0)
    assert may_force(forced({("a", "main"): 310}), 45)
    assert not may_force(forced({("a", "main"): 311}), 45)
    assert not may_force(forced({("a", "main"): 416}), 59.9)


def test_who_has_forced_none_this_minute_finds_room_whatever_others_have_had() -> None:
    greedy = {("a", "main"): 210, ("a", "other"): 210}
    assert may_force(forced(greedy), 59, "b")
    assert may_force(forced(greedy | {("b", "main"): 55}), 59, "c")
    assert not may_force(forced(greedy | {("b", "main"): 56}), 59, "c")
    assert may_force(forced(greedy | {("b", "main"): 25}), 59, "a", "third")
    assert not may_force(forced(greedy | {("b", "main"): 26}), 59, "a", "third")


def test_beyond_the_pace_each_client_has_an_equal_slice_and_in_it_each_of_its_accounts() -> None:
    by = {("a", "main"): 200, ("b", "main"): 100, ("b", "other"): 45}
    assert not may_force(forced(by), 30, "a")
    assert not may_force(forced(by), 30, "b")  # 210 by now, for two clients; b's for two accounts
    assert may_force(forced(by), 30, "b", "other")
    assert not may_force(forced(by, before=frozenset({("c", "main")})), 30, "b", "other")


def test_one_clients_demands_on_two_accounts_leave_room_for_anothers_at_every_second() -> None:
    window, had = Window(7), 0
    for second in range(60):
        for account in ("main", "other"):
            claim = Charge(5, account, forced=True, client="a")
            if weight_barrier(window, claim, WIDE, 7 * MINUTE + second * 1_000) is None:
                window, had = budget.reserve(window, claim), had + 5
        assert may_force(window, second, "b"), second
    assert had > 400


@given(
    st.lists(
        st.tuples(st.integers(0, 5_000), st.sampled_from("abcdef"), st.sampled_from(["x", "y"]), st.integers(1, 9)),
        max_size=300,
    )
)
def test_whatever_clients_demand_the_share_holds_and_the_first_of_each_is_refused_by_nothing_else(
    demands: list[tuple[int, str, str, int]],
) -> None:
    window, now = Window(7), 7 * MINUTE
    ceiling = Ceiling(400, 400)
    for pause, client, account, weight in demands:
        now += pause
        window = window_at(window, now)
        had = sum(each for (who, _), each in window.forced_by.items() if who == client)
        barrier = weight_barrier(window, Charge(weight, account, forced=True, client=client), ceiling, now)
        if barrier is None:
            window = budget.reserve(window, Charge(weight, account, forced=True, client=client))
            window = budget.settle(window, weight, None)
        else:
            assert now < (barrier.failure.retry_at or 0) <= (window.minute + 1) * MINUTE
            assert had or window.forced + weight > 100 or "on demand" not in str(barrier.failure)
        assert window.forced <= 100


def test_a_forced_refresh_too_many_leaves_the_others_alone() -> None:
    window = budget.reserve(Window(1), Charge(20, forced=True))
    assert overspent(window, 6, Ceiling(100, 100), forced=True)
    assert not overspent(window, 6, Ceiling(100, 100))


@pytest.mark.parametrize(
    ("window", "claim", "words"),
    [
        (Window(7, reported=99), Charge(5), "our share of the address's request weight"),
        (Window(7, spent=38), Charge(5), "this replica's part"),
        (Window(7, forced=8), Charge(5, forced=True), "for refreshes on demand"),
    ],
)
def test_a_spent_minute_bars_until_the_next_and_says_what_of_it_is_spent(
    window: Window, claim: Charge, words: str
) -> None:
    barrier = weight_barrier(window, claim, CEILING, 7 * MINUTE)
    assert barrier is not None
    assert (barrier.reason, barrier.failure.problem) == ("weight-budget", "weight-budget-spent")
    assert barrier.failure.retry_at == 8 * MINUTE
    assert words in barrier.failure.detail


# Between accounts: a ceiling of 1000 a minute.

ROOMY = Ceiling(1_000, 1_000)


def waits(at: float, *, had: dict[str, int], before: frozenset[str] = frozenset(), account: str = "a") -> int | None:
    """Ms that an account has to wait at this part of a minute; `None`: it may go."""
    window = Window(7, spent=sum(had.values()), accounts=had, before=before)
    now = 7 * MINUTE + int(at * MINUTE)
    barrier = weight_barrier(window, Charge(5, account), ROOMY, now)
    return None if barrier is None else (barrier.failure.retry_at or 0) - now


def test_half_of_the_minutes_weight_may_be_spent_at_any_pace() -> None:
    assert waits(0, had={"a": 490, "b": 5}) is None
    assert waits(0, had={"a": 496, "b": 5}) == 30_361  # until the minute has caught up with 50.6 %


def test_an_account_that_has_had_less_than_its_equal_slice_does_not_wait() -> None:
    assert waits(0.2, had={"a": 245, "b": 500}) is None
    assert waits(0.2, had={"a": 246, "b": 500}) is not None
    assert waits(0.8, had={"a": 395, "b": 500}) is None
    assert waits(0.8, had={"a": 396, "b": 500}) is not None


def test_an_account_alone_may_have_it_all() -> None:
    assert waits(0, had={"a": 995}) is None
    assert waits(0, had={"a": 600}, before=frozenset("b")) is not None


def test_nobody_waits_while_the_minute_goes_faster_than_the_weight() -> None:
    assert waits(0.9, had={"a": 800, "b": 50}) is None


def test_what_serves_all_accounts_waits_for_none() -> None:
    assert waits(0, had={"a": 500, "b": 400}, account="") is None


@given(
    greed=st.integers(1, 40),
    modesty=st.integers(1, 8),
    first=st.sampled_from(["greedy", "modest"]),
)
def test_no_account_starves_for_another(greed: int, modesty: int, first: str) -> None:
    """Two accounts over two minutes, by the second: the modest one asks for less than its slice, and always gets it."""
    wants = {"greedy": greed, "modest": modesty}
    window, refused = Window(0), {"greedy": 0, "modest": 0}
    for second in range(120):
        now = 7 * MINUTE + second * 1_000
        for name in sorted(wants, key=lambda each: each != first):
            for _ in range(wants[name]):
                window = window_at(window, now)
                claim = Charge(1, name)
                if weight_barrier(window, claim, ROOMY, now) is None:
                    window = budget.settle(budget.reserve(window, claim), 1, None)
                elif second >= 60:
                    refused[name] += 1
    assert refused["modest"] == 0
    assert window.used <= ROOMY.address
    assert refused["greedy"] == 0 or greed * 60 > 1_000 - modesty * 60


@pytest.mark.parametrize(
    ("error", "pause"),
    [
        (ExchangeRateLimitedError("x"), 40_500),  # to the minute's end and a little
        (ExchangeRateLimitedError("x", retry_at=NOW + 1), 40_500),  # never sooner
        (ExchangeRateLimitedError("x", retry_at=NOW + 90_000), 90_000),
        (ExchangeBannedError("x", retry_at=NOW + 7_000), 7_000),
        (ExchangeBannedError("x"), 10 * MINUTE),
        (ExchangeBannedError("x", retry_at=NOW), 10 * MINUTE),  # a date that has passed is none
        (ExchangeBannedError("x", retry_at=NOW + 1), 1),
        (ExchangeBannedError("x", retry_at=NOW + 3 * DAY), 3 * DAY),
        (ExchangeBannedError("x", retry_at=NOW + 3 * DAY + 1), 3 * DAY),  # a misread time
        (ExchangeBannedError("x", retry_at=9_999_999_999_999), 3 * DAY),
        (ExchangeBlockedError("x", answered=403), 5 * MINUTE),
        (ExchangeBlockedError("x", answered=403, retry_at=NOW + 9 * MINUTE), 9 * MINUTE),
        (ExchangeRejectedCredentialsError("x"), 10 * MINUTE),
    ],
)
def test_a_refusal_imposes_a_not_before(error: ExchangeError, pause: int) -> None:
    assert cooldown_after(error, NOW) == Cooldown(0, NOW + pause, problem=error.problem)


@pytest.mark.parametrize(
    "error",
    [
        ExchangeUnavailableError("x"),
        ExchangeTimeoutError("x"),
        ExchangeClockSkewError("x"),
        ExchangeBlockedError("x", answered=451),
    ],
)
def test_a_failure_that_back_off_handles_imposes_none(error: ExchangeError) -> None:
    assert cooldown_after(error, NOW) is None


def test_a_rejected_credential_alone_is_not_about_the_address() -> None:
    problems = [problem for problem in ERRORS if is_credential(Cooldown(0, 1, problem=problem))]
    assert problems == ["exchange-rejected-credentials"]


@pytest.mark.parametrize(
    ("cooldowns", "both"),
    [
        ((NO_COOLDOWN, Cooldown(0, 5, problem="x")), Cooldown(0, 5, problem="x")),
        ((Cooldown(0, 5, problem="x"), Cooldown(0, 6, problem="a")), Cooldown(0, 6, problem="a")),
        ((Cooldown(7), Cooldown(0, 9, problem="x", imposed=6)), Cooldown(7)),  # imposed before the resume
        ((Cooldown(7), Cooldown(0, 9, problem="x", imposed=7)), Cooldown(7, 9, problem="x", imposed=7)),  # and after it
        ((Cooldown(7, 8, problem="x", imposed=7), Cooldown(0, 9, imposed=6)), Cooldown(7, 8, problem="x", imposed=7)),
        ((Cooldown(7, 8, problem="x", imposed=7), Cooldown(8)), Cooldown(8)),
        ((Cooldown(0, 9, problem="x", imposed=1), Cooldown(0, 8, imposed=2)), Cooldown(0, 9, problem="x", imposed=2)),
    ],
)
def test_of_the_not_befores_that_no_resume_has_voided_the_latest_time_wins(
    cooldowns: tuple[Cooldown, Cooldown], both: Cooldown
) -> None:
    one, other = cooldowns
    assert (merged(one, other), merged(other, one), merged(both, one)) == (both, both, both)


def test_a_probe_voids_its_cooldown_and_a_later_one_overrides_that() -> None:
    ban, later = Cooldown(0, 5, problem="x"), Cooldown(0, 6, problem="x")
    cleared = replace(ban, cleared=True)
    assert (merged(ban, cleared), merged(cleared, ban), merged(cleared, later)) == (cleared, cleared, later)
    assert not cleared.binds(0)
    assert not cleared.awaits_probe(9)


@pytest.mark.parametrize("problem", ["exchange-banned", "exchange-blocked", "of-a-later-release"])
def test_a_remembered_refusal_is_its_error_again(problem: str) -> None:
    barrier = cooldown_barrier(Cooldown(0, NOW, problem=problem))
    assert (barrier.reason, barrier.failure.retry_at) == ("not-before", NOW)
    assert barrier.failure.problem == (problem if problem in ERRORS else "exchange-banned")


def test_a_cooldown_opens_for_a_probe_when_its_time_has_passed_and_an_epoch_without_one_does_not() -> None:
    assert not Cooldown(0, NOW + 1, problem="x").awaits_probe(NOW)
    assert Cooldown(0, NOW, problem="x").awaits_probe(NOW)
    assert not Cooldown(3).awaits_probe(NOW)
    barrier = probe_barrier(Cooldown(0, NOW - 5, problem="exchange-blocked"), NOW)
    assert (barrier.reason, barrier.failure.problem) == ("not-before", "exchange-blocked")
    assert barrier.failure.retry_at == NOW + 1_000


def test_back_off_doubles_from_one_second_to_thirty() -> None:
    failures: Failures | None = None
    pauses: list[int] = []
    for _ in range(2_000):
        failures = failures_after(failures, ExchangeTimeoutError("x").failure, NOW)
        pauses.append(failures.until - NOW)
    assert pauses[:7] == [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]
    assert set(pauses[7:]) == {30_000}


def test_the_longest_cooldown_is_the_exchanges_longest_ban() -> None:
    assert MAX_COOLDOWN == 3 * DAY
