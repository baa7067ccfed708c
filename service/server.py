"""The ASGI server in our own process and loop, and how it ends.

granian, embedded: its supervised mode closes the listener at SIGTERM before the app hears of it. This file is the
only one that knows it, so that another server is one file away.

What granian does, which the rest relies on (its `workers.rs`, and measured):

- `backpressure` bounds connections, not requests: a permit is taken before each `accept`, and given back when the
  connection ends. At the bound it stops accepting; more callers wait in the kernel's queue. Where `accept` fails for
  want of descriptors it tries again at once, with a core at 100 %: the bound must stay below their limit.
- By TLS a connection takes its permit after the handshake, for which it has 10 s; how many are about to is not bounded.
  So descriptors are counted, and where too many are in use the kernel drops who wants to connect (`Gate`).
- A request head has 30 s to arrive, counted from the connection's or the last answer's end.
- An answer that nobody reads has no limit of its own: the kernel ends it after `UNREAD`.
- `stop()` closes the listener and what is idle, and waits for the rest without a limit.
"""

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
from service.cache.refresher import GRACE
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
"""Connections that wait to be accepted: a burst of callers, while the loop is busy with the one before."""
UNREAD = 30_000
"""Ms for which a caller may leave bytes of its answer unread (TCP_USER_TIMEOUT); a request has as long to arrive."""
CLEANUP = 2.0
"""Seconds for what comes after the last read: leases given back, audit and log written."""
HURRIED = 0.5
"""Seconds that requests under way have after a second signal; the process has `ending.HURRY` in all."""
LOOK = 0.25
"""Seconds between two looks at the queue of connections; unless the bound is reached it is emptied at once."""
LOOK_AT_DESCRIPTORS = 0.02
"""Seconds between two looks at how many are in use: some 1,000 connections can be accepted meanwhile."""
_ATTACH_FILTER, _DETACH_FILTER = 26, 27  # SO_ATTACH_FILTER and SO_DETACH_FILTER, which Python doesn't name
_DROP = struct.pack("HBBI", 0x06, 0, 0, 0)
"""A socket filter (BPF) of one instruction: keep no byte of a packet."""


class ListenError(Exception):
    """A port can't be had, or connections can't."""


Duty: TypeAlias = Callable[[], Coroutine[Any, Any, None]]
"""What a process does beside serving, for as long as it serves; ends only by being cancelled."""


class Stop:
    """What the process has been told: to end, and then to trigger."""

    def __init__(self) -> None:
        self.told = asyncio.Event()
        self.hurried = asyncio.Event()

    def tell(self) -> None:
        (self.hurried if self.told.is_set() else self.told).set()


def longest_read(settings: Settings) -> float:
    """Seconds that a read may wait at the most."""
    return settings.exchange.timeout.seconds + GRACE


def longest_end(settings: Settings) -> float:
    """Seconds from the signal to the end of the process, at the most."""
    return settings.server.drain.seconds + longest_read(settings) + CLEANUP


async def serve(app: App, *duties: Duty, stop: Stop) -> None:
    """Serve until told to stop, then drain.

    Raises:
        ListenError: a port can't be had, or the limit of open files is too low.
        SettingsError: the TLS files are not what is expected.
    """
    gateway = app.gateway
    settings = gateway.settings.server
    require_pair(settings)
    process.schedule(settings.scheduling)
    files, encrypted = process.open_files(), settings.tls_certificate_file is not None
    limit = process.connections(files, encrypted=encrypted)
    if limit is None:
        raise ListenError(process.too_few(files, encrypted=encrypted))
    address = _address(settings.host)
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(_listen(address, settings.port, settings.host, "server.port"))
        beside: AbstractAsyncContextManager[None] = contextlib.nullcontext()
        if settings.metrics_port:
            socket_beside = _listen(address, settings.metrics_port, settings.host, "server.metrics_port")
            beside = metrics_port.serving(sockets.enter_context(socket_beside), gateway)
        server = _granian(app, settings, listener, limit)
        gateway.connection_limit = limit
        gate = Gate(listener, process.most_open(files, encrypted=True)) if encrypted else None
        if limit < process.FEW_CONNECTIONS:
            log.warning("connection_limit_low", connections=limit)
        async with beside:
            own = partial(_announce, gateway), partial(_watch_connections, gateway, listener, gate)
            await _serve(app, server, listener, stop, [*own, *duties])


async def _serve(app: App, server: Server, listener: socket.socket, stop: Stop, duties: Iterable[Duty]) -> None:
    settings = app.gateway.settings
    async with app.lifespan():
        serving = asyncio.create_task(server.serve())
        stopping, beside = asyncio.create_task(stop.told.wait()), [asyncio.create_task(_do(duty)) for duty in duties]
        async with app.duties():
            process.freeze()
            await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()
                raise RuntimeError("the server ended by itself")
            await _drain(app, settings.server.drain.seconds, stop)
            for task in beside:
                await cancel_and_wait(task)
        stopping.cancel()
        listener.close()  # granian's is a duplicate: both must go
        server.stop()  # type: ignore[no-untyped-call]  # granian leaves it so
        await _answered(serving, longest_read(settings), stop)
    log.info("stopped")


