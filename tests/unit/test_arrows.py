"""The direction of the arrows in the design: who may import whom, read from the source itself."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import service

ROOT = Path(service.__file__).parent
FILES = [str(file.relative_to(ROOT)) for file in sorted(ROOT.rglob("*.py"))]

# From the top down: a room imports only what stands below it; all but the domain read what is shared.
ORDER = [
    *("__main__", "entry", "cli", "check", "key_permissions", "reload", "server", "metrics_port", "ending", "process"),
    *("app", "web", "wiring", "gateway"),
    *("kubernetes", "store", "exchange", "bounded_http", "cache", "fleet", "access", "account"),
]
SHARED = {"telemetry", "settings", "settings_file", "addresses", "files", "tls", "clock"}

# `app` and `wiring` join the parts, and so name their libraries' types.
OWNERS = {
    "litestar": {"web", "app"},
    "httpx": {"bounded_http", "exchange", "kubernetes", "app", "wiring"},
    "aiohappyeyeballs": {"bounded_http"},
    "h11": {"bounded_http"},
    "httpcore": set(),  # its connections look into one of the places where bytes can be left over
    "jwt": set(),  # a token's own words are read with the bounds of everything from outside
    "redis": {"store", "app", "wiring"},
    "hiredis": {"store"},
    "watchfiles": {"reload"},
}


def room(file: str) -> str:
    return Path(file).parts[0].removesuffix(".py")


def imports(file: str) -> Iterator[str]:
    for node in ast.walk(ast.parse((ROOT / file).read_text("utf-8"))):
        match node:
            case ast.Import(names):
                yield from (each.name for each in names)
            case ast.ImportFrom(module, names):
                yield from (f"{module}.{each.name}" for each in names)


@pytest.mark.parametrize("file", FILES)
def test_a_room_imports_only_rooms_below(file: str) -> None:
    own = room(file)
    below = set(ORDER[ORDER.index(own) + 1 :]) if own in ORDER else set[str]()
    allowed = below | {own, "__version__"} | (SHARED if own != "account" else set())
    assert {name.split(".")[1] for name in imports(file) if name.startswith("service.")} <= allowed


@pytest.mark.parametrize("file", [file for file in FILES if room(file) in ("account", "access", "fleet")])
def test_what_decides_purely_imports_nothing_that_does_io(file: str) -> None:
    packages = {name.split(".")[0] for name in imports(file)}
    assert packages.isdisjoint({"litestar", "httpx", "h11", "redis", "os", "pathlib", "socket"})
    assert room(file) == "access" or "asyncio" not in packages  # its rooms for waiting are tasks


@pytest.mark.parametrize("file", [file for file in FILES if room(file) == "kubernetes"])
def test_who_calls_is_found_out_without_the_exchange_or_redis(file: str) -> None:
    assert not any(name.startswith(("service.exchange", "service.store", "service.account.")) for name in imports(file))


@pytest.mark.parametrize("file", FILES)
def test_a_library_stays_with_its_owners_and_tests_stay_outside(file: str) -> None:
    packages = {name.split(".")[0] for name in imports(file)}
    assert packages.isdisjoint({"simulator", "tests"})
    assert {package for package in packages & OWNERS.keys() if room(file) not in OWNERS[package]} == set()


@pytest.mark.parametrize("file", [file for file in FILES if room(file) == "exchange"])
def test_of_the_exchanges_modules_the_transport_alone_knows_httpx(file: str) -> None:
    assert ("httpx" in {name.split(".")[0] for name in imports(file)}) is (file == "exchange/transport.py")


def test_every_handler_guard_and_hook_is_async() -> None:
    """A sync one would run in a thread, where nothing of ours expects to be."""
    text = "\n".join((ROOT / file).read_text("utf-8") for file in FILES if room(file) in ("web", "app"))
    handlers = re.findall(r"@(?:get|head|route)\(.*?\)\n\s*((?:async )?def) ", text, re.DOTALL)
    hooks = re.findall(r"(?:guards|before_request|after_request|on_startup|on_shutdown)=\[?(\w+)", text)
    assert set(handlers) == {"async def"}
    assert set(hooks).isdisjoint(re.findall(r"^ *def (\w+)", text, re.MULTILINE))
