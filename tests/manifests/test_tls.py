"""The component that has the gateway speak HTTPS by itself."""

import os
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.manifests.rendered import ROOT, Manifests, built

COMPONENT = ROOT / "k8s/components/tls/kustomization.yaml"
SERVER = "[server]\n"


@pytest.fixture
def encrypted(kubectl: str, tmp_path: Path) -> Manifests:
    """The base with the component, and with the settings that its comment asks for."""
    lines = COMPONENT.read_text().splitlines()
    asked = "".join(f"{line.removeprefix('#   ')}\n" for line in lines if line.startswith("#   "))
    assert set(tomllib.loads(asked)["server"]) == {"tls_certificate_file", "tls_key_file"}
    base = (ROOT / "k8s/base/gateway.toml").read_text()
    (tmp_path / "gateway.toml").write_text(base.replace(SERVER, asked))
    here = os.path.relpath(ROOT / "k8s", tmp_path)
    settings = {"name": "coinm-gateway", "namespace": "coinm-gateway", "behavior": "replace", "files": ["gateway.toml"]}
    overlay = {
        "resources": [f"{here}/base"],
        "components": [f"{here}/components/tls"],
        "configMapGenerator": [settings],
        "generatorOptions": {"disableNameSuffixHash": True},
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    return built(kubectl, tmp_path)


def test_the_certificate_lies_where_the_settings_look(encrypted: Manifests, volume: Path) -> None:
    server = encrypted.reading(volume).settings.server
    assert server.tls_certificate_file == volume / "tls.crt"
    assert server.tls_key_file == volume / "tls.key"
    assert {"tls.crt", "tls.key"} <= set(encrypted.files("settings"))


def test_callers_speak_https_and_probes_ask_on_the_plaintext_port(encrypted: Manifests) -> None:
    probes = [encrypted.gateway[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")]
    assert [(probe["port"], probe.get("scheme", "HTTP")) for probe in probes] == [("metrics", "HTTP")] * 3
    (port,) = encrypted.one("Service")["spec"]["ports"]
    assert (port["port"], port["appProtocol"]) == (443, "https")
