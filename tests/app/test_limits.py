"""What a client is told of its own limit of requests, in the fields of the IETF's draft."""

import httpx

from tests.app.conftest import MakeStage
from tests.app.harness import ASSETS, BTC, Replica, Stage

LIMITED = {"requests_per_second": 12}


async def limited(make_stage: MakeStage, replicas: int = 1, **client: object) -> Replica:
    stage = make_stage(exchange={"expected_replicas": replicas}, clients={"risk": client or LIMITED})
    return await stage.start()


def fields(answer: httpx.Response) -> tuple[str | None, str | None]:
    return answer.headers.get("ratelimit-policy"), answer.headers.get("ratelimit")


async def test_every_answer_to_a_client_with_a_limit_says_what_is_left_of_it(make_stage: MakeStage) -> None:
    gateway = await limited(make_stage)
    tag = (await gateway.get()).headers["etag"]
    answers = [
        await gateway.get(if_none_match=tag),
        await gateway.ask("HEAD", BTC),
        await gateway.get("/v1/accounts"),
        await gateway.get("/v1/status"),
        await gateway.get(f"{ASSETS}?x=1"),
        await gateway.get("/v1/accounts/nope"),
        await gateway.get(f"{ASSETS}/NONESUCH"),
        await gateway.get(cache_control="min-fresh=9"),
    ]
    assert [answer.status_code for answer in answers] == [304, 200, 200, 200, 400, 403, 404, 504]
    assert [fields(answer) for answer in answers] == [
        ('"requests";q=12;w=1', f'"requests";r={left};t=1') for left in range(10, 2, -1)
    ]


async def test_a_refused_client_is_told_the_same_second_twice(make_stage: MakeStage) -> None:
    gateway = await limited(make_stage, replicas=3, requests_per_second=0.6)
    admitted, refused = await gateway.get(), await gateway.get()
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "5")
    assert [fields(answer) for answer in (admitted, refused)] == [('"requests";q=1;w=5', '"requests";r=0;t=5')] * 2


async def test_what_is_left_grows_with_time(make_stage: MakeStage) -> None:
    stage = make_stage(exchange={"expected_replicas": 1}, clients={"risk": LIMITED})
    gateway = await stage.start()
    for _ in range(5):
        await gateway.get()
    await stage.advance(250)
    assert fields(await gateway.get())[1] == '"requests";r=9;t=1'


async def test_a_client_without_a_limit_is_told_of_none(make_stage: MakeStage) -> None:
    gateway = await limited(make_stage)
    assert fields(await gateway.get(client="treasury")) == (None, None)


async def test_who_is_not_known_is_told_of_no_limit(make_stage: MakeStage) -> None:
    gateway = await limited(make_stage)
    await gateway.get()
    for path, client in ((BTC, None), ("/nothing", "risk"), ("/healthz", "risk"), ("/docs", "risk")):
        assert fields(await gateway.get(path, client)) == (None, None), path


async def test_another_replicas_answers_tell_of_that_replica(make_stage: MakeStage) -> None:
    """The share is each replica's own: nothing is promised on behalf of another."""
    stage: Stage = make_stage(exchange={"expected_replicas": 2}, clients={"risk": LIMITED})
    first, second = await stage.start(), await stage.start()
    await first.get()
    assert [fields(await each.get())[1] for each in (first, second)] == ['"requests";r=4;t=1', '"requests";r=5;t=1']