async def _announce(gateway: Gateway) -> None:
    """Say in one line where it listens, where the documents are, and how Redis is; nothing waits for that."""
    settings, redis = gateway.settings, "ok"
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


async def _do(duty: Duty) -> None:
    """Whatever becomes of a duty, the gateway serves; that it ended is told."""
    try:
        await duty()
    except Exception:
        log.exception("duty_fault")


async def _drain(app: App, seconds: float, stop: Stop) -> None:
    """Not ready, and `Connection: close` on every answer, for as long as balancers take to notice."""
    app.gateway.draining = True
    log.info("draining", seconds=seconds)
    try:
        await asyncio.wait_for(stop.hurried.wait(), seconds)
    except TimeoutError:
        return


async def _answered(serving: asyncio.Task[None], seconds: float, stop: Stop) -> None:
    """Wait until every request is answered and every connection closed, but no longer than a read may take.

    Who has not taken its answer by then, or never finished its request, is left to the end of the process.
    """
    hurried = asyncio.create_task(stop.hurried.wait())
    await asyncio.wait([serving, hurried], timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    if hurried.done() and not serving.done():
        await asyncio.wait([serving], timeout=HURRIED)
    hurried.cancel()
    if serving.done():
        serving.result()
    else:
        log.warning("connections_left")


class Gate:
    """Shuts a listening socket while too many descriptors are in use: the kernel drops the packets that ask to connect.

    Callers try again by themselves after a second. What is connected is not concerned.
    """

    def __init__(self, listener: socket.socket, most: int) -> None:
        self._listener = listener
        self._most = most
        self._program = ctypes.create_string_buffer(_DROP)
        self.shut = False

    def look(self) -> None:
        full = process.descriptors() > self._most
        if full != self.shut:
            self.shut = full
            program = struct.pack("HP", 1, ctypes.addressof(self._program))
            with contextlib.suppress(OSError):  # not Linux, or a sandbox without filters
                if full:
                    self._listener.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, program)
                else:
                    self._listener.setsockopt(socket.SOL_SOCKET, _DETACH_FILTER, 0)


async def _watch_connections(gateway: Gateway, listener: socket.socket, gate: Gate | None) -> None:
    """Notice that callers' connections have reached their bound, and that they no longer do; say so once each."""
    reached = False
    while True:
        shut = await _pass_time(gate)
        before, gateway.connections_waiting = gateway.connections_waiting, accept_queue(listener) + shut
        if not reached and before and gateway.connections_waiting:
            reached = True
            log.error("connection_limit_reached", connections=gateway.connection_limit)
        elif reached and not before and not gateway.connections_waiting:
            reached = False
            log.warning("connection_limit_left", connections=gateway.connection_limit)


async def _pass_time(gate: Gate | None) -> bool:
    """Wait until the next look at the queue; whether the gate was shut meanwhile."""
    if gate is None:
        await asyncio.sleep(LOOK)
        return False
    shut = False
    for _ in range(round(LOOK / LOOK_AT_DESCRIPTORS)):
        await asyncio.sleep(LOOK_AT_DESCRIPTORS)
        gate.look()
        shut |= gate.shut
    return shut


def accept_queue(listener: socket.socket) -> int:
    """Connections that wait to be accepted: `tcpi_unacked` of a listening socket, which only Linux has."""
    try:
        info = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
    except (OSError, AttributeError):
        return 0
    return int(struct.unpack_from("I", info, 24)[0]) if len(info) >= 28 else 0


class _Granian(Server):
    """With a listening socket of ours: granian's own is shared with whoever asks for the same port (SO_REUSEPORT)."""

    listener: socket.socket

    def _init_shared_socket(self) -> None:
        holder: Any = SocketHolder  # its stub has no arguments
        self._shd = holder(os.dup(self.listener.fileno()), False, BACKLOG)


def _granian(app: App, settings: ServerSettings, listener: socket.socket, limit: int) -> Server:
    server = _Granian(
        app,
        interface=Interfaces.ASGINL,  # the lifespan is ours: its end must not wait for a caller
        http=HTTPModes.http1,  # `Connection: close` is how callers are told to go elsewhere; HTTP/2 forbids it
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
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that is only lingering is free
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # these two are its connections' too
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD)
        listener.bind((address, port))
        listener.listen(BACKLOG)
    except OSError as exc:
        listener.close()
        raise ListenError(f"{key}: cannot listen on {host}:{port}: {exc.strerror}") from None
    listener.setblocking(False)
    return listener


def _address(host: str) -> str:
    """The IP address of a host name."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # the latter of a name that is none
        raise ListenError("server.host: expected an address of this machine, or a name that leads to one") from None
    return str(found[0][4][0])
