"""Settings and secrets that change while the gateway runs: taken over whole, or not at all.

Clients, grants, accounts and their credentials take effect; what needs a restart is named. The files' folders are
watched, not the files: a mounted Secret changes by a swap of symbolic links, which a file's own watch reports once and
never again. Only events on the file itself, or on a link that leads to it, count: a log that is written beside the
settings changes nothing. For what no watch reports, the files are read every 30 s besides, however busy their folders.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import msgspec
import structlog
from msgspec.structs import replace
from watchfiles import awatch

from service.cache.account_cache import AccountCache
from service.cache.flight import cancel_and_wait
from service.exchange.signing import Credential, read_credential
from service.files import MAX_FILE, FileError, read_bounded
from service.gateway import Gateway
from service.settings import Secret, Settings
from service.settings_file import SettingsError, load, secrets_of
from service.wiring import cache_of, clients_of, rates_of, windows_of

log = structlog.get_logger("coinm.settings")

INTERVAL = 30.0
"""Seconds between looks at the files whatever the watch says; kubelet itself syncs once a minute."""

READS = 3
"""Of files that change under our eyes: half of the old and half of the new must not be taken for a pair."""

MAX_LINKS = 40
"""On the way to a file; Linux follows no more either."""

TAKES_EFFECT = frozenset({"accounts", "clients", "freshness"})
"""The tables that may change; the others are built into connections and listeners."""

_READ_ANEW = frozenset({"kubernetes.token_file"})
"""Files whose readers look for themselves."""


class Reading(msgspec.Struct, frozen=True):
    """All that the files say at one moment."""

    settings: Settings
    credentials: Mapping[str, Credential]
    secrets: tuple[Secret, ...]
    files: Mapping[str, str]
    """The key that names a file to a digest of its content; the settings file itself under ``."""

    @property
    def fingerprint(self) -> str:
        """Of the settings file."""
        return self.files[""][:8]


def read(path: Path) -> Reading:
    """Read the settings and every file that they name, all of one moment.

    Raises:
        SettingsError: one of them is not what is expected, or they don't stop changing.
    """
    for _ in range(READS):
        settings = load(path)
        files = _files(path, settings)
        credentials = {name: read_credential(name, account) for name, account in settings.accounts.items()}
        reading = Reading(settings, credentials, tuple(secrets_of(settings)), files)
        if load(path) == settings and _files(path, settings) == files:
            return reading
    raise SettingsError("expected files that stand still; they changed while they were read")


def changes(before: Reading, after: Reading) -> list[str]:
    """The keys that differ, by their own values or by the content of the files they name; never a value."""
    keys = _differing("", _plain(before.settings), _plain(after.settings))
    names = sorted((before.files.keys() | after.files.keys()) - {""})
    return sorted({*keys, *(name for name in names if before.files.get(name) != after.files.get(name))})


class Reloader:
    """Looks at the files, and changes a running gateway.

    Args:
        gateway: what is changed.
        path: the settings file.
        reading: what it said when the gateway was built.
    """

    def __init__(self, gateway: Gateway, path: Path, reading: Reading) -> None:
        self._gateway = gateway
        self._path = path
        self._reading = reading
        self._refused = ""
        self._hurry = asyncio.Event()
        self._retiring: set[asyncio.Task[None]] = set()
        gateway.metrics.gauge(
            "settings_refused", "Whether the files say something that was refused.", lambda: bool(self._refused)
        )

    def trigger(self) -> None:
        """Check now."""
        self._hurry.set()

    async def look(self) -> None:
        """Read the files; what they say anew is taken over, or refused and told. Never raises: what was in force stays.

        Of an error that nobody foresaw only the kind is told, for its text may quote a file.
        """
        try:
            reading = await asyncio.to_thread(read, self._path)
            changed = changes(self._reading, reading)
            if changed:
                self._gateway.redactor.learn(reading.secrets)  # before anything can show them
                await self._apply(reading, changed)
            self._refused = ""
        except SettingsError as exc:
            self._refuse("settings_refused", str(exc))
        except Exception as exc:  # noqa: BLE001 - whatever it is
            self._refuse("settings_fault", type(exc).__name__)

    async def watch(self) -> None:
        """Look whenever something changes, and now and then; ends only by being cancelled."""
        paths: frozenset[Path] = frozenset()
        watching: asyncio.Task[None] | None = None
        try:
            while True:
                if watching is None or watching.done() or paths != self._decisive:
                    if watching is not None:
                        await cancel_and_wait(watching)
                    paths = self._decisive
                    watching = asyncio.create_task(self._notice(paths))
                    await asyncio.sleep(0)  # it watches by the time the files are read: no change is lost between
                self._hurry.clear()
                await self.look()
                if paths != self._decisive:
                    continue  # the settings name other files, or a link leads elsewhere
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(INTERVAL):
                        await self._hurry.wait()
        finally:
            for task in [*self._retiring, *([watching] if watching else [])]:
                await cancel_and_wait(task)

    async def _notice(self, paths: frozenset[Path]) -> None:
        """Have the files looked at whenever one of these paths changes."""
        events = awatch(
            *{path.parent for path in paths},
            watch_filter=lambda _, path: Path(path) in paths,
            recursive=False,
            stop_event=asyncio.Event(),
        )
        try:
            async with aclosing(events):
                async for _ in events:
                    self._hurry.set()
        except Exception as exc:  # noqa: BLE001 - a folder is gone, the kernel has no watches left: it has many names
            log.warning("settings_not_watched", kind=type(exc).__name__)

    @property
    def _decisive(self) -> frozenset[Path]:
        """What a change of any of the files goes through."""
        files = (self._path, *_paths(self._reading.settings).values())
        return frozenset(path for file in files for path in decisive(file))

    def _refuse(self, event: str, error: str) -> None:
        """Say it once, and go on with what is in force."""
        if error != self._refused:
            self._refused = error
            self._gateway.metrics.reloads.labels("refused").inc()
            log.error(event, file=str(self._path), error=error, in_force=self._reading.fingerprint)

    async def _apply(self, reading: Reading, changed: list[str]) -> None:
        gone = self._replace(reading)
        for cache in gone:
            task = asyncio.create_task(cache.drain())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
        for name, credential in reading.credentials.items():
            cache = self._gateway.caches[name]
            await cache.rotation.propose(self._gateway.open_credential(name, credential))
        self._reading = reading  # not before: what failed half-way is tried again
        self._gateway.metrics.reloads.labels("applied").inc()
        log.info(
            "settings_reloaded",
            settings=reading.fingerprint,
            changed=changed,
            needs_restart=[key for key in changed if key.partition(".")[0] not in TAKES_EFFECT],
            credentials={name: credential.fingerprint for name, credential in reading.credentials.items()},
        )

    def _replace(self, reading: Reading) -> list[AccountCache]:
        """Put the settings in force, all in one step of the event loop; the caches that nobody needs any more."""
        gateway, new = self._gateway, reading.settings
        settings = replace(gateway.settings, accounts=new.accounts, clients=new.clients, freshness=new.freshness)
        caches = {
            name: gateway.caches.get(name) or cache_of(gateway, settings, name, credential)
            for name, credential in reading.credentials.items()
        }
        gone = [cache for name, cache in gateway.caches.items() if name not in caches]
        for name, cache in caches.items():
            cache.reconfigure(windows_of(settings, name))
        gateway.settings, gateway.clients, gateway.caches = settings, clients_of(settings), caches
        gateway.limits.reconfigure(rates_of(settings), settings.exchange.expected_replicas)
        return gone


def _plain(settings: Settings) -> Any:
    return msgspec.to_builtins(settings, enc_hook=str)


def _paths(settings: Settings) -> dict[str, Path]:
    """Every file that the settings name, by the key that names it."""
    leaves = _leaves("", _plain(settings))
    return {key: Path(value) for key, value in leaves if key.endswith("_file") and value and key not in _READ_ANEW}


def _leaves(where: str, value: Any) -> Iterable[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(where, value)]
    tables = cast("dict[str, Any]", value)
    return [leaf for key, each in tables.items() for leaf in _leaves(f"{where}.{key}".lstrip("."), each)]


def _files(path: Path, settings: Settings) -> dict[str, str]:
    """A digest of each file's content, also of those that can't be read: that may change too."""
    return {key: _digest(file) for key, file in {"": path, **_paths(settings)}.items()}


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(read_bounded(file, MAX_FILE)).hexdigest()
    except FileError as exc:
        return f"unreadable: {exc}"


def decisive(file: Path) -> set[Path]:
    """The paths by which a file can become another: its own, and every symbolic link on the way to it.

    Their folders are without links, as a watch on them reports what happens there.
    """
    found: set[Path] = set()
    ahead, place, links = [*reversed(file.absolute().parts)], Path("/"), 0
    while ahead and links <= MAX_LINKS:
        part = ahead.pop()
        here = {"/": Path("/"), "..": place.parent}.get(part, place / part)
        try:
            target = here.readlink()
        except OSError:
            place = here  # no link, or nothing there yet
            continue
        found.add(here)
        links += 1
        ahead += reversed(target.parts)  # of an absolute one the first is `/`
    return {*found, place}


def _differing(where: str, before: Any, after: Any) -> list[str]:
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*cast("dict[str, Any]", before), *(key for key in cast("dict[str, Any]", after) if key not in before)]
        missing = object()
        return [
            name
            for key in keys
            for name in _differing(f"{where}.{key}".lstrip("."), before.get(key, missing), after.get(key, missing))
        ]
    return [] if before == after else [where]
