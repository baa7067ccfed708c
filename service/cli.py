"""The command line. Errors are one line on stderr, never a traceback, never a secret.

Exit status: 0 done, 1 a check failed or a port can't be had, 2 bad usage or settings.
"""

# `serve` reads the settings with `reload.read`, which also keeps the files' digests: the `Reloader` starts from exactly
# what the gateway was built from. The other commands end soon, and use `settings_file.load`. Either way the error that
# comes back names a key and no file; the file's path is put before it here.
#
# Only `serve` logs to stdout. The other commands' stdout is their result, and only their own text is wanted.

import asyncio
import logging
import os
import re
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import msgspec
import structlog
import uvloop

import service
from service import check as checks
from service import ending
from service.access import tokens
from service.addresses import is_host
from service.app import App, create_app
from service.check import Finding
from service.ending import Ending
from service.reload import Reloader, read
from service.server import ListenError, Stop, longest_end
from service.server import serve as serve_app
from service.settings import NAME_PATTERN, Settings
from service.settings_file import SettingsError, load
from service.store.guard import RedisUnavailableError
from service.telemetry import logs, sinks
from service.web import docs

log = structlog.get_logger("coinm.process")

T = TypeVar("T")

CONFIG = click.option(
    "--config",
    "config",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="COINM_GATEWAY_CONFIG",
    default=Path("gateway.toml"),
    show_default=True,
    show_envvar=True,
    help="The settings file.",
)


class UsageFault(click.ClickException):
    """Bad usage, in one line that doesn't quote what was given, for that may be a token. Click's own messages do."""

    exit_code = 2

    def show(self, file: Any = None) -> None:
        click.echo(f"coinm-gateway: {self.message}", file=file, err=True)


class Commands(click.Group):
    """The commands; any bad usage of them is a `UsageFault`."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _unquoted():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with _unquoted():
            return super().invoke(ctx)


@contextmanager
def _unquoted() -> Iterator[None]:
    """Raise click's usage errors as `UsageFault`."""
    try:
        yield
    except click.UsageError as exc:
        if type(exc).__name__ == "NoArgsIsHelpError":  # it shows the help; click 8.1 has no such class to import
            raise
        command = exc.ctx.command_path if exc.ctx else "coinm-gateway"
        raise UsageFault(f"{_fault(exc)}; see {command} --help") from None


def _fault(exc: click.UsageError) -> str:
    """The error in words of ours; only names of our own options are shown."""
    match exc:
        case click.MissingParameter(param=click.Parameter() as param):
            return f"{_name(param)} is missing"
        case click.BadParameter(param=click.Parameter() as param):
            return f"{_name(param)}: expected another value"
        case click.BadOptionUsage():
            return "an option lacks its value, or has one and takes none"
        case click.NoSuchOption(possibilities=list() as near) if near:
            return f"unknown option: did you mean {' or '.join(near)}?"
        case click.NoSuchOption():
            return "unknown option"
        case _:
            return "unknown command, or too many arguments"


def _name(param: click.Parameter) -> str:
    return param.opts[0] if isinstance(param, click.Option) else param.human_readable_name


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(service.__version__, prog_name="coinm-gateway")
def main() -> None:
    """One internal REST service for a Binance COIN-M account: it holds the key, asks once, and serves everyone."""


@main.command()
@CONFIG
@click.option("--host", help="Listen here instead of server.host.")
@click.option("--port", type=click.IntRange(0, 65535), help="Listen here instead of server.port.")
def serve(config: Path, host: str | None, port: int | None) -> None:
    """Run the gateway: one process, one event loop. SIGTERM drains and ends it."""
    ending.begin()  # at the latest: `service.entry` has done it already
    loaded = _load(config, read)
    overrides = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    if host is not None and not is_host(host):
        _fail("--host: expected an IP address or a host's name", 2)
    server = msgspec.structs.replace(loaded.settings.server, **overrides)
    settings = msgspec.structs.replace(loaded.settings, server=server)
    audit_fault = sinks.fault(settings.audit.file) if settings.audit and settings.audit.file else None
    if audit_fault is not None:  # before anything is opened: a gateway that must audit doesn't start without it
        _fail(f"{config}: audit.file: {audit_fault}", 2)
    app = _create(config, settings)
    gateway = app.gateway
    status = 0
    try:
        dropped = gateway.metrics.log_lines_dropped.inc
        with (
            logs.logging_to(sys.stdout, redactor=gateway.redactor, on_drop=dropped),
            logs.stray_output_logged(),
        ):
            status = _serve(app, Reloader(gateway, config, loaded))
    except ListenError as exc:
        _fail(str(exc), 1)
    except SettingsError as exc:
        _fail(f"{config}: {exc}", 2)
    # Not `sys.exit`: the interpreter's end waits for every thread, and one may hang in the look-up of a name.
    os._exit(status)


