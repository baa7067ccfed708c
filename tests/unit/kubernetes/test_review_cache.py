from service.kubernetes.review_cache import ReviewCache
from service.kubernetes.token_review import Refusal, ServiceAccount

RISK, NO = ServiceAccount("desk/risk"), Refusal("not-authenticated")


def test_a_verdict_holds_until_its_time_is_up() -> None:
    memory = ReviewCache()
    memory.keep("a", RISK, 100)
    memory.keep("b", NO, 50)
    assert [memory.recall(key, 49) for key in "abc"] == [RISK, NO, None]
    assert [memory.recall(key, 50) for key in "abc"] == [RISK, None, None]
    assert [memory.recall(key, 100) for key in "abc"] == [None, None, None]


def test_a_new_verdict_takes_the_place_of_the_old_one() -> None:
    memory = ReviewCache()
    memory.keep("a", RISK, 100)
    memory.keep("a", NO, 50)
    assert memory.recall("a", 0) == NO
    assert not memory.was_accepted("a")
    assert memory.recall("a", 60) is None
    memory.keep("a", RISK, 100)
    assert memory.recall("a", 60) == RISK
    assert len(memory) == 1


def test_that_a_token_was_good_is_known_when_the_verdict_holds_no_longer() -> None:
    memory = ReviewCache()
    memory.keep("a", RISK, 100)
    memory.keep("b", NO, 100)
    assert memory.recall("a", 1_000) is None
    assert [memory.was_accepted(key) for key in "abc"] == [True, False, False]


def test_who_has_not_called_for_longest_is_forgotten_first() -> None:
    memory = ReviewCache(room=2)
    memory.keep("a", RISK, 100)
    memory.keep("b", RISK, 100)
    assert memory.recall("a", 0) == RISK
    memory.keep("c", RISK, 100)
    assert [memory.recall(key, 0) for key in "abc"] == [RISK, None, RISK]


def test_any_number_of_refused_tokens_pushes_out_no_accepted_one() -> None:
    memory = ReviewCache(room=10)
    memory.keep("good", RISK, 100)
    for number in range(1_000):
        memory.keep(f"bad {number}", NO, 100)
    assert memory.recall("good", 0) == RISK
    assert len(memory) == 11
