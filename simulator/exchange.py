"""The simulated exchange: an ASGI app, and everything a test may watch or turn, as typed attributes.

The way of one request: recorded, weighed, then 404 for a path or method there isn't, then 429 or 418, then a
fault if one is set, else checked and answered; the answer, complete by now, is held back while the gate is
closed. So a held answer shows the account as it was when it was asked.
"""

import asyncio
import time
from collections.abc import Callable
from decimal import Decimal
from urllib.parse import unquote

import msgspec

from simulator.asgi import Ending, Receive, Reply, Request, Scope, Send, deliver, error, json_reply, outlasts
from simulator.book import MIN_ASSETS, Book, Options, demo_book
from simulator.documents import Wanted, balances, leverage_brackets, position_risk
from simulator.faults import ACCOUNT_PATH, Circumstances, Faults, inflict
from simulator.limits import Limits, Policy, Verdict
from simulator.listing import exchange_info
from simulator.market import CONTRACTS, Contract, Market
from simulator.observing import Call, Calls, Clock, Gate
from simulator.signature import (
    DEMO_API_KEY,
    DEMO_SECRET_KEY,
    ApiKey,
    authenticate,
    check_key_name,
    parse,
    read_public_key,
)
from simulator.statement import statement
from simulator.wallet import RESTRICTIONS_PATH, WALLET_WEIGHT_LIMIT, Restrictions

MAIN = "main"  # the account there is from the start
WALLET_PREFIX = "/sapi/"
BALANCE_PATH = "/dapi/v1/balance"
POSITION_RISK_PATH = "/dapi/v1/positionRisk"
LEVERAGE_BRACKET_PATH = "/dapi/v2/leverageBracket"
DOCUMENTS = frozenset({ACCOUNT_PATH, BALANCE_PATH, POSITION_RISK_PATH, LEVERAGE_BRACKET_PATH})


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The start state, to which `Exchange.reset` returns. `public_key` (PEM) takes the secret's place."""

    hedge: bool = False
    assets: int = MIN_ASSETS
    seed: int = 1
    weight_limit: int = 2400
    api_key: str = DEMO_API_KEY
    secret_key: str = DEMO_SECRET_KEY
    public_key: bytes | None = None


