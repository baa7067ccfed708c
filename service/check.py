"""What `coinm-gateway check` tries and `resume` clears: the gateway's own parts, without its server."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from service.app import close
from service.cache.keeper import SnapshotKeeper
from service.clock import timestamp
from service.exchange.budget import MINUTE
from service.exchange.errors import ExchangeError
from service.exchange.gate import ACCOUNT
from service.gateway import Gateway
from service.store.connection import AwayError
from service.store.rehearsal import rehearse

Verdict = Literal["ok", "warn", "fail"]


class Finding(msgspec.Struct, frozen=True):
    """One row of the table."""

    subject: str
    verdict: Verdict
    text: str


Show = Callable[[Finding], None]


def line(finding: Finding) -> str:
    """A row as it is printed."""
    return f"{finding.verdict:<5} {finding.subject:<24} {finding.text}"


async def run(gateway: Gateway, show: Show) -> None:
    """Try it all, telling each finding as soon as it is known."""
    try:
        accounts = len(gateway.keepers)
        show(Finding("settings", "ok", f"{accounts} account(s), {len(gateway.settings.clients)} client(s)"))
        show(_weight(gateway))
        for finding in await _redis(gateway):
            show(finding)
        await _learn(gateway)
        show(await _clock(gateway))
        for keeper in gateway.keepers.values():
            show(await _account(gateway, keeper))
    finally:
        await close(gateway)


async def resume(gateway: Gateway, accounts: Iterable[str]) -> list[str]:
    """Forget the not-befores of the address and of these accounts; what was forgotten.

    Raises:
        AwayError: Redis can't be reached: nothing more was forgotten.
    """
    try:
        await gateway.redis.reach()
        return [text for account in accounts for text in await _forget(gateway, account)]
    finally:
        await close(gateway)


def _weight(gateway: Gateway) -> Finding:
    """What the accounts would spend if somebody always asked, against our share of the address."""
    settings = gateway.settings
    refreshes = [MINUTE / account.freshness.fresh_for for account in settings.accounts.values()]
    wanted, ceiling = sum(refreshes) * ACCOUNT.weight, gateway.exchange.egress.ceiling
    text = f"all accounts refreshed every fresh_for: {wanted:.0f} of {ceiling:.0f} a minute"
    if wanted > ceiling:
        return Finding("weight", "warn", f"{text}; answers will grow older than fresh_for")
    return Finding("weight", "ok", text)


async def _redis(gateway: Gateway) -> Sequence[Finding]:
    try:
        await gateway.redis.reach()
        await rehearse(gateway.redis, gateway.settings, gateway.exchange.clock)
        info = await gateway.redis.run(gateway.redis.info)
    except AwayError as exc:
        return [Finding("redis", "fail", str(exc))]
    return redis_findings(info)


def redis_findings(info: Mapping[str, Any]) -> list[Finding]:
    """What Redis tells of itself (`INFO`), against what the gateway needs of it."""
    mode, role, policy = info.get("redis_mode"), info.get("role"), info.get("maxmemory_policy")
    findings = [Finding("redis", "ok", f"{mode}, {role}, version {info.get('redis_version')}, eviction {policy}")]
    if mode == "cluster":
        findings.append(Finding("redis mode", "fail", "expected standalone or Sentinel: the scripts span slots"))
    if role != "master":
        findings.append(Finding("redis role", "fail", "expected the master: a replica refuses writes"))
    if policy != "noeviction":
        findings.append(Finding("redis eviction", "warn", "expected noeviction: a forgotten ban is a longer ban"))
    return findings


async def _clock(gateway: Gateway) -> Finding:
    exchange = gateway.exchange
    try:
        await exchange.reopen()
        await exchange.public.synchronise()
        await exchange.public.load_listing()
    except ExchangeError as exc:
        return Finding("exchange", "fail", _explain(exc))
    offset, skew = exchange.clock.offset, exchange.clock.skew
    error = offset.error if offset else 0
    return Finding("exchange", "ok", f"{gateway.settings.exchange.host}, clock {skew:+d} ms (give or take {error} ms)")


async def _account(gateway: Gateway, keeper: SnapshotKeeper) -> Finding:
    """One signed call."""
    subject = f"account {keeper.account}"
    try:
        snapshot = (await keeper.source.fetch(forced=False)).snapshot
    except ExchangeError as exc:
        return Finding(subject, "fail", _explain(exc))
    rows = f"{len(snapshot.assets)} assets, {len(snapshot.positions)} positions, {snapshot.mode or 'no'} mode"
    used = gateway.exchange.egress.used
    return Finding(subject, "ok", f"credential {keeper.source.fingerprint}, {rows}, used weight {used}")


async def _learn(gateway: Gateway) -> None:
    """What the replicas know of a ban binds this command too."""
    for account, keeper in gateway.keepers.items():
        look = await gateway.stores[account].look(0)
        if look is not None:
            await keeper.source.reconcile(look.holds)


def _explain(error: ExchangeError) -> str:
    until = f" (until {timestamp(error.retry_at)})" if error.retry_at else ""
    return f"{error.problem}: {error.detail}{until}"


async def _forget(gateway: Gateway, account: str) -> list[str]:
    forgotten = await gateway.ledger.resume(account)
    return [
        f"{account}: {scope} not-before {timestamp(hold.until)} ({hold.problem}) cleared"
        for scope, hold in forgotten.items()
        if hold.until > gateway.exchange.clock.now()
    ]
