"""What `coinm-gateway check` tries and `resume` clears: the gateway's own parts, without its server."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from service import process
from service.addresses import password_of
from service.cache.account_cache import AccountCache
from service.clock import timestamp
from service.exchange.budget import MINUTE
from service.exchange.errors import ExchangeError
from service.exchange.gate import ACCOUNT
from service.exchange.key_permissions import key_permissions
from service.files import exposure
from service.gateway import Gateway
from service.kubernetes.errors import NotVerifiedError
from service.kubernetes.reviews import TokenReviews
from service.settings import Audit, Server, Settings
from service.settings_file import SettingsError, secret_files
from service.store.entries import Lineage
from service.store.guard import RedisUnavailableError
from service.store.lineage import MEMORY
from service.store.selftest import selftest
from service.telemetry import sinks
from service.tls import require_pair
from service.wiring import close

EXPIRY_WARNING = 14 * 24 * 3_600_000
"""Ms; certificates that renew themselves do it earlier."""

StoreResult = Literal["ok", "warn", "fail", "skip"]


class Finding(msgspec.Struct, frozen=True):
    """One row of the table."""

    subject: str
    verdict: StoreResult
    text: str


Show = Callable[[Finding], None]


def line(finding: Finding) -> str:
    """A row as it is printed."""
    return f"{finding.verdict:<5} {finding.subject:<24} {finding.text}"


async def run(gateway: Gateway, config: Path, show: Show) -> None:
    """Try it all, telling each finding as soon as it is known."""
    try:
        accounts = len(gateway.caches)
        show(Finding("settings", "ok", f"{accounts} account(s), {len(gateway.settings.clients)} client(s)"))
        show(_weight(gateway))
        show(audit_finding(gateway.settings.audit))
        encrypted = gateway.settings.server.tls_certificate_file is not None
        show(connections_finding(process.open_files(), encrypted=encrypted))
        for finding in file_findings(config, gateway.settings):
            show(finding)
        show(tls_finding(gateway.settings.server, gateway.clock.epoch()))
        for finding in await _redis(gateway):
            show(finding)
        if gateway.reviews is not None:
            show(await _kubernetes(gateway.reviews))
        await _learn(gateway)
        show(await _clock(gateway))
        for cache in gateway.caches.values():
            for finding in sharing_findings(cache.account, cache.state.active.lineage):
                show(finding)
            show(await _account(gateway, cache))
            for finding in await _key(gateway, cache.account):
                show(finding)
    finally:
        await close(gateway)


async def resume(gateway: Gateway, accounts: Iterable[str]) -> list[str]:
    """Forget what stands in the way of the address and of these accounts in Redis; what was forgotten.

    Raises:
        RedisUnavailableError: Redis can't be reached: nothing more was forgotten.
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


def audit_finding(audit: Audit | None) -> Finding:
    """Where the audit log would go, and whether it can."""
    if audit is None:
        return Finding("audit", "ok", "none: there is no [audit] table")
    fault = sinks.fault(audit.file) if audit.file else None
    where = "audit.file" if audit.file else "stdout"
    text = f"{where}{f' {fault}' if fault else ''}, queue {audit.queue}, when full {audit.when_full}"
    return Finding("audit", "fail" if fault else "ok", text)


def file_findings(config: Path, settings: Settings) -> list[Finding]:
    """A warning for each file with something secret that others can read or change; a row that there is none."""
    files = secret_files(settings)
    if settings.redis.url is not None and password_of(settings.redis.url) is not None:
        files[f"{config}, which holds redis.url with a password"] = config
    if settings.audit is not None and settings.audit.file is not None:
        files["audit.file"] = settings.audit.file
    exposed = {key: exposed for key, file in files.items() if (exposed := exposure(file))}
    if not exposed:
        return [Finding("files", "ok", f"{len(files)} with something secret, which others can neither read nor change")]
    return [Finding("files", "warn", f"{key}: {text}") for key, text in exposed.items()]


def tls_finding(server: Server, now: int) -> Finding:
    """Whether the server's certificate and key can be served with, at a time in epoch ms."""
    try:
        validity = require_pair(server)
    except SettingsError as exc:
        return Finding("tls", "fail", str(exc))
    if validity is None:
        return Finding("tls", "ok", "none: plain HTTP, for loopback or behind a mesh")
    begin, end = (int(each.timestamp() * 1000) for each in validity)
    text = f"the certificate holds from {timestamp(begin)} to {timestamp(end)}"
    if not begin <= now < end:
        return Finding("tls", "warn", f"{text}: not now; callers will refuse it")
    return Finding("tls", "warn" if end - now < EXPIRY_WARNING else "ok", text)


def connections_finding(files: int, *, encrypted: bool) -> Finding:
    """How many connections of callers the limit of open files leaves."""
    connections = process.connections(files, encrypted=encrypted)
    if connections is None:
        return Finding("open files", "fail", process.too_few(files, encrypted=encrypted))
    verdict: StoreResult = "warn" if connections < process.FEW_CONNECTIONS else "ok"
    return Finding("open files", verdict, f"{connections} connections of callers at a time")


