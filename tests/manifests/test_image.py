"""The image's file and the manifests agree, and only what belongs into it goes into its build."""

import re
import shlex
from pathlib import Path

import pytest

import service
from tests.manifests.rendered import ROOT, Manifests

DOCKERFILE = (ROOT / "Dockerfile").read_text()
INSTRUCTIONS = [line.split(maxsplit=1) for line in DOCKERFILE.replace("\\\n", "").splitlines() if line[:1].isupper()]


def of(name: str) -> list[str]:
    return [rest for instruction, rest in INSTRUCTIONS if instruction == name]


def copied() -> list[str]:
    """What is taken from the checkout."""
    taken = [shlex.split(rest) for rest in of("COPY") if not rest.startswith("--from")]
    return [source for *sources, _ in taken for source in sources]


def admitted() -> set[str]:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    return {line.removeprefix("!") for line in lines if line.startswith("!")}


def environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for rest in of("ENV") for pair in shlex.split(rest))


def test_what_it_copies_exists_and_nothing_else_gets_into_the_build() -> None:
    assert "*" in (ROOT / ".dockerignore").read_text().splitlines()
    assert set(copied()) == admitted()
    assert all((ROOT / path).exists() for path in copied())


def test_what_the_package_links_to_goes_along() -> None:
    links = [path for path in (ROOT / "service").rglob("*") if path.is_symlink()]
    assert links
    assert {str(link.resolve().relative_to(ROOT)) for link in links} <= set(copied())


def test_the_base_is_named_by_patch_and_digest() -> None:
    base = of("ARG")[0].removeprefix("BASE=")
    assert re.fullmatch(r"docker\.io/library/python:3\.13\.\d+-slim-trixie@sha256:[0-9a-f]{64}", base)
    assert {each.split(" ")[0] for each in of("FROM")} == {"${BASE}", "build", "runtime"}


def test_the_gateway_is_the_default_and_the_simulator_another_target() -> None:
    targets = [rest.split(" AS ")[1] for rest in of("FROM")]
    assert targets[-1] == "gateway"
    assert "simulator" in targets


def test_image_and_pod_agree_on_user_ports_and_settings(manifests: Manifests) -> None:
    user = manifests.pod["spec"]["securityContext"]
    assert of("USER") == [f"{user['runAsUser']}:{user['runAsGroup']}"]
    assert of("EXPOSE")[-1].split() == [str(port["containerPort"]) for port in manifests.gateway["ports"]]
    assert environment()["COINM_GATEWAY_CONFIG"] == manifests.environment["COINM_GATEWAY_CONFIG"]


def test_pods_run_commands_that_there_are(manifests: Manifests) -> None:
    assert manifests.gateway["args"] == ["serve"]
    assert "command" not in manifests.gateway
    for sidecar in manifests.pod["spec"].get("initContainers", []):
        assert sidecar["args"][0] == "exchange"


@pytest.mark.parametrize(
    "file",
    ["Dockerfile", "docs/image.md", "k8s/base/deployment.yaml", "k8s/overlays/production/kustomization.yaml"],
)
def test_the_version_is_the_packages(file: str) -> None:
    versions = re.findall(r"(?:VERSION=|newTag: |coinm-account-gateway:)(\d+\.\d+\.\d+)", Path(ROOT / file).read_text())
    assert versions
    assert set(versions) == {service.__version__}
