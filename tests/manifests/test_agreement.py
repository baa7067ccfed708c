"""Manifests and code agree: what one says of ports, paths, files, times and numbers, the other does."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from service.server import longest_end
from service.settings import IN_CLUSTER, Settings
from simulator.signature import DEMO_API_KEY, DEMO_SECRET_KEY
from tests.app.harness import Stage
from tests.manifests.rendered import Manifests, Object, secret_data

SPARE = 5.0
"""Seconds between the process's own deadline and the kill."""


@pytest.fixture
def settings(manifests: Manifests, volume: Path) -> Settings:
    """What the gateway makes of the files that are mounted."""
    return manifests.reading(volume).settings


def labels_of(pods: Object) -> dict[str, str]:
    return dict(pods["metadata"]["labels"])


def pods_of(manifests: Manifests) -> list[Object]:
    return [each["spec"]["template"] for each in manifests.of("Deployment")]


def selectors(manifests: Manifests) -> Iterator[dict[str, str]]:
    """Every selector that must find pods of this deployment."""
    for service in manifests.of("Service"):
        yield service["spec"]["selector"]
    for kind in ("Deployment", "PodDisruptionBudget"):
        yield from (each["spec"]["selector"]["matchLabels"] for each in manifests.of(kind))
    for policy in manifests.of("NetworkPolicy"):
        yield policy["spec"]["podSelector"].get("matchLabels", {})
    for pods in pods_of(manifests):
        for spread in pods["spec"].get("topologySpreadConstraints", []):
            yield spread["labelSelector"]["matchLabels"]


def ports(container: Object) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for port in container["ports"]}


def test_the_gateway_starts_from_what_is_mounted(settings: Settings) -> None:
    assert set(settings.accounts) == {"main"}
    assert settings.server.host == "0.0.0.0"


def test_the_container_has_the_ports_that_the_settings_open(manifests: Manifests, settings: Settings) -> None:
    assert ports(manifests.gateway) == {"http": settings.server.port, "metrics": settings.server.metrics_port}


def test_services_probes_and_policies_name_ports_that_there_are(manifests: Manifests) -> None:
    known = {name for pods in pods_of(manifests) for each in pods["spec"]["containers"] for name in ports(each)}
    named = {port["targetPort"] for service in manifests.of("Service") for port in service["spec"]["ports"]}
    for policy in manifests.of("NetworkPolicy"):
        for rule in policy["spec"].get("ingress", []):
            named |= {port["port"] for port in rule["ports"]}
    assert named <= known
    assert {"http", "metrics"} <= known


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
async def test_probes_ask_for_what_the_gateway_answers(manifests: Manifests, stage: Stage, probe: str) -> None:
    asked, gateway = manifests.gateway[probe]["httpGet"], await stage.start()
    assert asked["port"] == "metrics", "where callers' connections can't keep it out"
    assert (await gateway.get(asked["path"], client=None)).status_code == 200


def test_a_draining_replica_is_out_of_the_service_but_not_killed(manifests: Manifests) -> None:
    assert manifests.gateway["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert manifests.gateway["livenessProbe"]["httpGet"]["path"] == "/healthz"


def test_every_selector_finds_pods(manifests: Manifests) -> None:
    found = [labels_of(pods).items() for pods in pods_of(manifests)]
    for selector in selectors(manifests):
        assert any(selector.items() <= labels for labels in found), selector


def test_a_replica_has_time_to_drain_and_to_answer_who_waits(manifests: Manifests, settings: Settings) -> None:
    """The kill comes after the process's own deadline, and nothing before the signal takes of that time."""
    assert "lifecycle" not in manifests.gateway
    assert manifests.pod["spec"]["terminationGracePeriodSeconds"] >= longest_end(settings) + SPARE


def test_the_weight_is_divided_by_as_many_replicas_as_there_may_be(manifests: Manifests, settings: Settings) -> None:
    scalers = manifests.of("HorizontalPodAutoscaler")
    most = scalers[0]["spec"]["maxReplicas"] if scalers else manifests.one("Deployment")["spec"]["replicas"]
    assert settings.exchange.expected_replicas == most


def test_the_token_for_reviews_lies_where_the_gateway_looks(manifests: Manifests, settings: Settings) -> None:
    assert settings.kubernetes is not None
    assert manifests.mounts["api-server"] == IN_CLUSTER
    looked_for = {settings.kubernetes.ca_file, settings.kubernetes.token_file}
    assert {IN_CLUSTER / path for path in manifests.files("api-server")} == looked_for


def test_the_gateway_may_review_tokens_and_nothing_else(manifests: Manifests) -> None:
    (role,), (binding,) = manifests.of("ClusterRole"), manifests.of("ClusterRoleBinding")
    assert role["rules"] == [
        {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}
    ]
    (subject,) = binding["subjects"]
    account = manifests.one("ServiceAccount", manifests.pod["spec"]["serviceAccountName"])
    assert (subject["name"], subject["namespace"]) == (account["metadata"]["name"], account["metadata"]["namespace"])
    assert binding["roleRef"]["name"] == role["metadata"]["name"]


def test_no_secret_is_in_the_manifests_but_the_simulated_exchanges(manifests: Manifests) -> None:
    known = {"main.api_key": DEMO_API_KEY, "main.secret_key": DEMO_SECRET_KEY}
    assert [secret_data(each) for each in manifests.of("Secret")] in ([], [known])


def test_mounted_files_change_while_the_gateway_runs(manifests: Manifests) -> None:
    assert not [mount for mount in manifests.gateway["volumeMounts"] if "subPath" in mount]
    assert all(mount["readOnly"] for mount in manifests.gateway["volumeMounts"])


def test_callers_of_this_cluster_are_named_by_their_own_namespace_in_development(
    manifests: Manifests, settings: Settings
) -> None:
    here = {f"{each['metadata']['namespace']}/{each['metadata']['name']}" for each in manifests.of("ServiceAccount")}
    if settings.environment == "development":
        assert {each for client in settings.clients.values() for each in client.service_accounts} <= here
