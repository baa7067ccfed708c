"""The ASGI server, embedded in our own process and event loop, and how it ends.

granian's supervised mode closes the listener at SIGTERM before the app knows of it, so it is embedded. Only this module
imports granian: another server is one file away.
"""

# What granian does, which the rest relies on (its `workers.rs`, and measured):
#
# - `backpressure` bounds connections, not requests: a permit is taken before each `accept`, and released when the
#   connection ends. At the bound it stops accepting; more callers wait in the kernel's queue. If `accept` fails because
#   no descriptor is left, it retries at once, with a core at 100 %: the bound must stay below the descriptors' limit.
# - With TLS a connection takes its permit after the handshake, for which it has 10 s. The number of handshakes is not
#   bounded. So descriptors are counted, and while too many are in use the kernel drops new callers (`ListenerGate`).
# - A request head has 30 s to arrive, counted from the connection's start or the end of the last answer.
# - An answer that its caller doesn't read has no time limit: the kernel ends it after `UNREAD_MS`.
# - `stop()` closes the listener and idle connections, and waits for the rest without a limit.
#
# How a process ends, in this order:
#
#     serving     the first signal sets `Stop.requested`
#     draining    not ready, `Connection: close` on every answer, for `server.drain`: balancers stop sending callers
#     answering   background tasks end, then the listener closes: open requests have as long as the longest read
#     closing     the app's lifespan ends: leases are released, the audit log and the log are written
#
# A second signal sets `Stop.urgent`: the rest of the drain is skipped, open requests have `URGENT_S`. `service.ending`
# enforces the deadline of it all: `longest_end` after the first signal, one second after a second.

import asyncio
import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, TypeAlias

import structlog
from granian._granian import SocketHolder
from granian.constants import HTTPModes, Interfaces
from granian.log import LogLevels
from granian.server.embed import Server

import service
from service import metrics_port, process
from service.app import App
from service.cache.flight import cancel_and_wait
from service.cache.refresher import GRACE_S
from service.gateway import Gateway
from service.settings import Server as ServerSettings
from service.settings import Settings, effective
from service.store.guard import RedisUnavailableError
from service.tls import require_pair

log = structlog.get_logger("coinm.server")

_SERVER_LOGS = {
    "formatters": {},
    "handlers": {},
    # Errors alone, through our own queue: its warning is that embedding is experimental, at every start.
    "loggers": {"_granian": {"level": "ERROR", "propagate": True}},
}
BACKLOG = 1024
"""Connections that wait to be accepted: a burst of callers while the loop is busy with the burst before."""
UNREAD_MS = 30_000
"""For which a caller may leave bytes of its answer unread (TCP_USER_TIMEOUT); a request has as long to arrive."""
CLEANUP_S = 2.0
"""After the last read: releasing leases, writing the audit log and the log."""
URGENT_S = 0.5
"""For open requests after a second signal; the whole process has `ending.HURRY`."""
QUEUE_INTERVAL_S = 0.25
"""Between two reads of the accept queue's length; below the bound the queue is emptied at once."""
DESCRIPTORS_INTERVAL_S = 0.02
"""Between two counts of the descriptors in use: some 1,000 connections can be accepted meanwhile."""
_ATTACH_FILTER, _DETACH_FILTER = 26, 27  # SO_ATTACH_FILTER and SO_DETACH_FILTER, which Python doesn't name
_DROP = struct.pack("HBBI", 0x06, 0, 0, 0)
"""A socket filter (BPF) of one instruction: keep no byte of a packet."""


class ListenError(Exception):
    """A port can't be had, or connections can't."""


BackgroundTask: TypeAlias = Callable[[], Coroutine[Any, Any, None]]
"""Runs for as long as the process serves; ends only by being cancelled."""


class Stop:
    """Requests to end: the first, and a second that makes it urgent."""

    def __init__(self) -> None:
        self.requested = asyncio.Event()
        self.urgent = asyncio.Event()

    def request(self) -> None:
        (self.urgent if self.requested.is_set() else self.requested).set()


def longest_read(settings: Settings) -> float:
    """Seconds that a read may wait at the most."""
    return settings.exchange.timeout.seconds + GRACE_S


