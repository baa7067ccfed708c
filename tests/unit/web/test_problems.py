import pytest

from service.cache.policy import FreshnessUnmetError
from service.fleet.errors import ERRORS
from service.web import problems
from service.web.problems import ProblemError, Reportable, retry_after

STATUSES = {
    "invalid-parameter": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "unknown-asset": 404,
    "unknown-symbol": 404,
    "no-such-position-side": 404,
    "not-found": 404,
    "method-not-allowed": 405,
    "too-many-requests": 429,
    "overloaded": 503,
    "internal-error": 500,
    "audit-unavailable": 503,
}


def test_the_edges_own_problems_are_those_of_the_contract() -> None:
    assert {each.problem: each.status for each in ProblemError.__subclasses__()} == STATUSES


@pytest.mark.parametrize("error", [*ERRORS.values(), FreshnessUnmetError, problems.InternalError])
def test_every_error_knows_what_a_caller_is_told(error: type[Exception]) -> None:
    assert isinstance(error("why"), Reportable)


@pytest.mark.parametrize(
    ("milliseconds", "seconds"), [(-5, "1"), (0, "1"), (1, "1"), (1_000, "1"), (1_001, "2"), (60_000, "60")]
)
def test_retry_after_is_rounded_up_and_never_zero(milliseconds: int, seconds: str) -> None:
    assert retry_after(milliseconds) == {"retry-after": seconds}
