"""What operators and their probes ask: `/healthz`, `/readyz`, `/v1/status`."""

import msgspec
from litestar import Controller, Response, get

import service
from service.access.grants import Grant
from service.clock import timestamp
from service.exchange.budget import MINUTE, Hold
from service.exchange.egress import ADDRESS
from service.gateway import Gateway
from service.web import parameters
from service.web.problems import AnyRequest
from service.web.reading import JSON, authenticate, gateway_of

NO_STORE = {"cache-control": "no-store"}


class Weight(msgspec.Struct, rename="camel", frozen=True):
    """The address's request weight this minute, and ours."""

    used: int
    ceiling: int
    resets_at: str
    saved_total: int


class LastRefresh(msgspec.Struct, rename="camel", frozen=True):
    """`outcome`: `ok`, or the type of the problem."""

    at: str
    outcome: str


class AccountStatus(msgspec.Struct, rename="camel", frozen=True):
    """One account on this replica."""

    account: str
    snapshot_time: str | None
    age_ms: int | None
    position_mode: str | None
    last_refresh: LastRefresh | None
    credential: str
    not_before: str | None


class Status(msgspec.Struct, rename="camel", frozen=True):
    """This replica, as far as the caller's accounts go."""

    environment: str
    version: str
    redis: str
    clock_offset_ms: int | None
    weight: Weight
    not_before: str | None
    accounts: list[AccountStatus]


class Operations(Controller):
    """Health asks nothing of Redis or the exchange: failing all replicas at once for either would be the outage."""

    path = "/"

    @get("/healthz", operation_id="get_health", tags=["operations"])
    async def get_health(self) -> Response[bytes]:
        """The event loop answers."""
        return Response(b'{"status":"ok"}', media_type=JSON, headers=NO_STORE)

    @get("/readyz", operation_id="get_readiness", tags=["operations"])
    async def get_readiness(self, request: AnyRequest) -> Response[bytes]:
        """Settings and secrets are loaded, and it is not draining."""
        if gateway_of(request).draining:
            return Response(b'{"status":"draining"}', status_code=503, media_type=JSON, headers=NO_STORE)
        return Response(b'{"status":"ready"}', media_type=JSON, headers=NO_STORE)

    @get("/v1/status", operation_id="get_status", tags=["operations"])
    async def get_status(self, request: AnyRequest) -> Response[bytes]:
        """How the gateway and the caller's accounts fare."""
        client, gateway = authenticate(request), gateway_of(request)
        parameters.no_filters(request.scope["query_string"])
        status = status_of(gateway, gateway.clients.visible(client))
        return Response(msgspec.json.encode(status), media_type=JSON, headers=NO_STORE)


def status_of(gateway: Gateway, grants: list[Grant]) -> Status:
    egress, clock = gateway.exchange.egress, gateway.exchange.clock
    window = egress.window
    weight = Weight(
        used=window.used,
        ceiling=int(egress.ceiling.address),
        resets_at=timestamp((window.minute + 1) * MINUTE),
        saved_total=gateway.weight_saved,
    )
    return Status(
        environment=gateway.settings.environment,
        version=service.__version__,
        redis="ok" if gateway.redis.up else "degraded",
        clock_offset_ms=clock.skew,
        weight=weight,
        not_before=_standing(egress.hold(ADDRESS), clock.now()),
        accounts=[_account_status(gateway, grant.account) for grant in grants],
    )


def _account_status(gateway: Gateway, account: str) -> AccountStatus:
    keeper = gateway.keepers[account]
    snapshot = keeper.held.snapshot if keeper.held else None
    last = keeper.last_refresh
    return AccountStatus(
        account=account,
        snapshot_time=timestamp(snapshot.asked_at) if snapshot else None,
        age_ms=keeper.age,
        position_mode=snapshot.mode if snapshot else None,
        last_refresh=LastRefresh(timestamp(last.at), last.outcome) if last else None,
        credential=keeper.source.fingerprint,
        not_before=_standing(keeper.source.credential_hold, gateway.exchange.clock.now()),
    )


def _standing(hold: Hold, now: int) -> str | None:
    return timestamp(hold.until) if hold.until > now else None
