"""A stage in a cluster: pods that call with ServiceAccounts' tokens."""

import re
from pathlib import Path

import httpx

from simulator.service_accounts import Account, Terms
from tests.app.harness import BTC, Replica, Stage

OURS = "coinm-gateway"
KUBERNETES = {"audience": OURS, "api_server": "http://127.0.0.1:1", "token_file": "secrets/own/token"}
CLIENTS: dict[str, object] = {
    "treasury": {"service_accounts": ["desk/treasury"]},
    "risk": {"service_accounts": ["a/b"]},
}


class Pods:
    """A stage in a cluster: the gateway's own ServiceAccount, and a caller's."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.cluster = stage.cluster
        self.own = self.cluster.add("coinm/gateway", reviewer=True)
        self.caller = self.cluster.add("desk/treasury")
        self.folder = stage.folder / "secrets" / "own"
        self.folder.mkdir()
        self.rotate()

    def rotate(self) -> None:
        """Another token of our own, put in place as a kubelet does: by the swap of a symlink to a folder."""
        fresh = self.folder / f"..{len([*self.folder.iterdir()])}"
        fresh.mkdir()
        (fresh / "token").write_text(self.cluster.token(self.own))
        (self.folder / "..data_tmp").symlink_to(fresh.name)
        (self.folder / "..data_tmp").replace(self.folder / "..data")
        if not (self.folder / "token").is_symlink():
            (self.folder / "token").symlink_to(Path("..data") / "token")

    def token(self, account: Account | None = None, **terms: object) -> str:
        made = Terms(**terms)  # type: ignore[arg-type]  # as the caller has them
        return self.cluster.token(account or self.caller, OURS, terms=made)


async def ask(gateway: Replica, token: str, path: str = BTC, **headers: str) -> httpx.Response:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return await gateway.caller.get(path, headers={"authorization": f"Bearer {token}"} | sent)


def outcomes(gateway: Replica) -> dict[str, int]:
    """How tokens fared, by the counter."""
    counted = re.findall(r'coinm_token_reviews_total{outcome="([a-z-]+)"} ([0-9]+)', gateway.metrics())
    return {outcome: int(count) for outcome, count in counted}
