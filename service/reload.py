"""Settings and secrets that change while the gateway runs: applied as a whole, or not at all.

Clients, grants, accounts, credentials and freshness take effect. A changed key that needs a restart is logged.
"""

# What is swapped in one step: the gateway's `config`, which nothing changes in place. So no request sees the grants of
# one file beside the accounts of another. A read that waits takes them again before it answers: a grant that was
# narrowed meanwhile binds that answer.
# What follows the swap: each credential is proposed to its account's cache. `_loaded` moves last. If a proposal
# raises, the next check finds the same changes and applies them again; a cache that exists already is kept.
#
# What a refused file leaves: settings, clients, caches and credentials as they are. The same refusal is logged and
# counted once; the gauge `settings_refused` is 1 until a check succeeds.
#
# What is watched: the files' folders. A mounted Secret changes by a swap of symbolic links, which a watch on the file
# reports once and never again. Only events on the file itself, or on a link that leads to it, count: a log that is
# written beside the settings triggers nothing. Every `INTERVAL` the files are read for changes that no watch reports.

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

from service.cache.flight import cancel_and_wait
from service.exchange.signing import Credential, read_credential
from service.files import MAX_FILE, FileError, read_bounded
from service.gateway import Gateway
from service.settings import Secret, Settings
from service.settings_file import SettingsError, load, secrets_of
from service.wiring import config_of

log = structlog.get_logger("coinm.settings")

INTERVAL = 30.0
"""Seconds between two checks if no watch reports anything; kubelet itself syncs once a minute."""

READS = 3
"""Attempts to read files that change meanwhile: half of the old and half of the new must not pass for a pair."""

MAX_LINKS = 40
"""Symbolic links followed on the way to a file; Linux follows no more either."""

TAKES_EFFECT = frozenset({"accounts", "clients", "freshness"})
"""The tables that may change; the others are built into connections and listeners."""

_NOT_WATCHED = frozenset({"kubernetes.token_file"})  # its user reads it again by itself


class LoadedConfig(msgspec.Struct, frozen=True):
    """The content of the settings file and of every file that it names, at one moment."""

    settings: Settings
    credentials: Mapping[str, Credential]
    secrets: tuple[Secret, ...]
    files: Mapping[str, str]
    """From the key that names a file to a digest of its content; the settings file itself is under ``."""

    @property
    def fingerprint(self) -> str:
        """Of the settings file."""
        return self.files[""][:8]


def read(path: Path) -> LoadedConfig:
    """Read the settings and every file that they name, all of one moment.

    Raises:
        SettingsError: one of them is not what is expected, or they don't stop changing.
    """
    for _ in range(READS):
        settings = load(path)
        files = _digests(path, settings)
        credentials = {name: read_credential(name, account) for name, account in settings.accounts.items()}
        loaded = LoadedConfig(settings, credentials, tuple(secrets_of(settings)), files)
        # The secrets were read between two equal digests: they belong to these settings, and to each other.
        if load(path) == settings and _digests(path, settings) == files:
            return loaded
    raise SettingsError("expected files that stand still; they changed while they were read")


def changes(before: LoadedConfig, after: LoadedConfig) -> list[str]:
    """The keys that differ, by their own values or by the content of the files they name; never a value."""
    keys = _differing("", _plain(before.settings), _plain(after.settings))
    names = sorted((before.files.keys() | after.files.keys()) - {""})  # a comment in the settings file is no change
    return sorted({*keys, *(name for name in names if before.files.get(name) != after.files.get(name))})


