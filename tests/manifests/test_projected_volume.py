"""Settings and secrets in one projected volume, as the Deployment mounts them, change while the gateway runs."""

from functools import partial
from pathlib import Path

import httpx

from tests.fleet.mounted import MountedVolume
from tests.process.conftest import GatewayProcess, tables
from tests.support import bearer, until, write_settings

NOTICED = 10.0
"""Seconds; less than the 30 s after which the gateway looks unasked, so that it is the watch that tells."""
ACCOUNT = """
[accounts.{name}]
api_key_file = "{name}.api_key"
secret_key_file = "{name}.secret_key"
[clients.risk.accounts.{name}]
assets = "all"
"""


def with_account(files: dict[str, str], name: str) -> dict[str, str]:
    """The same, and one account more: its tables in the settings, its pair beside the others'."""
    pair = {f"{name}.{key}": files[f"secrets/{key}"] for key in ("api_key", "secret_key")}
    return files | pair | {"gateway.toml": files["gateway.toml"] + ACCOUNT.format(name=name)}


def taken_over(folder: Path, settings: Path) -> dict[str, str]:
    """The files that were written for a gateway; a volume takes their place."""
    files = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    (folder / "secrets").rename(folder.parent / "replaced")
    return files | {settings.name: settings.read_text()}


async def serves(caller: httpx.AsyncClient, account: str) -> bool:
    return (await caller.get(f"/v1/accounts/{account}/assets/BTC")).status_code == 200


async def test_an_account_arrives_with_its_secrets_in_one_swap_and_another_in_the_next(
    volume: Path, redis_port: int, exchange_url: str
) -> None:
    own = tables(redis_port, exchange_url)
    files = with_account(taken_over(volume, write_settings(volume, **own)), "first")
    mounted = MountedVolume(volume, files)
    replica = GatewayProcess(volume / "gateway.toml", own, None)
    try:
        await replica.start()
        async with httpx.AsyncClient(base_url=replica.url, headers=bearer()) as caller:
            for account in ("second", "third"):  # twice: the first swap takes away a folder that was watched
                files = with_account(files, account)
                mounted.publish(files)
                await until(partial(serves, caller, account), NOTICED, f"{account} is served")
        assert (await replica.stop())[0] == 0
    finally:
        await replica.kill()
