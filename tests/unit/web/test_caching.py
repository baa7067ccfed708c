import pytest
from hypothesis import given
from hypothesis import strategies as st
from litestar.datastructures import Headers

from service.account.documents import ACCOUNT
from service.account.parsing import parse
from service.cache.policy import RefreshReason, RequestDirectives
from service.cache.ports import Result, Served
from service.web.caching import (
    UNBOUNDED,
    age_headers,
    cache_status,
    header_lines,
    matching_tag,
    request_directives,
    snapshot_headers,
)
from service.web.problems import InvalidParameterError

SNAPSHOT = parse(ACCOUNT, b'{"assets":[],"positions":[]}', 1_790_000_040_123, 0, {})


def served(
    result: Result, ttl: int = 0, refresh: RefreshReason | None = None, answered: int | None = None, age: int = 0
) -> Served:
    return Served(SNAPSHOT, age, ttl, result, refresh, answered)


@pytest.mark.parametrize(
    ("cache_control", "expected"),
    [
        ("max-age=5", RequestDirectives(max_age=5_000)),
        ("MAX-AGE=5", RequestDirectives(max_age=5_000)),
        ('max-age="5"', RequestDirectives(max_age=5_000)),
        ("max-age=0", RequestDirectives(no_cache=True)),
        ("max-age=000", RequestDirectives(no_cache=True)),
        ("no-cache", RequestDirectives(no_cache=True)),
        ("no-cache, max-age=5", RequestDirectives(max_age=5_000, no_cache=True)),
        ("min-fresh=2", RequestDirectives(min_fresh=2_000)),
        ("min-fresh=0", RequestDirectives(min_fresh=0)),
        ("max-stale", RequestDirectives(max_stale=UNBOUNDED)),
        ("max-stale=3", RequestDirectives(max_stale=3_000)),
        ("only-if-cached", RequestDirectives(only_if_cached=True)),
        (" only-if-cached ,, max-stale = 3 , ", RequestDirectives(max_stale=3_000, only_if_cached=True)),
        ("max-age=5, max-age=5", RequestDirectives(max_age=5_000)),
        ("max-age=2147483648", RequestDirectives(max_age=UNBOUNDED)),
        ("max-age=99999999999999999999999", RequestDirectives(max_age=UNBOUNDED)),
        ("max-age=" + "0" * 8_000 + "7", RequestDirectives(max_age=7_000)),
        ("max-age=" + "9" * 8_000, RequestDirectives(max_age=UNBOUNDED)),
        ("", RequestDirectives()),
        (",", RequestDirectives()),
        ("no-store", RequestDirectives()),
        ('no-transform, x-new=1, community="UCI, no-cache"', RequestDirectives()),  # unknown; the comma is quoted
        (r'x="a\", no-cache", max-age=5', RequestDirectives(max_age=5_000)),
        ("x-new=1, x-new=2", RequestDirectives()),  # unknown directives are ignored, however often they come
    ],
)  # fmt: skip
def test_directives_become_a_demand(cache_control: str, expected: RequestDirectives) -> None:
    assert request_directives([cache_control], []) == expected


MALFORMED_AGES = ["", "=", '=""', "=-1", "=1.5", "=5s", "=5;", "=5 no-cache", "=\u0665", '="5', "=1, max-age=2"]
MALFORMED = ["min-fresh", "min-fresh=x", "max-stale=x", "max-stale, max-stale=5", "no-cache=x", "only-if-cached=1"]
NO_DIRECTIVES = ["=5", '"no-cache"', "no-cache; max-age=5"]


@pytest.mark.parametrize("cache_control", [*(f"max-age{age}" for age in MALFORMED_AGES), *MALFORMED, *NO_DIRECTIVES])
def test_a_malformed_directive_is_refused_without_an_echo(cache_control: str) -> None:
    with pytest.raises(InvalidParameterError, match=r"^header Cache-Control: [a-z -]+$"):
        request_directives([cache_control], [])


def test_several_header_lines_are_one_list() -> None:
    assert request_directives(["max-age=5", "max-stale=1"], []) == RequestDirectives(max_age=5_000, max_stale=1_000)
    with pytest.raises(InvalidParameterError, match="max-age is given twice"):
        request_directives(["max-age=5", "max-age=6"], [])