async def _redis(gateway: Gateway) -> Sequence[Finding]:
    try:
        await gateway.redis.reach()
        await selftest(gateway.redis, gateway.settings, gateway.exchange.clock)
        info = await gateway.redis.run(gateway.redis.info)
    except RedisUnavailableError as exc:
        return [Finding("redis", "fail", str(exc))]
    return redis_findings(info)


def redis_findings(info: Mapping[str, Any]) -> list[Finding]:
    """What Redis tells of itself (`INFO`), against what the gateway needs of it."""
    mode, role, policy = info.get("redis_mode"), info.get("role"), info.get("maxmemory_policy")
    findings = [Finding("redis", "ok", f"{mode}, {role}, version {info.get('redis_version')}, eviction {policy}")]
    if role != "master":
        findings.append(Finding("redis role", "fail", "expected the master: a replica refuses writes"))
    if policy != "noeviction":
        findings.append(Finding("redis eviction", "warn", "expected noeviction: a forgotten ban is a longer ban"))
    return findings


def sharing_findings(account: str, lineage: Lineage) -> list[Finding]:
    """Who else uses the account's name in this Redis; nothing where all is as it should be."""
    subject, lately = f"account {account}", f"within the last {MEMORY // 1000} s"
    if lineage.foreign:
        text = (
            f"foreign entries: {lineage.foreign} other credential(s) were in use {lately} for an account of this name: "
            "another deployment with the same environment and key_prefix, or the key that this one had before its start"
        )
        return [Finding(subject, "fail", text)]
    if lineage.superseded:
        return [Finding(subject, "warn", f"its credential was replaced by one that was in use {lately}")]
    return []


async def _kubernetes(reviews: TokenReviews) -> Finding:
    """Whether we may create TokenReviews, by one of our own token."""
    try:
        await reviews.selftest()
    except NotVerifiedError as exc:
        return Finding("kubernetes", "fail", f"API server: {exc}")
    return Finding("kubernetes", "ok", f"tokens for the audience {reviews.audience} can be reviewed")


async def _clock(gateway: Gateway) -> Finding:
    exchange = gateway.exchange
    try:
        await exchange.reopen()
        await exchange.public.synchronise()
        await exchange.public.load_exchange_info()
    except ExchangeError as exc:
        return Finding("exchange", "fail", _explain(exc))
    offset, skew = exchange.clock.offset, exchange.clock.skew
    error = offset.error if offset else 0
    return Finding("exchange", "ok", f"{gateway.settings.exchange.host}, clock {skew:+d} ms (give or take {error} ms)")


async def _account(gateway: Gateway, cache: AccountCache) -> Finding:
    """One signed call."""
    subject = f"account {cache.account}"
    try:
        snapshot = (await cache.source.fetch(forced=False)).snapshot
    except ExchangeError as exc:
        return Finding(subject, "fail", _explain(exc))
    rows = f"{len(snapshot.assets)} assets, {len(snapshot.positions)} positions, {snapshot.mode or 'no'} mode"
    used = gateway.exchange.egress.used
    return Finding(subject, "ok", f"credential {cache.source.fingerprint}, {rows}, used weight {used}")


async def _key(gateway: Gateway, account: str) -> Sequence[Finding]:
    """What the account's API key may do beside reading.

    That it can't be asked is a warning: the gateway does without, and the wallet API has troubles of its own.
    """
    subject = f"key {account}"
    if gateway.settings.exchange.wallet_url is None:
        return [Finding(subject, "skip", "skipped: no exchange.wallet_url")]
    try:
        restrictions = await gateway.wallet.restrictions(account)
    except ExchangeError as exc:
        return [Finding(subject, "warn", f"the wallet API didn't tell what the key may do: {_explain(exc)}")]
    return [Finding(subject, verdict, text) for verdict, text in key_permissions(restrictions)]


async def _learn(gateway: Gateway) -> None:
    """What the replicas know of a ban binds this command too."""
    for cache in gateway.caches.values():
        look = await cache.state.active.shared.read_state(0)
        if look is not None:
            cache.state.active.lineage = look.lineage
            await cache.source.reconcile(look.holds)


def _explain(error: ExchangeError) -> str:
    until = f" (until {timestamp(error.retry_at)})" if error.retry_at else ""
    return f"{error.problem}: {error.detail}{until}"


async def _forget(gateway: Gateway, account: str) -> list[str]:
    active = gateway.caches[account].state.active
    look = await active.shared.read_state(0)
    if look is not None and look.holds.now is not None:
        gateway.exchange.clock.adopt_fleet_time(look.holds.now)  # a resume says when it was, by the exchange's clock
    forgotten = await gateway.ledger.resume(active.source.identity)
    texts = [
        f"{account}: {scope} not-before {timestamp(hold.until)} ({hold.problem}) cleared"
        for scope, hold in forgotten.items()
        if hold.until > gateway.exchange.clock.now()
    ]
    cleared = await active.shared.clear()
    if cleared.failures:
        texts.append(f"{account}: {cleared.failures} failed refresh(es) in a row cleared")
    if cleared.lease:
        texts.append(f"{account}: a lease that would not have ended cleared")
    if cleared.credentials:
        texts.append(f"{account}: what was known of {cleared.credentials} other credential(s) cleared")
    return texts