@main.command()
@CONFIG
def check(config: Path) -> None:
    """Try everything the gateway will need: settings, secrets, Redis, the exchange, one signed call an account."""
    settings = _load(config, load)
    app = _create(config, settings)
    findings: list[Finding] = []

    # Shown at once: a check of many accounts, or of a slow network, takes a while.
    def show(finding: Finding) -> None:
        findings.append(finding)
        click.echo(checks.line(finding))

    with _silence():
        _run(checks.run(app.gateway, config, show))
    if any(finding.verdict == "fail" for finding in findings):
        sys.exit(1)


@main.command()
@click.argument("name")
def token(name: str) -> None:
    """Make a bearer token for client NAME: the token once, and the TOML to paste, which holds only its hash."""
    if not re.fullmatch(NAME_PATTERN, name):
        _fail("NAME: expected lower-case letters, digits and -, 63 at the most", 2)
    new_token = tokens.generate()
    # Only what a script may want goes to stdout: the token, then the TOML.
    click.echo("The token, shown this once (for the client's own secret store):\n", err=True)
    click.echo(new_token)
    click.echo("\nFor the settings file; add the digest to the list while an older token is still in use:\n", err=True)
    click.echo(f'[clients.{name}]\ntoken_sha256 = ["{tokens.digest(new_token.encode())}"]')


@main.command()
@CONFIG
@click.option("--account", help="Only this account and the address; without it, every account.")
def resume(config: Path, account: str | None) -> None:
    """Forget what stands in the way in Redis: a ban, a rejected credential, failures, a stuck lease, a replaced key."""
    settings = _load(config, load)
    if account is not None and account not in settings.accounts:
        _fail(f"--account: expected one of {', '.join(settings.accounts)}", 2)
    app = _create(config, settings)
    try:
        with _silence():
            cleared = _run(checks.resume(app.gateway, [account] if account else list(settings.accounts)))
    except RedisUnavailableError as exc:
        _fail(f"Redis: {exc}; nothing was cleared", 1)
    for text in cleared or ["nothing was remembered"]:
        click.echo(text)


@main.command()
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file ending in .yaml, .yml or .json; else stdout.",
)
def openapi(output: Path | None) -> None:
    """Write the OpenAPI document: JSON or YAML by the file's ending, YAML on stdout."""
    form = output.suffix if output else ".yaml"
    if form not in (".yaml", ".yml", ".json"):
        _fail("--output: expected a name ending in .yaml, .yml or .json", 2)
    content = docs.document_bytes(json=form == ".json")
    if output is None:
        click.echo(content, nl=False)
        return
    try:
        output.write_bytes(content)
    except OSError as exc:
        _fail(f"--output: {output}: {exc.strerror}", 1)


def _serve(app: App, reloader: Reloader) -> int:
    """Serve to the end, and follow the files as they change; returns the exit status.

    Raises:
        ListenError: a port can't be had.
        SettingsError: the TLS files are not what is expected.
    """
    # The loop is never closed: closing waits for its threads, and one may hang in the look-up of a name.
    loop, gateway = uvloop.new_event_loop(), app.gateway
    asyncio.set_event_loop(loop)

    async def run() -> None:
        stop = Stop()
        # Called by threads of `ending`. The first two run in the loop; the third must not: the loop may be what hangs.
        ending.serve(
            Ending(
                longest_end(gateway.config.settings),
                on_signal=lambda: loop.call_soon_threadsafe(stop.request),
                on_hangup=lambda: loop.call_soon_threadsafe(reloader.trigger),
                on_forced=lambda seconds: log.error("end_forced", seconds=seconds),
            )
        )
        await serve_app(app, reloader.watch, stop=stop)

    try:
        loop.run_until_complete(run())
    except (ListenError, SettingsError):
        raise
    except Exception as exc:  # a bug
        log.critical("serving_fault", exc_info=exc)
        click.echo(f"coinm-gateway: a fault of the gateway: {type(exc).__name__}; its log has more", err=True)
        return 1
    return 1 if gateway.audit is not None and gateway.audit.lost else 0


def _load(config: Path, reader: Callable[[Path], T]) -> T:
    try:
        return reader(config)
    except SettingsError as exc:
        _fail(f"{config}: {exc}", 2)


def _create(config: Path, settings: Settings) -> App:
    try:
        return create_app(settings)
    except SettingsError as exc:
        _fail(f"{config}: {exc}", 2)


def _run(main: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def _silence() -> AbstractContextManager[None]:
    """For commands that report by their own output."""
    return logs.logging_to(sys.stderr, level=logging.CRITICAL)


def _fail(message: str, status: int) -> NoReturn:
    click.echo(f"coinm-gateway: {message}", err=True)
    sys.exit(status)