def longest_end(settings: Settings) -> float:
    """Seconds from the signal to the end of the process, at the most."""
    return settings.server.drain.seconds + longest_read(settings) + CLEANUP_S


async def serve(app: App, *background: BackgroundTask, stop: Stop) -> None:
    """Serve until a stop is requested, then drain.

    Raises:
        ListenError: a port can't be had, or the limit of open files is too low.
        SettingsError: the TLS files are not what is expected.
    """
    gateway = app.gateway
    settings = gateway.config.settings.server
    require_pair(settings)
    process.hand_over_soon()
    process.schedule(settings.scheduling)  # before granian's threads begin: they inherit it
    files, encrypted = process.open_files(), settings.tls_certificate_file is not None
    limit = process.connections(files, encrypted=encrypted)
    if limit is None:
        raise ListenError(process.too_few(files, encrypted=encrypted))
    try:
        found = socket.getaddrinfo(settings.host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # UnicodeError: the text can't be a host's name
        raise ListenError("server.host: expected an address of this machine, or a name that leads to one") from None
    address = str(found[0][4][0])
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(_listen(address, settings.port, settings.host, "server.port"))
        metrics: AbstractAsyncContextManager[None] = contextlib.nullcontext()
        if settings.metrics_port:
            metrics_listener = _listen(address, settings.metrics_port, settings.host, "server.metrics_port")
            metrics = metrics_port.serving(sockets.enter_context(metrics_listener), gateway)
        server = _granian(app, settings, listener, limit)
        gateway.connection_limit = limit
        gate = ListenerGate(listener, process.most_open(files, encrypted=True)) if encrypted else None
        if limit < process.FEW_CONNECTIONS:
            log.warning("connection_limit_low", connections=limit)
        async with metrics:  # until the very end: probes and scrapes see the drain
            own = partial(_announce, gateway), partial(_watch_connections, gateway, listener, gate)
            await _serve(app, server, listener, stop, [*own, *background])


async def _serve(
    app: App, server: Server, listener: socket.socket, stop: Stop, background: Iterable[BackgroundTask]
) -> None:
    """The app's lifespan: serving, draining, answering."""
    settings = app.gateway.config.settings
    async with app.lifespan():
        serving, stopping = asyncio.create_task(server.serve()), asyncio.create_task(stop.requested.wait())
        tasks = [asyncio.create_task(_run_logged(each)) for each in background]
        async with app.background_tasks():
            process.freeze()
            await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()
                raise RuntimeError("the server ended by itself")
            app.gateway.draining = True
            log.info("draining", seconds=settings.server.drain.seconds)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.urgent.wait(), settings.server.drain.seconds)
            for task in tasks:
                await cancel_and_wait(task)
        stopping.cancel()
        listener.close()  # granian's is a duplicate: both must go
        server.stop()  # type: ignore[no-untyped-call]  # granian leaves it so
        # No read takes longer than this. A caller that has not taken its answer by then, or never finished its request,
        # is left to the end of the process: `serving` would wait for it without a limit.
        urgent = asyncio.create_task(stop.urgent.wait())
        await asyncio.wait([serving, urgent], timeout=longest_read(settings), return_when=asyncio.FIRST_COMPLETED)
        if urgent.done() and not serving.done():
            await asyncio.wait([serving], timeout=URGENT_S)
        urgent.cancel()
        if serving.done():
            serving.result()
        else:
            log.warning("connections_left")
    log.info("stopped")


async def _announce(gateway: Gateway) -> None:
    """Log in one line where it listens, where the documents are, and how Redis is. Serving doesn't wait for it."""
    settings, redis = gateway.config.settings, "ok"
    log.debug("settings", settings=effective(settings))
    try:
        await gateway.redis.reach()
    except RedisUnavailableError as exc:
        redis = str(exc)
    version, environment = service.__version__, settings.environment
    log.info("starting", version=version, environment=environment, **listening(settings.server), redis=redis)


