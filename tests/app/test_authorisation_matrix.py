"""Who gets what, in every state of the cache: the whole matrix, no row beside a grant, and none in a refusal."""

import asyncio
import itertools
import re
from collections.abc import Awaitable, Callable
from typing import get_args

import httpx
import msgspec
import pytest
from litestar.routes import HTTPRoute

from service.access import tokens
from service.account import documents
from service.settings import Client, ClientGrant
from service.web import parameters
from simulator.exchange import DOCUMENTS, MAIN
from simulator.exchange import LEVERAGE_BRACKET_PATH as BRACKETS
from simulator.faults import ACCOUNT_PATH, Fault
from tests.app import oracle
from tests.app.conftest import MakeStage
from tests.app.harness import Replica, Stage, cache_status
from tests.app.matrix import (
    BINANCE,
    BOOKS,
    CELLS,
    EVERYTHING,
    IDENTITIES,
    LISTED,
    OPEN,
    OTHER,
    POD,
    ROUTES,
    STRANGER,
    TOKENS,
    V1,
    Cell,
    before_the_listing,
    simple,
)
from tests.app.oracle import Grants, Question, Unidentified, View
from tests.app.pods import KUBERNETES, Pods

OTHER_KEY, OTHER_SECRET = "otherApiKey".ljust(64, "0"), "otherSecretKey".ljust(64, "0")
ROW = re.compile(r"(?:row|alias)\(([^)]*)\)")

WHOLE = {oracle.ACCOUNT: ACCOUNT_PATH} | {
    route: oracle.DOCUMENTS[route] for route in (oracle.BALANCE, oracle.RISK, oracle.BRACKETS)
}
"""The route of each document, without filters, and the exchange's path."""
SEE_ALL_ASSETS = {"unrestricted", "sides", "own-narrows-any", "own-widens-any", "another-account"}
"""Of some account, and so the aliases in it."""

Asking = Callable[[Replica, Cell], Awaitable[httpx.Response]]


def _asking(method: str = "GET", **headers: str) -> Asking:
    async def ask(gateway: Replica, cell: Cell) -> httpx.Response:
        sent = [*cell.headers, *headers.items()]
        return await gateway.caller.request(method, str(cell.question), headers=sent)

    return ask


def _fault(cell: Cell, answer: httpx.Response) -> str | None:
    """In what an answer isn't what is due, in words."""
    due: object = (*cell.told, []) if cell.told else (200, msgspec.json.encode(cell.due.document))
    if answer.status_code == 200:
        found: object = (200, cell.route.told(answer.content))
    else:
        found = (answer.status_code, cell.route.dialect.refusal(answer), ROW.findall(answer.text))
    return None if found == due else f"{cell.identity}: {cell.question}\n    due   {due}\n    found {found}"


def _report(faults: list[str | None]) -> str:
    found = [fault for fault in faults if fault is not None]
    return "\n".join([*found[:10], f"{len(found)} of {len(faults)} cells are wrong"]) if found else ""


# The states.


@pytest.fixture
def stage(make_stage: MakeStage) -> Stage:
    # Thousands at once keep the loop busy; how long that takes, and how many may wait, is not what is tested.
    stage = make_stage(
        server={"waiters": 20_000},
        accounts={MAIN: None, OTHER: None},
        exchange={"timeout": "60s"},
        kubernetes=KUBERNETES,
    )
    _issue_tokens(Pods(stage))
    stage.exchange.add_secret_key(OTHER_KEY, OTHER_SECRET, stage.exchange.add_book(OTHER).name)
    stage.give_credential(OTHER, OTHER_KEY, OTHER_SECRET)
    for account, book in BOOKS.items():
        simulated = stage.exchange.book(account)
        bodies = {path: msgspec.json.encode(book.document(path)) for path in DOCUMENTS}
        simulated.raw, simulated.raw_by_path = bodies.pop(ACCOUNT_PATH), bodies
    stage.exchange.market.margin_assets |= LISTED
    clients = {name: _client(name, each.grants) for name, each in IDENTITIES.items()}
    stage.settings = msgspec.structs.replace(stage.settings, clients=clients)
    stage.tokens = TOKENS | {"stranger": STRANGER}
    return stage


def _client(name: str, grants: Grants | Unidentified) -> Client:
    """An identity's settings; of one that is refused for how it says who it is, those of one that may see all."""
    given = {account: _grant(view) for account, view in (EVERYTHING if isinstance(grants, str) else grants).items()}
    if name.startswith(POD):
        return Client(service_accounts=["desk/treasury"] if name == POD else [f"gone/{name}"], accounts=given)
    return Client(token_sha256=[tokens.digest(TOKENS[name].encode())], accounts=given)


