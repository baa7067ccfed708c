"""For operators and their probes: `/healthz`, `/readyz`, `/v1/status`."""

# Docstrings of handlers and texts of `Meta` are those of the OpenAPI document.

from typing import Annotated, Literal, TypeAlias

import msgspec
from litestar import Controller, Response, get
from msgspec import Meta

import service
from service.access.clients import Client
from service.account.documents import ACCOUNT
from service.cache.savings import weight_saved
from service.clock import timestamp
from service.exchange.gate import ADDRESS
from service.fleet.budget import MINUTE, Cooldown
from service.gateway import Gateway
from service.web import parameters
from service.web.authentication import authenticate, gateway_of
from service.web.openapi.operation import CALLER, EVERYWHERE, OPERATION, Operation, ref
from service.web.problems import AnyRequest
from service.web.reads import JSON

Time: TypeAlias = Annotated[str, Meta(extra_json_schema={"format": "date-time"}, examples=["2026-01-02T03:04:05.678Z"])]
"""RFC 3339, milliseconds, UTC."""

Count: TypeAlias = Annotated[int, Meta(extra_json_schema={"format": "int64"})]

NO_STORE = {"cache-control": "no-store"}
HEALTHY = b'{"status":"ok"}'


class Weight(msgspec.Struct, rename="camel", frozen=True):
    """The address's request weight this minute, and ours."""

    used: Annotated[Count, Meta(description="Used on the address this minute, by anybody.")]
    ceiling: Annotated[Count, Meta(description="What we let the address reach.")]
    resets_at: Annotated[Time, Meta(description="When the exchange's next minute begins.")]
    saved_total: Annotated[
        Count,
        Meta(description="What this replica's answers to you from the cache would have cost, since its start."),
    ]


class LastRefresh(msgspec.Struct, rename="camel", frozen=True):
    """The last time this replica asked the exchange for it, or would have."""

    at: Annotated[Time, Meta(description="When that ended.")]
    outcome: Annotated[
        str, Meta(description="`ok`, or the name of the problem: of the call, or of what stood in its way.")
    ]
    detail: Annotated[
        str | None,
        Meta(description="What the problem was, such as an account that has had its equal slice of the weight."),
    ]


class AccountStatus(msgspec.Struct, rename="camel", frozen=True):
    """One account on this replica."""

    account: Annotated[str, Meta(description="The account's name.")]
    snapshot_time: Annotated[
        Time | None,
        Meta(
            description="When the exchange was asked for the account object, or what is read in its stead; null: never."
        ),
    ]
    age_ms: Annotated[Count | None, Meta(description="How old that is, in milliseconds.")]
    position_mode: Annotated[str | None, Meta(description="`one-way`, `hedge`, or null where it isn't known.")]
    last_refresh: Annotated[LastRefresh | None, Meta(description="This replica's last call; null: none yet.")]
    credential: Annotated[str, Meta(description="First 8 hex digits of the SHA-256 of the API key.")]
    not_before: Annotated[Time | None, Meta(description="Until when this credential must not be used; null: it may.")]


class Status(msgspec.Struct, rename="camel", frozen=True):
    """This replica, as far as the caller's accounts go."""

    environment: Annotated[str, Meta(description="Which environment the data is of.")]
    version: Annotated[str, Meta(description="The gateway's version.")]
    redis: Annotated[Literal["ok", "degraded"], Meta(description="Whether the last use of Redis worked.")]
    clock_offset_ms: Annotated[
        Count | None, Meta(description="How far the exchange's clock is ahead of ours; null: not measured yet.")
    ]
    weight: Weight
    not_before: Annotated[
        Time | None, Meta(description="Until when our address must not ask the exchange; null: it may.")
    ]
    accounts: Annotated[list[AccountStatus], Meta(description="Those your client may see.")]


class Operations(Controller):
    """Health doesn't depend on Redis or the exchange: to fail all replicas at once for either would be the outage."""

    path = "/"

    @get(
        "/healthz",
        operation_id="get_health",
        tags=["operations"],
        opt={OPERATION: Operation("Alive.", ref("Health"), headers=EVERYWHERE, security=())},
    )
    async def get_health(self) -> Response[bytes]:
        """Liveness: the event loop answers."""
        return Response(HEALTHY, media_type=JSON, headers=NO_STORE)

    @get(
        "/readyz",
        operation_id="get_readiness",
        tags=["operations"],
        opt={
            OPERATION: Operation(
                "Ready.",
                ref("Health"),
                headers=EVERYWHERE,
                security=(),
                also={503: "Draining: send nothing new here."},
            )
        },
    )
    async def get_readiness(self, request: AnyRequest) -> Response[bytes]:
        """Readiness: settings and secrets are loaded, and it is not draining.

        Redis away, a ban, no snapshot yet: still ready.
        """
        status, body = readiness(gateway_of(request))
        return Response(body, status_code=status, media_type=JSON, headers=NO_STORE)

    @get(
        "/v1/status",
        operation_id="get_status",
        tags=["operations"],
        opt={OPERATION: Operation("This replica, as far as your accounts go.", Status, (*CALLER, "Overloaded"))},
    )
    async def get_status(self, request: AnyRequest) -> Response[bytes]:
        """The state of this replica and of your accounts.

        For people and dashboards: request weight, clock, bans, and how old each snapshot is. Makes no calls.
        """
        client, gateway = await authenticate(request), gateway_of(request)
        parameters.accept_only((), request.scope["query_string"])
        status = status_of(gateway, client)
        return Response(msgspec.json.encode(status), media_type=JSON, headers=NO_STORE)


def readiness(gateway: Gateway) -> tuple[int, bytes]:
    """Status and body of `/readyz`."""
    return (503, b'{"status":"draining"}') if gateway.draining else (200, b'{"status":"ready"}')


def status_of(gateway: Gateway, client: Client) -> Status:
    """What a client may know of this replica. What counts reads counts its own alone, never those of others."""
    address, clock = gateway.exchange.address, gateway.exchange.clock
    saved = weight_saved(gateway.metrics.cache_results.counts())
    weight = Weight(
        used=address.used,
        ceiling=int(address.ceiling),
        resets_at=timestamp((address.window.minute + 1) * MINUTE),
        saved_total=sum(weight for (_, reader), weight in saved.items() if reader == client.name),
    )
    return Status(
        environment=gateway.config.settings.environment,
        version=service.__version__,
        redis="ok" if gateway.redis.up else "degraded",
        clock_offset_ms=clock.skew,
        weight=weight,
        not_before=_standing(address.cooldown(ADDRESS), clock.now()),
        accounts=[_account_status(gateway, grant.account) for grant in client.grants.values()],
    )


def _account_status(gateway: Gateway, account: str) -> AccountStatus:
    cache = gateway.config.caches[account]
    # The account object's, or of the first document that this replica reads in its stead.
    states = cache.state.documents
    state = next((each for each in states.values() if each.last_refresh or each.snapshot), states[ACCOUNT])
    snapshot, last = state.snapshot, state.last_refresh
    return AccountStatus(
        account=account,
        snapshot_time=timestamp(snapshot.request_time) if snapshot else None,
        age_ms=state.age,
        position_mode=snapshot.mode if snapshot else None,
        last_refresh=LastRefresh(timestamp(last.at), last.outcome, last.detail) if last else None,
        credential=cache.source.fingerprint,
        not_before=_standing(cache.source.credential_cooldown, gateway.exchange.clock.now()),
    )


def _standing(cooldown: Cooldown, now: int) -> str | None:
    return timestamp(cooldown.until) if cooldown.until > now else None
