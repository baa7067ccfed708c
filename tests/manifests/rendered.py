"""The manifests as a cluster would get them, and what their pods would find on disk."""

import base64
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import yaml

from service.reload import LoadedConfig, read
from tests.fleet.mounted import MountedVolume

ROOT = Path(__file__).parents[2]
OVERLAYS = ("development", "production")
PLANTED = "planted"
MADE_ELSEWHERE = {
    "coinm-gateway-accounts": dict.fromkeys(("main.api_key", "main.secret_key"), PLANTED),
    "coinm-gateway-redis": dict.fromkeys(("password", "sentinel_password", "ca.crt"), PLANTED),
    "coinm-gateway-tls": dict.fromkeys(("tls.crt", "tls.key"), PLANTED),
    "kube-root-ca.crt": {"ca.crt": PLANTED},
}
"""Secrets that operators make, and what every namespace has."""

Object = dict[str, Any]


def rendered(kubectl: str, overlay: str) -> "Manifests":
    return built(kubectl, ROOT / "k8s/overlays" / overlay)


def built(kubectl: str, folder: Path) -> "Manifests":
    """What `kubectl apply --kustomize` would send.

    Raises:
        CalledProcessError: kustomize refuses the folder.
    """
    output = subprocess.run([kubectl, "kustomize", folder], check=True, capture_output=True, text=True)
    return Manifests([each for each in yaml.safe_load_all(output.stdout) if each])


class Manifests:
    """One overlay's objects."""

    def __init__(self, objects: list[Object]) -> None:
        self.objects = objects

    def of(self, kind: str) -> list[Object]:
        return [each for each in self.objects if each["kind"] == kind]

    def one(self, kind: str, name: str = "coinm-gateway") -> Object:
        """The one object of that kind and name."""
        (found,) = [each for each in self.of(kind) if each["metadata"]["name"] == name]
        return found

    @property
    def pod(self) -> Object:
        """The gateway's pod."""
        return cast("Object", self.one("Deployment")["spec"]["template"])

    @property
    def gateway(self) -> Object:
        """Its container."""
        (container,) = [each for each in self.pod["spec"]["containers"] if each["name"] == "gateway"]
        return cast("Object", container)

    @property
    def environment(self) -> dict[str, str]:
        return {each["name"]: each["value"] for each in self.gateway["env"]}

    @property
    def mounts(self) -> dict[str, Path]:
        """The volumes of the gateway, by name, to where they are mounted."""
        return {each["name"]: Path(each["mountPath"]) for each in self.gateway["volumeMounts"]}

    def files(self, volume: str) -> dict[str, str]:
        """What a projected volume holds: paths to contents."""
        (found,) = [each for each in self.pod["spec"]["volumes"] if each["name"] == volume]
        return {path: text for source in found["projected"]["sources"] for path, text in self._projected(source)}

    def _projected(self, source: Object) -> Iterator[tuple[str, str]]:
        for field, kind in (("configMap", "ConfigMap"), ("secret", "Secret")):
            if field in source:
                yield from _chosen(self._data(kind, source[field]["name"]), source[field])
        if "serviceAccountToken" in source:
            yield source["serviceAccountToken"]["path"], PLANTED

    def _data(self, kind: str, name: str) -> Mapping[str, str]:
        """In clear; of a Secret that is not in the manifests what docs/operations.md asks for."""
        for each in self.of(kind):
            if each["metadata"]["name"] == name:
                return secret_data(each) if kind == "Secret" else each["data"]
        return MADE_ELSEWHERE.get(name, {})

    def reading(self, folder: Path) -> LoadedConfig:
        """What the gateway reads at its start, its settings' volume mounted in `folder`.

        Raises:
            SettingsError: it would not start.
        """
        settings = Path(self.environment["COINM_GATEWAY_CONFIG"])
        MountedVolume(folder, self.files("settings"))
        return read(folder / settings.relative_to(self.mounts["settings"]))


def secret_data(secret: Object) -> dict[str, str]:
    return {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}


def _chosen(data: Mapping[str, str], source: Object) -> Iterator[tuple[str, str]]:
    """All of it under the keys, or the items that are listed under the paths that they are given."""
    items = source.get("items")
    pairs = [(each["key"], each["path"]) for each in items] if items else [(key, key) for key in data]
    for key, path in pairs:
        yield path, data[key]