def _issue_tokens(pods: Pods) -> None:
    gone = pods.cluster.add("gone/pod-that-is-gone")
    TOKENS[POD], TOKENS["pod-that-is-gone"] = pods.token(), pods.token(gone)
    TOKENS["pod-of-nobody"] = pods.token(pods.cluster.add("desk/unlisted"))
    pods.cluster.delete(gone)


def _grant(view: View) -> ClientGrant:
    assets, sides = ("all" if names is None else sorted(names) for names in (view.assets, view.sides))
    return msgspec.convert({"assets": assets, "position_sides": sides}, ClientGrant)


SETTLED = 300
"""Turns of the event loop in which nothing begins to wait any more: a TokenReview takes some ten."""
READ = Question(oracle.ACCOUNT, {"account": MAIN})
HOUR = 3_600
"""Seconds that the leverage brackets are fresh, whatever the settings say."""


async def _warm(stage: Stage) -> Replica:
    gateway = await stage.start()
    for (account, book), (route, path) in itertools.product(BOOKS.items(), WHOLE.items()):
        question = Question(route, {"account": account})
        answer = await gateway.caller.get(str(question), headers=[V1.credential(TOKENS["unrestricted"])])
        assert answer.json() == book.document(path)
    return gateway


async def _ask_all(gateway: Replica, cells: list[Cell], ask: Asking) -> list[tuple[Cell, httpx.Response]]:
    return list(zip(cells, await asyncio.gather(*(ask(gateway, cell) for cell in cells)), strict=True))


async def _ask_all_of_one_refresh(
    stage: Stage, gateway: Replica, cells: list[Cell], ask: Asking
) -> list[tuple[Cell, httpx.Response]]:
    """The same, while the exchange answers nobody until every request has begun, however long that takes here."""
    rooms = gateway.app.gateway.queue, gateway.app.gateway.waiting
    stage.exchange.gate.hold()
    asking, seen, still = asyncio.create_task(_ask_all(gateway, cells, ask)), (0, 0), 0
    while not asking.done() and still < SETTLED:
        await asyncio.sleep(0)
        before, seen = seen, (rooms[0].waiting, rooms[1].waiting)
        still = still + 1 if seen == before and seen[0] == 0 else 0
    stage.exchange.gate.release()
    return await asking


def _check(answered: list[tuple[Cell, httpx.Response]], *results: str, of_brackets: str | None = None) -> None:
    """Every answer is what is due, and those with data say these things of the cache; of leverage brackets another.

    But for `stored` of pods: their reads begin in the order of their reviews, and who is first may ask for a name that
    nobody knows, and so have no data.
    """
    report = _report([_fault(cell, answer) for cell, answer in answered])
    assert not report, report
    assert {cell.identity for cell, answer in answered if b"alias(" in answer.content} <= SEE_ALL_ASSETS
    with_data = [(cell, answer) for cell, answer in answered if "cache-status" in answer.headers]
    lasting = [pair for pair in with_data if pair[0].document == BRACKETS and of_brackets is not None]
    told = {cache_status(answer) for cell, answer in with_data if (cell, answer) not in lasting}
    reviewed = any(cell.identity.startswith(POD) for cell, _ in answered)
    led = {result for result in results if reviewed and result.endswith("stored")}
    assert told in (set(), set(results), set(results) - led)
    assert {cache_status(answer) for _, answer in lasting} <= {of_brackets}


def _read(answered: list[tuple[Cell, httpx.Response]], *documents: str) -> set[tuple[str, str]]:
    """Of which accounts there were data of which documents; of these, or of all."""
    return {
        (cell.question.path["account"], cell.document)
        for cell, answer in answered
        if "cache-status" in answer.headers and cell.document in (documents or DOCUMENTS)
    }


def _calls(stage: Stage) -> int:
    """For documents."""
    return sum(stage.exchange.calls.count(path) for path in DOCUMENTS)


def test_every_route_of_the_app_has_a_row_or_is_open_to_all(stage: Stage) -> None:
    routes = stage.app().litestar.routes
    found = {re.sub(r":\w+", "", route.path) for route in routes if isinstance(route, HTTPRoute)}
    assert {re.sub(r"{position_side}", "{positionSide}", path) for path in found} == ROUTES.keys() | OPEN


def test_the_matrix_has_every_outcome_for_whoever_may_see_part_of_an_account() -> None:
    told = {identity: {cell.due.reason for cell in cells} for identity, cells in CELLS.items()}
    assert told["own-narrows-any"] == {None, *V1.refusals, *BINANCE.refusals} - {*get_args(Unidentified)}
    assert told["nothing"] == {None, "account", "parameter"}
    assert told["no-token"] == {"no-credential"}
    assert sum(map(len, CELLS.values())) > 3_000


