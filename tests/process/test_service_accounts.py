"""ServiceAccounts' tokens, reviewed by an API server on a socket, over TLS with the cluster's own CA."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from simulator.cluster import Cluster
from simulator.server import serving
from tests.process.certificates import write_certificate
from tests.process.conftest import Tables, gateway_process, run_command, tables
from tests.support import BTC, write_settings

OURS = "coinm-gateway"


class Folder:
    """What a pod finds of its cluster, and the settings for it."""

    def __init__(self, path: Path, cluster: Cluster, api_server: str, ca_file: Path) -> None:
        self.path = path
        self.own = cluster.token(cluster.add("coinm/gateway", reviewer=True))
        (path / "token").write_text(self.own)
        self.kubernetes: dict[str, object] = {
            "audience": OURS,
            "api_server": api_server,
            "ca_file": str(ca_file),
            "token_file": str(path / "token"),
        }

    def tables(self, redis_port: int, exchange_url: str) -> Tables:
        clients: dict[str, object] = {"treasury": {"service_accounts": ["desk/treasury"]}}
        return tables(redis_port, exchange_url) | {"kubernetes": self.kubernetes, "clients": clients}


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
async def folder(tmp_path: Path, cluster: Cluster) -> AsyncIterator[Folder]:
    certificate = write_certificate(tmp_path)
    async with serving(cluster, tls=certificate) as url:
        yield Folder(tmp_path, cluster, url, certificate[0])


async def test_a_service_account_reads_its_slice(
    folder: Folder, cluster: Cluster, redis_port: int, exchange_url: str
) -> None:
    token = cluster.token(cluster.add("desk/treasury"), OURS)
    other = cluster.token(cluster.add("desk/other"), OURS)
    async with gateway_process(folder.path, folder.tables(redis_port, exchange_url), measured=False) as gateway:
        async with httpx.AsyncClient(base_url=gateway.url) as caller:
            read = [await caller.get(BTC, headers={"authorization": f"Bearer {each}"}) for each in (token, other, "x")]
        status, log = await gateway.stop()

    assert [answer.status_code for answer in read] == [200, 401, 401]
    assert [review.username for review in cluster.reviews] == [
        "system:serviceaccount:desk:treasury",
        "system:serviceaccount:desk:other",
    ]
    assert status == 0
    assert '"service_account":"desk/treasury"' in log
    assert not [secret for secret in (token, other, folder.own) if secret in log]


async def test_check_tries_a_review(folder: Folder, cluster: Cluster, redis_port: int, exchange_url: str) -> None:
    config = write_settings(folder.path, **folder.tables(redis_port, exchange_url))
    fine = await run_command("check", "--config", str(config))
    cluster.reviewers.clear()
    forbidden = await run_command("check", "--config", str(config))

    assert (fine[0], fine[2]) == (0, "")
    assert "ok    kubernetes               tokens for the audience coinm-gateway can be reviewed\n" in fine[1]
    assert forbidden[0] == 1
    assert "fail  kubernetes" in forbidden[1]
    assert "it needs the ClusterRole system:auth-delegator" in forbidden[1]


async def test_an_api_server_whose_certificate_another_ca_made_is_not_told_our_token(
    folder: Folder, cluster: Cluster, redis_port: int, exchange_url: str
) -> None:
    (folder.path / "other").mkdir()
    folder.kubernetes["ca_file"] = str(write_certificate(folder.path / "other")[0])
    config = write_settings(folder.path, **folder.tables(redis_port, exchange_url))
    status, output, _ = await run_command("check", "--config", str(config))

    assert status == 1
    assert "its certificate is not of the CA in ca_file" in output
    assert cluster.requests == 0


async def test_a_cluster_that_cannot_be_trusted_keeps_the_gateway_from_starting(
    folder: Folder, redis_port: int, exchange_url: str
) -> None:
    folder.kubernetes["ca_file"] = str(folder.path / "none")
    config = write_settings(folder.path, **folder.tables(redis_port, exchange_url))
    answer = await run_command("serve", "--config", str(config))

    fault = "kubernetes.ca_file: cannot be read: No such file or directory"
    assert answer == (2, "", f"coinm-gateway: {config}: {fault}\n")
