"""Settings and secrets that change while the gateway runs: taken over whole, or not at all.

Clients, grants, accounts and their credentials take effect; what needs a restart is named. The files' folders are
watched, not the files: a mounted Secret changes by a swap of symbolic links, which a file's own watch hears once and
never again. For what no watch tells, the files are read every 30 s besides.
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

from service.cache.flight import end
from service.cache.keeper import SnapshotKeeper
from service.exchange.signing import Credential, read_credential
from service.gateway import Gateway
from service.settings import Secret, Settings
from service.settings_file import SettingsError, load, secrets_of
from service.wiring import clients_of, keeper_of, rates_of, windows_of

log = structlog.get_logger("coinm.settings")

INTERVAL = 30.0
"""Seconds between looks at the files whatever the watch says; kubelet itself syncs once a minute."""

READS = 3
"""Of files that change under our eyes: half of the old and half of the new must not be taken for a pair."""

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
        credentials = {name: read_credential(account) for name, account in settings.accounts.items()}
        reading = Reading(settings, credentials, tuple(secrets_of(settings)), files)
        if load(path) == settings and _files(path, settings) == files:
            return reading
    raise SettingsError(f"{path}: expected files that stand still; they changed while they were read")


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

    def hurry(self) -> None:
        """Look now."""
        self._hurry.set()

    async def look(self) -> None:
        """Read the files; what they say anew is taken over, or refused and told."""
        try:
            reading = await asyncio.to_thread(read, self._path)
        except SettingsError as exc:
            self._refuse(str(exc))
            return
        self._refused = ""
        changed = changes(self._reading, reading)
        if changed:
            self._gateway.redactor.learn(reading.secrets)  # before anything can show them
            await self._apply(reading, changed)

    async def watch(self) -> None:
        """Look whenever something changes, and now and then; ends only by being cancelled."""
        try:
            while True:
                self._hurry.clear()
                await self._look_in_any_case()
                await self._follow()
        finally:
            for task in list(self._retiring):
                await end(task)

    async def _look_in_any_case(self) -> None:
        """A bug must not end the watch; what it says may quote a file, so only its kind is told."""
        try:
            await self.look()
        except Exception as exc:  # noqa: BLE001 - whatever it is
            log.error("settings_fault", kind=type(exc).__name__)  # noqa: TRY400 - no traceback, for it may quote too

    async def _follow(self) -> None:
        """Look at every change in the files' folders, until the folders are others or somebody is in a hurry."""
        folders = self._folders
        watching = awatch(
            *folders,
            watch_filter=None,
            recursive=False,
            rust_timeout=int(INTERVAL * 1000),
            yield_on_timeout=True,
            stop_event=self._hurry,
        )
        try:
            async with aclosing(watching):
                async for _ in watching:
                    await self._look_in_any_case()
                    if self._folders != folders:
                        return
        except Exception as exc:  # noqa: BLE001 - a folder is gone, the kernel has no watches left: it has many names
            log.warning("settings_not_watched", kind=type(exc).__name__)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(INTERVAL):
                    await self._hurry.wait()

    @property
    def _folders(self) -> set[Path]:
        return {file.parent for file in (self._path, *_paths(self._reading.settings).values())}

    def _refuse(self, error: str) -> None:
        """Say it once, and go on with what is in force."""
        if error != self._refused:
            self._refused = error
            self._gateway.metrics.reloads.labels("refused").inc()
            log.error("settings_refused", error=error, in_force=self._reading.fingerprint)

    async def _apply(self, reading: Reading, changed: list[str]) -> None:
        gone = self._replace(reading)
        self._reading = reading
        for keeper in gone:
            task = asyncio.create_task(keeper.retire())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
        for name, credential in reading.credentials.items():
            keeper = self._gateway.keepers[name]
            await keeper.rotation.propose(self._gateway.tenure(name, credential))
        self._gateway.metrics.reloads.labels("applied").inc()
        log.info(
            "settings_reloaded",
            settings=reading.fingerprint,
            changed=changed,
            needs_restart=[key for key in changed if key.partition(".")[0] not in TAKES_EFFECT],
            credentials={name: credential.fingerprint for name, credential in reading.credentials.items()},
        )

    def _replace(self, reading: Reading) -> list[SnapshotKeeper]:
        """Put the settings in force, all in one step of the event loop; the keepers that nobody needs any more."""
        gateway, new = self._gateway, reading.settings
        settings = replace(gateway.settings, accounts=new.accounts, clients=new.clients, freshness=new.freshness)
        keepers = {
            name: gateway.keepers.get(name) or keeper_of(gateway, settings, name, credential)
            for name, credential in reading.credentials.items()
        }
        gone = [keeper for name, keeper in gateway.keepers.items() if name not in keepers]
        for name, keeper in keepers.items():
            keeper.change(windows_of(settings, name))
        gateway.settings, gateway.clients, gateway.keepers = settings, clients_of(settings), keepers
        gateway.limits.change(rates_of(settings), settings.exchange.expected_replicas)
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
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as exc:
        return f"unreadable: {exc.strerror}"


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