async def test_on_a_hit(stage: Stage) -> None:
    """All callers in turn on the same snapshots, whose views are remembered and forgotten: none gets another's."""
    gateway = await _warm(stage)
    after = stage.exchange.calls.count()
    turns = itertools.chain.from_iterable(itertools.zip_longest(*CELLS.values()))
    _check(
        await _ask_all(gateway, [cell for cell in turns if cell is not None], _asking()),
        "hit; ttl=1",
        of_brackets=f"hit; ttl={HOUR}",
    )
    assert stage.exchange.calls.count() == after


@pytest.mark.parametrize("identity", IDENTITIES)
async def test_on_a_miss(stage: Stage, identity: str) -> None:
    """All at once, of a gateway that has been asked nothing yet: they wait for the same refresh.

    Whose turn comes late must find as little as the first: exchangeInfo is held back too.
    """
    gateway = await stage.start()
    stage.fail(Fault("hang", path="/dapi/v1/exchangeInfo", count=1))
    cells = [before_the_listing(cell) for cell in CELLS[identity]]
    answered = await _ask_all_of_one_refresh(stage, gateway, cells, _asking())
    _check(answered, "fwd=miss; stored", "fwd=miss; collapsed")
    assert _calls(stage) == len(_read(answered))


@pytest.mark.parametrize("identity", IDENTITIES)
async def test_on_an_answer_past_its_windows(stage: Stage, identity: str) -> None:
    gateway = await _warm(stage)
    await stage.advance(120_000)
    after = _calls(stage)
    answered = await _ask_all_of_one_refresh(stage, gateway, CELLS[identity], _asking())
    results = "fwd=stale; fwd-status=200; stored", "fwd=stale; collapsed"
    _check(answered, *results, of_brackets=f"hit; ttl={HOUR - 120}")
    assert _calls(stage) == after + len(_read(answered, *(DOCUMENTS - {BRACKETS})))


@pytest.mark.parametrize("identity", IDENTITIES)
async def test_on_a_stale_answer_during_a_ban(stage: Stage, identity: str) -> None:
    gateway = await _warm(stage)
    await stage.advance(10_000)
    stage.fail("418")
    await gateway.caller.get(str(READ), headers=[V1.credential(TOKENS["unrestricted"])])
    after = stage.exchange.calls.count()
    answered = await _ask_all(gateway, CELLS[identity], _asking())
    _check(answered, "hit; ttl=-9; detail=not-before", of_brackets=f"hit; ttl={HOUR - 10}")
    assert stage.exchange.calls.count() == after


@pytest.mark.parametrize("identity", IDENTITIES)
async def test_before_anything_is_known_what_can_be_refused_is_and_asks_the_exchange_nothing(
    stage: Stage, identity: str
) -> None:
    gateway = await stage.start()
    _check(await _ask_all(gateway, [cell for cell in CELLS[identity] if not cell.needs_reading], _asking()))
    assert stage.exchange.calls.count() == 0


@pytest.mark.parametrize("identity", IDENTITIES)
async def test_a_head_is_refused_like_a_get_and_has_no_body(stage: Stage, identity: str) -> None:
    gateway = await _warm(stage)
    for cell, answer in await _ask_all(gateway, simple(identity), _asking("HEAD")):
        assert (answer.status_code, answer.content) == ((cell.told or (200, ""))[0], b""), cell


@pytest.mark.parametrize("identity", IDENTITIES)
async def test_to_know_an_entity_tag_opens_nothing(stage: Stage, identity: str) -> None:
    """`*` matches whatever there is; a 304 says that there is something, so it is for those who may see it."""
    gateway = await _warm(stage)
    answered = await _ask_all(gateway, simple(identity), _asking(**{"if-none-match": "*"}))
    unchanged = [(cell, answer) for cell, answer in answered if answer.status_code == 304]
    assert [cell for cell, _ in unchanged] == [cell for cell in simple(identity) if cell.has_a_tag]
    assert {answer.content for _, answer in unchanged} <= {b""}
    _check([(cell, answer) for cell, answer in answered if answer.status_code != 304])


def test_the_oracle_knows_the_filters_of_every_list() -> None:
    taken = {shape.name: set(filters) for shape, filters in parameters.FILTERS.items() if filters}
    assert {oracle.SHAPES[route]: filters for route, filters in oracle.FILTERS.items()} == taken


def test_the_oracle_knows_the_documents_and_the_exchanges_own_parameters() -> None:
    own = {f"/binance/{{account}}{document.path}": set(document.parameters) for document in documents.DOCUMENTS}
    assert own == oracle.CHOOSING
    assert {document.path for document in documents.DOCUMENTS} == DOCUMENTS
