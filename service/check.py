"""The commands `coinm-gateway check` and `resume`: they use the gateway's own parts, without its server."""

# The order of `check`: first what needs no network (settings, weight, files, TLS), then Redis, the API server and the
# exchange. Before it calls the exchange it reads from Redis which cooldowns the running replicas know of: a call during
# a ban would lengthen it. A failed finding doesn't end the command: one run shows all that is wrong.

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import msgspec

from service import process
from service.access.clients import ANY_ACCOUNT
from service.account.documents import ACCOUNT, DOCUMENTS
from service.addresses import password_of
from service.cache import policy
from service.cache.account_cache import AccountCache
from service.clock import timestamp
from service.exchange.signing import read_credential
from service.files import exposure
from service.fleet.budget import MINUTE
from service.fleet.errors import ExchangeError
from service.fleet.lineage import MEMORY
from service.fleet.shared_state import Lineage
from service.gateway import Gateway
from service.key_permissions import WalletApi, key_permissions
from service.kubernetes.errors import NotVerifiedError
from service.settings import Audit, Server, Settings
from service.settings_file import SettingsError, secret_files
from service.store.guard import PAUSE_MS, RedisUnavailableError
from service.store.selftest import selftest
from service.telemetry import sinks
from service.tls import require_pair
from service.wiring import close

REDIS_ATTEMPTS = 3
"""While it doesn't answer in time: on a busy machine a first connection by TLS may take longer than operations wait."""
EXPIRY_WARNING = 14 * 24 * 3_600_000
"""Ms; automatic renewal comes earlier."""

Verdict = Literal["ok", "warn", "fail", "skip"]


class Finding(msgspec.Struct, frozen=True):
    """One row of the table."""

    subject: str
    verdict: Verdict
    text: str


Show = Callable[[Finding], None]


def line(finding: Finding) -> str:
    """The row as it is printed."""
    return f"{finding.verdict:<5} {finding.subject:<24} {finding.text}"


async def run(gateway: Gateway, config: Path, show: Show) -> None:
    """Try everything, and show each finding as soon as it is known."""
    settings = gateway.config.settings
    try:
        show(Finding("settings", "ok", f"{len(gateway.config.caches)} account(s), {len(settings.clients)} client(s)"))
        show(weight_finding(settings, gateway.exchange.address.ceiling))
        show(audit_finding(settings.audit))
        encrypted = settings.server.tls_certificate_file is not None
        show(connections_finding(process.open_files(), encrypted=encrypted))
        for finding in file_findings(config, settings):
            show(finding)
        show(tls_finding(settings.server, gateway.clock.epoch()))
        for finding in await _check_redis(gateway):
            show(finding)
        if gateway.reviews is not None:
            try:
                await gateway.reviews.selftest()  # a review of the gateway's own token
                text = f"tokens for the audience {gateway.reviews.audience} can be reviewed"
                show(Finding("kubernetes", "ok", text))
            except NotVerifiedError as exc:
                show(Finding("kubernetes", "fail", f"API server: {exc}"))
        show(await _check_exchange(gateway))
        connect = partial(gateway.open_http, settings.exchange.wallet_url)
        wallet = WalletApi(settings.exchange, gateway.exchange.address, connect)
        for cache in gateway.config.caches.values():
            await _check_account(gateway, cache, wallet, show)
    finally:
        await close(gateway)


async def resume(gateway: Gateway, accounts: Iterable[str]) -> list[str]:
    """Clear in Redis what blocks the address and these accounts; a text for each thing that was cleared.

    Raises:
        RedisUnavailableError: Redis can't be reached: nothing more was cleared.
    """
    clock = gateway.exchange.clock
    texts: list[str] = []
    try:
        await gateway.redis.reach()
        for account in accounts:
            active = gateway.config.caches[account].state.active
            state = await active.shared[ACCOUNT].read_state(0)
            if state is not None and state.cooldowns.now is not None:
                clock.adopt_fleet_time(state.cooldowns.now)  # a resume records its time, by the exchange's clock
            cooldowns = await gateway.ledger.resume(active.source.identity)
            texts += [
                f"{account}: {scope} not-before {timestamp(cooldown.until)} ({cooldown.problem}) cleared"
                for scope, cooldown in cooldowns.items()
                if cooldown.until > clock.now()
            ]
            for document, shared in active.shared.items():
                cleared = await shared.clear()
                of = "" if document is ACCOUNT else f" of {document.name}"
                if cleared.failures:
                    texts.append(f"{account}: {cleared.failures} failed refresh(es) in a row{of} cleared")
                if cleared.lease:
                    texts.append(f"{account}: a lease{of} that would not have ended cleared")
                if cleared.credentials:  # all of the account's: by the first of its documents
                    texts.append(f"{account}: what was known of {cleared.credentials} other credential(s) cleared")
        return texts
    finally:
        await close(gateway)


def weight_finding(settings: Settings, ceiling: float) -> Finding:
    """The most weight per minute that callers can cause, against what may be spent.

    That is every document refreshed as soon as its snapshot is no longer fresh, of each account that a client may read.
    """
    granted = {name for client in settings.clients.values() for name in client.accounts}
    read = settings.accounts if ANY_ACCOUNT in granted else settings.accounts.keys() & granted
    wanted = {
        document: sum(
            document.weight * MINUTE / policy.windows(document, settings.accounts[account].freshness).fresh_for
            for account in read
        )
        for document in DOCUMENTS
    }
    parts = ", ".join(f"{document.name} {weight:.0f}" for document, weight in wanted.items())
    total = sum(wanted.values())
    text = f"all that clients may read, refreshed every fresh_for: {total:.0f} of {ceiling:.0f} per minute ({parts})"
    if total <= ceiling:
        return Finding("weight", "ok", text)
    return Finding("weight", "warn", f"{text}; if all of it is read, answers will grow older than fresh_for")


