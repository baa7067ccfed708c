"""The ASGI server in our own process and loop, and how it ends.

granian, embedded: its supervised mode closes the listener at SIGTERM before the app hears of it. This file is the
only one that knows it, so that another server is one file away.
"""

import asyncio
import signal
import socket
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import structlog
from granian.constants import HTTPModes, Interfaces
from granian.log import LogLevels
from granian.server.embed import Server
from prometheus_client import CollectorRegistry, start_http_server

import service
from service import process
from service.app import App
from service.cache.flight import end
from service.settings import Server as ServerSettings
from service.settings import effective
from service.settings_file import SettingsError

log = structlog.get_logger("coinm.server")

_SERVER_LOGS = {
    "formatters": {},
    "handlers": {},
    # Errors alone, through our own queue: its warning is that embedding is experimental, at every start.
    "loggers": {"_granian": {"level": "ERROR", "propagate": True}},
}
BACKLOG = 1024
"""Connections that wait to be accepted: a burst of callers, while the loop is busy with the one before."""
CONCURRENT_REQUESTS = 10_000
"""Requests under way. granian's own 128 would let so many waiters for one slow refresh shut out everybody else, health
probes too; ours cost some kilobytes each, and wait no longer than a refresh and 3 s."""
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class ListenError(Exception):
    """A port can't be had."""


Duty: TypeAlias = Callable[[], Coroutine[Any, Any, None]]
"""What a process does beside serving, for as long as it serves; ends only by being cancelled."""


async def serve(app: App, *duties: Duty) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Raises:
        ListenError: a port can't be had.
        SettingsError: the TLS files are not what is expected.
    """
    settings, stop, loop = app.gateway.settings.server, asyncio.Event(), asyncio.get_running_loop()
    process.schedule(settings.scheduling)
    with _metrics_server(settings, app.gateway.metrics.registry):
        for number in SIGNALS:
            loop.add_signal_handler(number, stop.set)
        try:
            await _serve(app, stop, duties)
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)


async def _serve(app: App, stop: asyncio.Event, duties: Iterable[Duty]) -> None:
    settings = app.gateway.settings.server
    _require_free(settings)
    server = _server(app, settings)
    serving = asyncio.create_task(server.serve())
    stopping, beside = asyncio.create_task(stop.wait()), [asyncio.create_task(_do(duty)) for duty in duties]
    log.info("starting", version=service.__version__, settings=effective(app.gateway.settings))
    async with app.duties():
        process.freeze()
        await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            await _drain(app, settings.drain.seconds, stop)
        for task in beside:
            await end(task)
    if not serving.done():
        server.stop()  # type: ignore[no-untyped-call]  # granian leaves it so
    stopping.cancel()
    try:
        await serving
    except OSError as exc:
        raise ListenError(f"cannot listen on {settings.host}:{settings.port}: {exc.strerror or exc}") from None
    log.info("stopped")


async def _do(duty: Duty) -> None:
    """Whatever becomes of a duty, the gateway serves; that it ended is told."""
    try:
        await duty()
    except Exception:
        log.exception("duty_fault")


async def _drain(app: App, seconds: float, stop: asyncio.Event) -> None:
    """Not ready, and `Connection: close` on every answer, for as long as balancers take to notice.

    A second signal ends the wait, for whoever watches a terminal.
    """
    app.gateway.draining = True
    log.info("draining", seconds=seconds)
    stop.clear()
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return


def _server(app: App, settings: ServerSettings) -> Server:
    files = settings.tls_certificate_file, settings.tls_key_file
    try:
        return _granian(app, settings)
    except OSError as exc:  # ssl.SSLError is one
        raise SettingsError(f"{files[0]}: expected a certificate, with its key in {files[1]} ({exc})") from None


def _granian(app: App, settings: ServerSettings) -> Server:
    return Server(
        app,
        address=_address(settings.host),
        port=settings.port,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,  # `Connection: close` is how callers are told to go elsewhere; HTTP/2 forbids it
        websockets=False,
        backlog=BACKLOG,
        backpressure=CONCURRENT_REQUESTS,
        log_level=LogLevels.error,
        log_dictconfig=_SERVER_LOGS,
        ssl_cert=settings.tls_certificate_file,
        ssl_key=settings.tls_key_file,
    )


def _require_free(settings: ServerSettings) -> None:
    """Refuse a port that somebody listens on.

    granian shares its port with whoever shares theirs (SO_REUSEPORT), so that two gateways would take each other's
    callers unnoticed, and panics where nobody does.
    """
    address = _address(settings.host)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that is only lingering is free
        try:
            probe.bind((address, settings.port))
        except OSError as exc:
            raise ListenError(
                f"server.port: cannot listen on {settings.host}:{settings.port}: {exc.strerror}"
            ) from None


def _address(host: str) -> str:
    """The IP address of a host name: granian takes nothing else."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as exc:
        raise ListenError(f"cannot listen on {host}: {exc.strerror}") from None
    return str(found[0][4][0])


@contextmanager
def _metrics_server(settings: ServerSettings, registry: CollectorRegistry) -> Iterator[None]:
    """Prometheus on its own port and thread, so that callers' network policy and its own can differ."""
    if settings.metrics_port == 0:
        yield
        return
    try:
        server, thread = start_http_server(settings.metrics_port, settings.host, registry)
    except OSError as exc:
        where = f"{settings.host}:{settings.metrics_port}"
        raise ListenError(f"server.metrics_port: cannot listen on {where}: {exc.strerror}") from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