class Reloader:
    """Checks the files, and applies their changes to a running gateway.

    Args:
        gateway: the gateway to change.
        path: the settings file.
        loaded: the content from which the gateway was built.
    """

    def __init__(self, gateway: Gateway, path: Path, loaded: LoadedConfig) -> None:
        self._gateway = gateway
        self._path = path
        self._loaded = loaded
        self._last_error = ""
        self._triggered = asyncio.Event()
        self._draining: set[asyncio.Task[None]] = set()
        gateway.metrics.gauge(
            "settings_refused", "Whether the files say something that was refused.", lambda: bool(self._last_error)
        )

    def trigger(self) -> None:
        """Check now."""
        self._triggered.set()

    async def check_now(self) -> None:
        """Read the files, and apply what has changed or log why it is refused. Never raises."""
        try:
            loaded = await asyncio.to_thread(read, self._path)
            changed = changes(self._loaded, loaded)
            if changed:
                self._gateway.redactor.learn(loaded.secrets)  # before anything can show them
                await self._apply(loaded, changed)
            self._last_error = ""
        except SettingsError as exc:
            self._refuse("settings_refused", str(exc))
        except Exception as exc:  # noqa: BLE001 - of an unforeseen error only the kind is logged: its text may quote a file
            self._refuse("settings_fault", type(exc).__name__)

    async def watch(self) -> None:
        """Check whenever a file changes, and every `INTERVAL`; ends only by being cancelled."""
        paths: frozenset[Path] = frozenset()
        watching: asyncio.Task[None] | None = None
        try:
            while True:
                if watching is None or watching.done() or paths != self._watch_paths:
                    if watching is not None:
                        await cancel_and_wait(watching)
                    paths = self._watch_paths
                    watching = asyncio.create_task(self._watch_folders(paths))
                    # The watch begins before the files are read: a change is in what is read, or is reported.
                    await asyncio.sleep(0)
                # Cleared before the read: a change during the read triggers another.
                self._triggered.clear()
                await self.check_now()
                if paths != self._watch_paths:
                    continue  # the settings name other files, or a link leads elsewhere
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(INTERVAL):
                        await self._triggered.wait()
        finally:
            for task in [*self._draining, *([watching] if watching else [])]:
                await cancel_and_wait(task)

    async def _watch_folders(self, paths: frozenset[Path]) -> None:
        """Trigger a check whenever one of these paths changes."""
        events = awatch(
            *{path.parent for path in paths},
            watch_filter=lambda _, path: Path(path) in paths,
            recursive=False,
            stop_event=asyncio.Event(),
        )
        try:
            async with aclosing(events):
                async for _ in events:
                    self._triggered.set()
        except Exception as exc:  # noqa: BLE001 - a folder is gone, the kernel has no watches left: it has many names
            log.warning("settings_not_watched", kind=type(exc).__name__)

    @property
    def _watch_paths(self) -> frozenset[Path]:
        files = (self._path, *_named_files(self._loaded.settings).values())
        return frozenset(path for file in files for path in watch_paths(file))

    def _refuse(self, event: str, error: str) -> None:
        """Log an error once, and go on with what is in force."""
        if error != self._last_error:
            self._last_error = error
            self._gateway.metrics.reloads.labels("refused").inc()
            log.error(event, file=str(self._path), error=error, in_force=self._loaded.fingerprint)

    async def _apply(self, loaded: LoadedConfig, changed: list[str]) -> None:
        """Put the settings in force, drain the caches of removed accounts, and propose the credentials."""
        # Up to the swap nothing may await.
        gateway, new, before = self._gateway, loaded.settings, self._gateway.config
        settings = replace(before.settings, accounts=new.accounts, clients=new.clients, freshness=new.freshness)
        config = config_of(settings, loaded.credentials, gateway.open_credential, gateway.metrics, before.caches)
        for account, cache in config.caches.items():
            cache.reconfigure(settings.accounts[account].freshness)
        gateway.config = config
        for cache in (cache for account, cache in before.caches.items() if account not in config.caches):
            task = asyncio.create_task(cache.drain())
            self._draining.add(task)
            task.add_done_callback(self._draining.discard)
        for account, credential in loaded.credentials.items():
            await config.caches[account].rotation.propose(gateway.open_credential(account, credential))
        self._loaded = loaded  # not before: if a step above fails, the next check tries all of them again
        gateway.metrics.reloads.labels("applied").inc()
        log.info(
            "settings_reloaded",
            settings=loaded.fingerprint,
            changed=changed,
            needs_restart=[key for key in changed if key.partition(".")[0] not in TAKES_EFFECT],
            credentials={name: credential.fingerprint for name, credential in loaded.credentials.items()},
        )


def _plain(settings: Settings) -> Any:
    return msgspec.to_builtins(settings, enc_hook=str)


def _named_files(settings: Settings) -> dict[str, Path]:
    """Every file that the settings name, by the key that names it."""
    leaves = _leaves("", _plain(settings))
    return {key: Path(value) for key, value in leaves if key.endswith("_file") and value and key not in _NOT_WATCHED}


def _leaves(where: str, value: Any) -> Iterable[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(where, value)]
    tables = cast("dict[str, Any]", value)
    return [leaf for key, each in tables.items() for leaf in _leaves(f"{where}.{key}".lstrip("."), each)]


def _digests(path: Path, settings: Settings) -> dict[str, str]:
    """A digest of each file's content by its key; for an unreadable file its error, which may change too."""
    digests: dict[str, str] = {}
    for key, file in {"": path, **_named_files(settings)}.items():
        try:
            digests[key] = hashlib.sha256(read_bounded(file, MAX_FILE)).hexdigest()
        except FileError as exc:
            digests[key] = f"unreadable: {exc}"
    return digests


def watch_paths(file: Path) -> set[Path]:
    """The paths by which a file can become another: its own, and every symbolic link on the way to it.

    Their folders are without links, as a watch on them reports what happens there.
    """
    found: set[Path] = set()
    remaining, place, links = [*reversed(file.absolute().parts)], Path("/"), 0
    while remaining and links <= MAX_LINKS:
        part = remaining.pop()
        here = {"/": Path("/"), "..": place.parent}.get(part, place / part)
        try:
            target = here.readlink()
        except OSError:
            place = here  # no link, or nothing there yet
            continue
        found.add(here)
        links += 1
        remaining += reversed(target.parts)  # of an absolute one the first is `/`
    return {*found, place}


def _differing(where: str, before: Any, after: Any) -> list[str]:
    """The keys of two nested tables whose values differ, or which only one of them has."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*cast("dict[str, Any]", before), *(key for key in cast("dict[str, Any]", after) if key not in before)]
        missing = object()
        return [
            name
            for key in keys
            for name in _differing(f"{where}.{key}".lstrip("."), before.get(key, missing), after.get(key, missing))
        ]
    return [] if before == after else [where]