@pytest.mark.parametrize(("name", "limit"), [("Cache-Control", 1024), ("Pragma", 1024), ("If-None-Match", 8192)])
def test_a_header_is_read_up_to_its_limit_all_lines_together(name: str, limit: int) -> None:
    def sent(*lines: str) -> list[str]:
        return header_lines(Headers([(name.lower().encode(), line.encode()) for line in lines]), name)

    half = "x" * (limit // 2)
    assert sent("x" * limit) == ["x" * limit]
    assert sent(half, half[1:]) == [half, half[1:]]
    assert sent() == []
    for lines in (["x" * (limit + 1)], [half, half], [""] * (limit + 2)):
        with pytest.raises(InvalidParameterError, match=rf"^header {name}: at most {limit} characters$"):
            sent(*lines)


def test_pragma_counts_where_no_cache_control_is_sent() -> None:
    assert request_directives([], ["no-cache"]) == RequestDirectives(no_cache=True)
    assert request_directives([], ["x, No-Cache"]) == RequestDirectives(no_cache=True)
    assert request_directives([], ["x-no-cache"]) == RequestDirectives()
    assert request_directives(["max-age=5"], ["no-cache"]) == RequestDirectives(max_age=5_000)
    assert request_directives([], []) == request_directives([], ["other"]) == RequestDirectives()


@given(st.text(st.sampled_from('max-ge=5,; "\\no\tch\x00é'), max_size=30))
def test_any_header_is_a_demand_or_a_refusal(cache_control: str) -> None:
    try:
        found = request_directives([cache_control], [])
    except InvalidParameterError:
        return
    assert found.max_age is None or 0 < found.max_age <= UNBOUNDED


@pytest.mark.parametrize(
    ("how", "status"),
    [
        (served("fresh", 1_000), "hit; ttl=1"),
        (served("fresh", 999), "hit; ttl=0"),
        (served("recent", -1), "hit; ttl=-1"),  # rounded down: whatever is stale shows
        (served("stored", refresh="absent"), "fwd=miss; stored"),
        (served("collapsed", refresh="absent"), "fwd=miss; collapsed"),
        (served("stored", refresh="revalidate"), "fwd=request; fwd-status=200; stored"),
        (served("stored", refresh="too-old"), "fwd=request; fwd-status=200; stored"),
        (served("stored", refresh="expired"), "fwd=stale; fwd-status=200; stored"),
        (served("collapsed", refresh="expired"), "fwd=stale; collapsed"),
        (served("swr", -1_001), "hit; ttl=-2; detail=swr"),
        (served("max-stale", -3_000), "hit; ttl=-3; detail=max-stale"),
        (served("not-before", -40_000), "hit; ttl=-40; detail=not-before"),
        (served("backoff", -9_000), "hit; ttl=-9; detail=backoff"),
        (served("weight-budget", -9_000), "hit; ttl=-9; detail=weight-budget"),
        (
            served("stale-if-error", -40_000, "expired", 503),
            "fwd=stale; fwd-status=503; ttl=-40; detail=stale-if-error",
        ),
        (served("stale-if-error", -40_000, "expired"), "fwd=stale; ttl=-40; detail=stale-if-error"),  # no answer came
    ],
)
def test_the_cache_status_says_how_a_read_was_met(how: Served, status: str) -> None:
    assert cache_status(how) == f"coinm-gateway; {status}"


@pytest.mark.parametrize(("age", "seconds"), [(0, "0"), (999, "0"), (1_000, "1"), (61_999, "61")])
def test_the_age_is_whole_seconds_rounded_down_beside_milliseconds(age: int, seconds: str) -> None:
    told = age_headers(served("fresh", age=age))
    assert (told["age"], told["gateway-snapshot-age"]) == (seconds, str(age))


def test_every_data_answer_has_these_headers_beside_its_tag() -> None:
    assert snapshot_headers(SNAPSHOT, "testing") | age_headers(served("fresh", 1_000)) == {
        "age": "0",
        "cache-control": "private, no-cache",
        "cache-status": "coinm-gateway; hit; ttl=1",
        "gateway-environment": "testing",
        "gateway-snapshot-age": "0",
        "gateway-snapshot-time": "2026-09-21T14:14:00.123Z",
        "vary": "Authorization",
    }


@pytest.mark.parametrize(
    ("if_none_match", "same"),
    [
        (['"abc"'], True),
        (['W/"abc"'], True),  # compared weakly
        (['"x", "abc"'], True),
        (['"x"', 'W/"y" , "abc"'], True),
        (["*"], True),
        ([" * "], True),
        ([], False),
        ([""], False),
        (['"abcd"'], False),
        (["abc"], False),
        (['"ABC"'], False),
        (['"*"'], False),
        (['"x"abc"'], False),
    ],
)
def test_if_none_match_finds_the_tag_in_its_list(if_none_match: list[str], *, same: bool) -> None:
    assert matching_tag(if_none_match, '"abc"') == ('"abc"' if same else None)
