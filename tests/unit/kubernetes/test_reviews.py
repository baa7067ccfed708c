"""Who waits for whom: one review a token, turns, and what is remembered."""

import asyncio
from collections import Counter

import jwt
import msgspec
import pytest
from prometheus_client import generate_latest

from service.kubernetes.errors import NotVerifiedError
from service.kubernetes.reviews import AT_ONCE, TIMEOUT_PAUSE_MS, UNKNOWN_TOKEN_RATE, TokenReviews
from service.kubernetes.token_review import ACCEPTED_FOR, REFUSED_FOR, Refusal, ServiceAccount
from service.telemetry.metrics import Metrics
from tests.support import START, FakeClock

OURS = "coinm-gateway"
RISK = ServiceAccount("desk/risk")


def token(name: str = "risk", ends_in: int = 3_600) -> bytes:
    claims = {"iss": "cluster", "aud": [OURS], "exp": START // 1000 + ends_in, "sub": name}
    return jwt.encode(claims, "0123456789abcdef0123456789abcdef").encode()


class FakeReviewer:
    """Accepts every token but those of "mallory"; holds an answer back while its subject is in `held`."""

    def __init__(self) -> None:
        self.asked = Counter[str]()
        self.held: set[str] = set()
        self.trouble: str | None = None
        self.closed = False
        self._change = asyncio.Condition()

    async def review(self, token: str, audience: str) -> bytes:
        assert audience == OURS
        name = jwt.decode(token, options={"verify_signature": False})["sub"]
        async with self._change:
            self.asked[name] += 1
            self._change.notify_all()
            await self._change.wait_for(lambda: name not in self.held)
        if self.trouble is not None:
            raise NotVerifiedError(self.trouble)
        good = not name.startswith("mallory")
        user = {"username": f"system:serviceaccount:desk:{name}"}
        status = {"authenticated": good, "user": user, "audiences": [OURS]}
        return msgspec.json.encode({"kind": "TokenReview", "status": status})

    async def selftest(self, audience: str) -> bytes:
        return await self.review(token("gateway").decode(), audience)

    async def close(self) -> None:
        self.closed = True

    async def wait_for(self, reviews: int) -> None:
        async with self._change:
            await self._change.wait_for(lambda: self.asked.total() >= reviews)

    async def release(self) -> None:
        async with self._change:
            self.held.clear()
            self._change.notify_all()


class Scene:
    def __init__(self) -> None:
        self.clock, self.metrics, self.reviewer = FakeClock(), Metrics(), FakeReviewer()
        self.reviews = TokenReviews(OURS, self.reviewer, self.clock, self.metrics)

    def outcomes(self) -> dict[str, int]:
        lines = generate_latest(self.metrics.registry).decode().splitlines()
        counted = (line.split('"') for line in lines if line.startswith("coinm_token_reviews_total{"))
        return {outcome: int(float(count.removeprefix("} "))) for _, outcome, count in counted}


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_a_hundred_callers_with_one_token_cost_one_review(scene: Scene) -> None:
    verdicts = await asyncio.gather(*(scene.reviews.verify(token()) for _ in range(100)))
    assert verdicts == [RISK] * 100
    assert await scene.reviews.verify(token()) == RISK
    assert scene.reviewer.asked == {"risk": 1}
    assert scene.outcomes() == {"accepted": 1, "remembered": 1}


async def test_the_caller_who_hangs_up_takes_nobody_with_it(scene: Scene) -> None:
    scene.reviewer.held = {"risk"}
    leader = asyncio.create_task(scene.reviews.verify(token()))
    await scene.reviewer.wait_for(1)
    follower = asyncio.create_task(scene.reviews.verify(token()))
    leader.cancel()
    await asyncio.wait([leader])
    await scene.reviewer.release()
    assert await follower == RISK
    assert leader.cancelled()
    assert scene.reviewer.asked == {"risk": 1}


async def test_what_was_asked_for_is_kept_when_every_caller_has_left(scene: Scene) -> None:
    scene.reviewer.held = {"risk"}
    caller = asyncio.create_task(scene.reviews.verify(token()))
    await scene.reviewer.wait_for(1)
    caller.cancel()
    await asyncio.wait([caller])
    await scene.reviewer.release()
    assert await scene.reviews.verify(token()) == RISK
    assert scene.reviewer.asked == {"risk": 1}


@pytest.mark.parametrize(("name", "held_for"), [("risk", ACCEPTED_FOR), ("mallory", REFUSED_FOR)])
async def test_a_verdict_is_asked_for_anew_when_its_time_is_up(scene: Scene, name: str, held_for: int) -> None:
    for step, asked in ((0, 1), (held_for - 1, 1), (1, 2)):
        scene.clock.advance(step)
        await scene.reviews.verify(token(name))
        assert scene.reviewer.asked[name] == asked


async def test_a_verdict_holds_from_when_it_was_asked_for(scene: Scene) -> None:
    scene.reviewer.held = {"risk"}
    first = asyncio.create_task(scene.reviews.verify(token()))
    await scene.reviewer.wait_for(1)
    scene.clock.advance(ACCEPTED_FOR)
    await scene.reviewer.release()
    assert await first == RISK
    await scene.reviews.verify(token())
    assert scene.reviewer.asked == {"risk": 2}


async def test_a_clock_set_back_makes_no_verdict_last_longer(scene: Scene) -> None:
    await scene.reviews.verify(token())
    scene.clock.misset(-3_600_000)
    scene.clock.advance(ACCEPTED_FOR)
    await scene.reviews.verify(token())
    assert scene.reviewer.asked == {"risk": 2}


async def test_a_failure_is_every_waiters_and_is_not_remembered(scene: Scene) -> None:
    scene.reviewer.trouble = "unreachable"
    failed = await asyncio.gather(*(scene.reviews.verify(token()) for _ in range(5)), return_exceptions=True)
    assert {type(each) for each in failed} == {NotVerifiedError}
    assert scene.reviewer.asked == {"risk": 1}
    scene.reviewer.trouble = None
    assert await scene.reviews.verify(token()) == RISK
    assert scene.outcomes() == {"unreachable": 1, "accepted": 1}


async def test_garbage_costs_no_review(scene: Scene) -> None:
    for garbage in (b"", b"cgw_x", b"a.b.c", token(ends_in=-3_600), b"x" * 100_000):
        assert isinstance(await scene.reviews.verify(garbage), Refusal)
    assert scene.reviewer.asked == {}
    assert scene.outcomes() == {"implausible": 5}


async def test_who_invents_tokens_holds_up_strangers_and_nobody_who_was_accepted(scene: Scene) -> None:
    await scene.reviews.verify(token())
    scene.clock.advance(ACCEPTED_FOR)
    scene.reviewer.held = {f"mallory{number}" for number in range(AT_ONCE)}
    flood = [asyncio.create_task(scene.reviews.verify(token(name))) for name in sorted(scene.reviewer.held)]
    await scene.reviewer.wait_for(1 + AT_ONCE)
    assert await scene.reviews.verify(token()) == RISK
    with pytest.raises(NotVerifiedError) as raised:
        await scene.reviews.verify(token("newcomer"))
    assert raised.value.kind == "busy"
    assert scene.reviewer.asked["newcomer"] == 0
    await scene.reviewer.release()
    assert await asyncio.gather(*flood) == [Refusal("not-authenticated")] * AT_ONCE
    assert await scene.reviews.verify(token("newcomer")) == ServiceAccount("desk/newcomer")


async def test_a_reviewer_that_does_not_answer_is_given_up(scene: Scene) -> None:
    scene.reviewer.held = {"risk"}
    with pytest.raises(NotVerifiedError) as raised:
        await scene.reviews.verify(token())
    assert raised.value.kind == "timeout"
    assert scene.outcomes() == {"timeout": 1}


async def test_after_that_nobody_waits_for_a_second_to_be_told_the_same(scene: Scene) -> None:
    await scene.reviews.verify(token("known"))
    scene.reviewer.held = {"risk"}
    with pytest.raises(NotVerifiedError):
        await scene.reviews.verify(token())
    for name in ("risk", "other"):
        with pytest.raises(NotVerifiedError) as raised:
            await scene.reviews.verify(token(name))
        assert raised.value.kind == "timeout"
    assert await scene.reviews.verify(token("known")) == ServiceAccount("desk/known")
    assert scene.reviewer.asked == {"known": 1, "risk": 1}
    scene.clock.advance(TIMEOUT_PAUSE_MS)
    assert await scene.reviews.verify(token("other")) == ServiceAccount("desk/other")
    assert scene.outcomes() == {"timeout": 3, "accepted": 2, "remembered": 1}


async def test_an_invented_token_that_times_out_holds_up_nobody_who_was_accepted(scene: Scene) -> None:
    await scene.reviews.verify(token())
    scene.clock.advance(ACCEPTED_FOR)
    scene.reviewer.held = {"mallory"}
    with pytest.raises(NotVerifiedError):
        await scene.reviews.verify(token("mallory"))
    assert await scene.reviews.verify(token()) == RISK


async def test_tokens_that_nobody_knows_are_reviewed_at_a_pace(scene: Scene) -> None:
    burst = int(UNKNOWN_TOKEN_RATE.burst)
    for number in range(burst):
        await scene.reviews.verify(token(f"mallory{number}"))
    with pytest.raises(NotVerifiedError) as raised:
        await scene.reviews.verify(token("one-more"))
    assert raised.value.kind == "busy"
    assert scene.reviewer.asked.total() == burst
    scene.clock.advance(20)
    assert await scene.reviews.verify(token("one-more")) == ServiceAccount("desk/one-more")


async def test_closing_ends_what_is_under_way(scene: Scene) -> None:
    scene.reviewer.held = {"risk"}
    caller = asyncio.create_task(scene.reviews.verify(token()))
    await scene.reviewer.wait_for(1)
    await scene.reviews.close()
    await asyncio.wait([caller])
    assert caller.cancelled()
    assert scene.reviewer.closed