def audit_finding(audit: Audit | None) -> Finding:
    """Where the audit log goes, and whether it can be written."""
    if audit is None:
        return Finding("audit", "ok", "none: there is no [audit] table")
    fault = sinks.fault(audit.file) if audit.file else None
    where = "audit.file" if audit.file else "stdout"
    text = f"{where}{f' {fault}' if fault else ''}, queue {audit.queue}, when full {audit.when_full}"
    return Finding("audit", "fail" if fault else "ok", text)


def file_findings(config: Path, settings: Settings) -> list[Finding]:
    """A warning for each file with something secret that others can read or change; one good row if there is none."""
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
    """Whether the server's certificate and key can be used, at a time in epoch ms."""
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
    """How many callers' connections the limit of open files allows."""
    connections = process.connections(files, encrypted=encrypted)
    if connections is None:
        return Finding("open files", "fail", process.too_few(files, encrypted=encrypted))
    verdict: Verdict = "warn" if connections < process.FEW_CONNECTIONS else "ok"
    return Finding("open files", verdict, f"{connections} connections of callers at a time")


def redis_findings(info: Mapping[str, Any]) -> list[Finding]:
    """What Redis reports of itself (`INFO`), against what the gateway needs."""
    mode, role, policy = info.get("redis_mode"), info.get("role"), info.get("maxmemory_policy")
    findings = [Finding("redis", "ok", f"{mode}, {role}, version {info.get('redis_version')}, eviction {policy}")]
    if role != "master":
        findings.append(Finding("redis role", "fail", "expected the master: a replica refuses writes"))
    if policy != "noeviction":
        findings.append(Finding("redis eviction", "warn", "expected noeviction: a forgotten ban is a longer ban"))
    return findings


def sharing_findings(account: str, lineage: Lineage) -> list[Finding]:
    """Other credentials that use the account's name in this Redis; empty if there are none."""
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


async def _check_redis(gateway: Gateway) -> list[Finding]:
    """How Redis is, and whether every script runs there."""
    attempts = 0
    while True:
        try:
            await gateway.redis.reach()
            await selftest(gateway.redis, gateway.config.settings, gateway.exchange.clock)
            return redis_findings(await gateway.redis.run(gateway.redis.info))
        except RedisUnavailableError as exc:
            attempts += 1
            if exc.kind != "timeout" or attempts == REDIS_ATTEMPTS:
                return [Finding("redis", "fail", str(exc))]
        await asyncio.sleep(PAUSE_MS / 1000)  # the guard fails all operations at once until then


async def _check_exchange(gateway: Gateway) -> Finding:
    """Whether the exchange answers, and how far its clock is from ours."""
    # Cooldowns first: a ban that the replicas know of binds this command too.
    for cache in gateway.config.caches.values():
        state = await cache.state.active.shared[ACCOUNT].read_state(0)
        if state is not None:
            cache.state.active.lineage = state.lineage
            await cache.source.reconcile(state.cooldowns)
    exchange = gateway.exchange
    try:
        await exchange.reopen()
        await exchange.synchronise()  # signed calls need its time
        await exchange.load_exchange_info()
    except ExchangeError as exc:
        return Finding("exchange", "fail", _explain(exc))
    offset, skew = exchange.clock.offset, exchange.clock.skew
    error = offset.error if offset else 0
    return Finding(
        "exchange", "ok", f"{gateway.config.settings.exchange.host}, clock {skew:+d} ms (give or take {error} ms)"
    )


async def _check_account(gateway: Gateway, cache: AccountCache, wallet: WalletApi, show: Show) -> None:
    """Show who else uses the account's name, how one signed call went, and what its API key may do beside reading."""
    for finding in sharing_findings(cache.account, cache.state.active.lineage):
        show(finding)
    subject = f"account {cache.account}"
    try:
        snapshot = await cache.source.fetch(ACCOUNT, forced=False)
    except ExchangeError as exc:
        show(Finding(subject, "fail", _explain(exc)))
    else:
        assets, positions = (len(rows) for rows in snapshot.rows.values())
        rows = f"{assets} assets, {positions} positions, {snapshot.mode or 'no'} mode"
        used = gateway.exchange.address.used
        show(Finding(subject, "ok", f"credential {cache.source.fingerprint}, {rows}, used weight {used}"))
    subject = f"key {cache.account}"
    if gateway.config.settings.exchange.wallet_url is None:
        show(Finding(subject, "skip", "skipped: no exchange.wallet_url"))
        return
    try:
        credential = read_credential(cache.account, gateway.config.settings.accounts[cache.account])
        restrictions = await wallet.restrictions(credential)
    except SettingsError as exc:
        show(Finding(subject, "fail", str(exc)))
        return
    except ExchangeError as exc:
        # A warning only: the gateway serves without the wallet API, which has troubles of its own.
        show(Finding(subject, "warn", f"the wallet API didn't tell what the key may do: {_explain(exc)}"))
        return
    for verdict, text in key_permissions(restrictions):
        show(Finding(subject, verdict, text))


def _explain(error: ExchangeError) -> str:
    until = f" (until {timestamp(error.failure.retry_at)})" if error.failure.retry_at else ""
    return f"{error.problem}: {error.detail}{until}"