def listening(settings: ServerSettings) -> dict[str, str]:
    """The addresses of the API, its documents and the metrics."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    url = f"{'https' if settings.tls_key_file else 'http'}://{host}:{settings.port}"
    metrics = {"metrics": f"http://{host}:{settings.metrics_port}/metrics"} if settings.metrics_port else {}
    return {"listening": url, "docs": f"{url}/docs", **metrics}


async def _run_logged(background: BackgroundTask) -> None:
    """Run a background task; if it fails that is logged, and the gateway goes on serving."""
    try:
        await background()
    except Exception:
        log.exception("duty_fault")


class ListenerGate:
    """Shuts a listening socket while too many descriptors are in use: the kernel drops packets that open a connection.

    Callers retry by themselves after a second. Open connections are not concerned.
    """

    def __init__(self, listener: socket.socket, most_descriptors: int) -> None:
        self._listener = listener
        self._most_descriptors = most_descriptors
        self._program = ctypes.create_string_buffer(_DROP)
        self.shut = False

    def update(self) -> None:
        """Shut or open it by the number of descriptors now in use."""
        full = process.descriptors() > self._most_descriptors
        if full != self.shut:
            self.shut = full
            program = struct.pack("HP", 1, ctypes.addressof(self._program))  # struct sock_fprog
            with contextlib.suppress(OSError):  # not Linux, or a sandbox without filters
                if full:
                    self._listener.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, program)
                else:
                    self._listener.setsockopt(socket.SOL_SOCKET, _DETACH_FILTER, 0)


async def _watch_connections(gateway: Gateway, listener: socket.socket, gate: ListenerGate | None) -> None:
    """Log when callers' connections reach their bound, and when they no longer do; once each."""
    reached = False
    while True:
        shut = False
        if gate is None:
            await asyncio.sleep(QUEUE_INTERVAL_S)
        else:
            for _ in range(round(QUEUE_INTERVAL_S / DESCRIPTORS_INTERVAL_S)):
                await asyncio.sleep(DESCRIPTORS_INTERVAL_S)
                gate.update()
                shut |= gate.shut
        # A shut gate counts as a caller that waits: those whose packets it drops are in no queue.
        before, gateway.connections_waiting = gateway.connections_waiting, accept_queue(listener) + shut
        # Two readings in a row decide: one alone may be a burst that is accepted the next moment.
        if not reached and before and gateway.connections_waiting:
            reached = True
            log.error("connection_limit_reached", connections=gateway.connection_limit)
        elif reached and not before and not gateway.connections_waiting:
            reached = False
            log.warning("connection_limit_left", connections=gateway.connection_limit)


def accept_queue(listener: socket.socket) -> int:
    """Connections that wait to be accepted: `tcpi_unacked` of a listening socket, which only Linux has."""
    try:
        info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
    except (OSError, AttributeError):
        return 0
    return int(struct.unpack_from("I", info, 24)[0]) if len(info) >= 28 else 0


class _Granian(Server):
    """With a listening socket of ours: granian's own may be shared by any process on the same port (SO_REUSEPORT)."""

    listener: socket.socket

    def _init_shared_socket(self) -> None:
        holder: Any = SocketHolder  # its stub has no arguments
        self._shd = holder(os.dup(self.listener.fileno()), False, BACKLOG)


def _granian(app: App, settings: ServerSettings, listener: socket.socket, limit: int) -> Server:
    server = _Granian(
        app.edge,
        interface=Interfaces.ASGINL,  # the lifespan is ours: its end must not wait for a caller
        http=HTTPModes.http1,  # `Connection: close` sends callers elsewhere; HTTP/2 forbids it
        websockets=False,
        backlog=BACKLOG,
        backpressure=limit,
        log_level=LogLevels.error,
        log_dictconfig=_SERVER_LOGS,
        ssl_cert=settings.tls_certificate_file,
        ssl_key=settings.tls_key_file,
    )
    server.listener = listener
    return server


def _listen(address: str, port: int, host: str, key: str) -> socket.socket:
    """A socket that listens, alone on its port.

    Raises:
        ListenError: the port can't be had.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted connections inherit these two
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MS)
        listener.bind((address, port))
        listener.listen(BACKLOG)
    except OSError as exc:
        listener.close()
        raise ListenError(f"{key}: cannot listen on {host}:{port}: {exc.strerror}") from None
    listener.setblocking(False)
    return listener