class Exchange:
    """A COIN-M exchange with one demo account, `main`. Belongs to one event loop.

    Args:
        settings: The start state.
        clock: Seconds since the epoch; `exchange.clock` can skew or stop it.
    """

    calls: Calls
    faults: Faults
    gate: Gate
    limits: Limits
    wallet_limits: Limits  # of /sapi, which counts by itself
    market: Market
    clock: Clock
    keys: dict[str, ApiKey]  # by name

    def __init__(self, settings: Settings | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings or Settings()
        self.calls, self.faults, self.gate = Calls(), Faults(), Gate()
        self.clock = Clock(clock)
        self._restore()

    def _restore(self) -> None:
        start = self._settings
        self.limits = Limits(Policy(weight_limit=start.weight_limit))
        self.wallet_limits = Limits(Policy(weight_limit=WALLET_WEIGHT_LIMIT))
        self.market = Market(start.seed)
        self._books = {MAIN: demo_book(MAIN, hedge=start.hedge, options=Options(assets=start.assets))}
        self.keys = {}
        if start.public_key is None:
            self.add_secret_key(start.api_key, start.secret_key)
        else:
            self.add_public_key(start.api_key, start.public_key)

    def reset(self) -> None:
        """Back to the start state; held and hanging answers are let go."""
        self.calls.clear()
        self.faults.clear()
        self.gate.release()
        self.clock.skew_ms, self.clock.frozen_at_ms = 0, None
        self._restore()

    def now_ms(self) -> int:
        """The exchange's time, ms since the epoch."""
        return self.clock.now_ms()

    # Accounts and keys

    def book(self, name: str = MAIN) -> Book:
        """The account *name*; KeyError if there is none."""
        return self._books[name]

    def books(self) -> list[Book]:
        return list(self._books.values())

    def add_book(self, name: str, *, hedge: bool = False) -> Book:
        """Open (or replace) an account without balances or positions."""
        self._books[name] = Book(name, hedge=hedge)
        return self._books[name]

    def add_demo_book(self, name: str, *, hedge: bool = False) -> Book:
        """Open (or replace) an account with the positions and balances of the one there is from the start."""
        self._books[name] = demo_book(name, hedge=hedge, options=Options(assets=self._settings.assets))
        return self._books[name]

    def set_balance(self, asset: str, wallet: Decimal | str, account: str = MAIN) -> None:
        """Set a wallet balance, in coins, as of now."""
        self.book(account).set_balance(asset, Decimal(wallet), self.now_ms())

    def add_secret_key(self, api_key: str, secret: str, account: str = MAIN) -> None:
        """Add (or replace) an HMAC key. ValueError: the key's name isn't 64 letters and digits."""
        self._add(ApiKey(check_key_name(api_key), self.book(account).name, secret=secret))

    def add_public_key(self, api_key: str, pem: bytes, account: str = MAIN) -> None:
        """Add (or replace) an RSA or Ed25519 key. ValueError: bad name, or not such a key."""
        public_key = read_public_key(pem)
        self._add(ApiKey(check_key_name(api_key), self.book(account).name, public_key=public_key))

    def revoke(self, api_key: str) -> None:
        """Answer -2015 to this key from now on, as for an address not on its list; KeyError if unknown."""
        self._add(msgspec.structs.replace(self.keys[api_key], allowed=False))

    def restrict(self, api_key: str, restrictions: Restrictions) -> None:
        """Tell this of what a key may do; KeyError if unknown."""
        self._add(msgspec.structs.replace(self.keys[api_key], restrictions=restrictions))

    def _add(self, key: ApiKey) -> None:
        self.keys[key.name] = key

    # Holding answers back

    def hold(self) -> None:
        """Hold the answers of calls for an account's documents back from now on."""
        self.gate.hold()

    def release(self) -> None:
        """Let held and hanging answers go."""
        self.gate.release()

    @property
    def held(self) -> int:
        """How many answers are held back or hang."""
        return self.gate.waiting

    async def wait_held(self, count: int = 1) -> None:
        """Return once *count* answers are held back or hang."""
        await self.gate.wait_held(count)

    # ASGI

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
            return
        if scope["type"] != "http":
            raise NotImplementedError(f"no {scope['type']} here")
        request = Request.from_scope(scope)
        reply = await self._respond(request, receive)
        if reply is not None:
            await deliver(reply, scope, receive, send, now_ms=self.now_ms())

    async def _respond(self, request: Request, receive: Receive) -> Reply | None:
        """The answer when it is due, or None if the client left before."""
        call = Call(request.path, self.now_ms(), request.client, request.api_key)
        reply = self._answer(request, call.at)
        wallet = request.path.startswith(WALLET_PREFIX)
        used = self._limits_of(request).tally(request.client, call.at).used
        self.calls.record(call)
        if self._must_wait(request, reply) and not await outlasts(self._due(reply), receive):
            return None
        call.status = None if reply.ending is Ending.RESET else reply.status
        header = (b"x-sapi-used-ip-weight-1m" if wallet else b"x-mbx-used-weight-1m", str(used).encode())
        return msgspec.structs.replace(reply, headers=(header, *reply.headers))

    def _answer(self, request: Request, now_ms: int) -> Reply:
        route = ROUTES.get(request.path) if request.method == "GET" else None
        limits = self._limits_of(request)
        verdict = limits.spend(request.client, route.weigh(request) if route else 1, now_ms)
        if route is None:
            return error(404, -5000, f"Path {request.path}, Method {request.method} is invalid")
        if verdict is not Verdict.ADMITTED:
            return limits.refusal(request.client, verdict, now_ms)
        fault = self.faults.take(request.path)
        if fault is None:
            return route.answer(self, request, now_ms)
        seen = Circumstances(fault, request.path, request.client, now_ms, limits.policy.weight_limit)
        return inflict(seen, lambda: route.answer(self, request, now_ms))

    def _limits_of(self, request: Request) -> Limits:
        return self.wallet_limits if request.path.startswith(WALLET_PREFIX) else self.limits

    def _must_wait(self, request: Request, reply: Reply) -> bool:
        return reply.hangs or reply.delay > 0 or (self.gate.closed and request.path in DOCUMENTS)

    async def _due(self, reply: Reply) -> None:
        if reply.delay:
            await asyncio.sleep(reply.delay)
        if reply.hangs or self.gate.closed:
            await self.gate.stop()


class Route(msgspec.Struct, frozen=True):
    """One path: its weight ("COIN-M docs", each endpoint's page) and its answer at a time in ms."""

    weight: int
    answer: Callable[[Exchange, Request, int], Reply]
    weight_of_one: int | None = None  # with `symbol`, where that costs less

    def weigh(self, request: Request) -> int:
        if self.weight_of_one is not None and parse(request.query).values.get(b"symbol"):
            return self.weight_of_one
        return self.weight


def _public(content: Callable[[Exchange, int], object]) -> Callable[[Exchange, Request, int], Reply]:
    """An answer without a key, which takes no parameters."""

    def answer(exchange: Exchange, request: Request, now_ms: int) -> Reply:
        received = len(parse(request.query).parameters)
        if received:
            return error(400, -1101, f"Too many parameters; expected '0' and received '{received}'.")
        return json_reply(content(exchange, now_ms))

    return answer


def _signed(
    content: Callable[[Exchange, Book, Wanted, int], bytes], *filters: str
) -> Callable[[Exchange, Request, int], Reply]:
    """The answer to a key, of the account that is its; *filters*: the parameters that choose among the contracts."""
    read = [name.encode() for name in filters]

    def answer(exchange: Exchange, request: Request, now_ms: int) -> Reply:
        key = authenticate(request, exchange.keys, now_ms, read)
        if isinstance(key, Reply):
            return key
        sent = parse(request.query).values
        given = {name.decode(): unquote(sent[name].decode("latin-1")) for name in read if name in sent}
        if len(given) > 1:
            return error(400, -1128, "Combination of optional parameters invalid.")

        def wanted(contract: Contract) -> bool:
            own = {
                "symbol": contract.symbol,
                "pair": contract.pair,
                "marginAsset": exchange.market.margin_asset(contract),
            }
            return given.items() <= own.items()

        if given and not any(map(wanted, CONTRACTS)):
            return error(400, -1121, "Invalid symbol.")
        book = exchange.book(key.account)
        raw = book.raw_by_path.get(request.path)
        return Reply(200, content(exchange, book, wanted, now_ms) if raw is None else raw)

    return answer


def _restrictions(exchange: Exchange, request: Request, now_ms: int) -> Reply:
    key = authenticate(request, exchange.keys, now_ms)
    return key if isinstance(key, Reply) else json_reply(key.restrictions)


ROUTES = {
    "/dapi/v1/ping": Route(1, _public(lambda _, __: {})),
    "/dapi/v1/time": Route(1, _public(lambda _, now_ms: {"serverTime": now_ms})),
    "/dapi/v1/exchangeInfo": Route(
        1,
        _public(lambda exchange, now_ms: exchange_info(exchange.market, exchange.limits.policy.weight_limit, now_ms)),
    ),
    ACCOUNT_PATH: Route(5, _signed(lambda exchange, book, _, now_ms: statement(book, exchange.market, now_ms))),
    BALANCE_PATH: Route(1, _signed(lambda exchange, book, _, now_ms: balances(book, exchange.market, now_ms))),
    POSITION_RISK_PATH: Route(
        1,
        _signed(
            lambda exchange, book, wanted, now_ms: position_risk(book, exchange.market, now_ms, wanted),
            *("marginAsset", "pair"),
        ),
    ),
    LEVERAGE_BRACKET_PATH: Route(
        2, _signed(lambda _, book, wanted, __: leverage_brackets(book, wanted), "symbol"), weight_of_one=1
    ),
    RESTRICTIONS_PATH: Route(1, _restrictions),
}


async def _live(receive: Receive, send: Send) -> None:
    """Answer the lifespan protocol: there is nothing to start or stop."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
