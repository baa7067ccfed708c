from service.kubernetes.review_cache import ReviewCache
from service.kubernetes.token_review import Refusal, ServiceAccount

RISK, NO = ServiceAccount("desk/risk"), Refusal("not-authenticated")


def test_a_verdict_holds_until_its_time_is_up() -> None:
    cache = ReviewCache()
    cache.put("a", RISK, 100)
    cache.put("b", NO, 50)
    assert [cache.get(key, 49) for key in "abc"] == [RISK, NO, None]
    assert [cache.get(key, 50) for key in "abc"] == [RISK, None, None]
    assert [cache.get(key, 100) for key in "abc"] == [None, None, None]


def test_a_new_verdict_takes_the_place_of_the_old_one() -> None:
    cache = ReviewCache()
    cache.put("a", RISK, 100)
    cache.put("a", NO, 50)
    assert cache.get("a", 0) == NO
    assert not cache.was_accepted("a")
    assert cache.get("a", 60) is None
    cache.put("a", RISK, 100)
    assert cache.get("a", 60) == RISK
    assert len(cache) == 1


def test_that_a_token_was_good_is_known_when_the_verdict_holds_no_longer() -> None:
    cache = ReviewCache()
    cache.put("a", RISK, 100)
    cache.put("b", NO, 100)
    assert cache.get("a", 1_000) is None
    assert [cache.was_accepted(key) for key in "abc"] == [True, False, False]


def test_who_has_not_called_for_longest_is_forgotten_first() -> None:
    cache = ReviewCache(max_entries=2)
    cache.put("a", RISK, 100)
    cache.put("b", RISK, 100)
    assert cache.get("a", 0) == RISK
    cache.put("c", RISK, 100)
    assert [cache.get(key, 0) for key in "abc"] == [RISK, None, RISK]


def test_any_number_of_refused_tokens_pushes_out_no_accepted_one() -> None:
    cache = ReviewCache(max_entries=10)
    cache.put("good", RISK, 100)
    for number in range(1_000):
        cache.put(f"bad {number}", NO, 100)
    assert cache.get("good", 0) == RISK
    assert len(cache) == 11
