"""Everything that is checked of the manifests without a cluster: `python -m k8s.check`, a part of `make check`.

Each overlay is rendered as `kubectl apply -k` would, every object is held strictly against its schema and the whole
against policies; the Dockerfile is linted. A check whose program isn't there is named as not run; with `CI` set that is
a failure.
"""

import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import kubernetes_validate  # type: ignore[import-untyped]  # annotated, but without the marker that says so
import yaml

from k8s import rules

HERE = Path(__file__).parent
ROOT = HERE.parent
OVERLAYS = ("development", "production")
VERSIONS = ("1.29", "1.37")
"""Of Kubernetes: the oldest that has all that is used (sidecar containers), the newest whose schemas there are."""
OPERATOR = "monitoring.coreos.com/v1"
"""The Prometheus operator's objects, of which Kubernetes' own schemas know nothing."""
PATH = os.pathsep.join([str(ROOT / ".venv/bin"), str(ROOT / ".venv/policies/bin"), os.environ["PATH"]])
PATIENCE = 300
"""Seconds a program may take; the slowest takes some ten."""


class Check(NamedTuple):
    """One check: the programs it needs, and what finds its problems, a text each."""

    name: str
    needs: tuple[str, ...]
    problems: Callable[[], Iterator[str]]


def main() -> int:
    """Run every check and say how each went; the exit status."""
    return max(not went_well(check) for check in checks())


def checks() -> Iterator[Check]:
    for overlay in OVERLAYS:
        yield Check(f"{overlay}: schemas", ("kubectl",), partial(schema_problems, overlay))
        yield Check(f"{overlay}: policies", ("kubectl", "checkov"), partial(policy_problems, overlay))
    yield Check("alert rules and their tests", ("promtool",), rule_problems)
    yield Check("Dockerfile", ("hadolint",), partial(outcome, "hadolint", "Dockerfile"))


def went_well(check: Check) -> bool:
    missing = [program for program in check.needs if shutil.which(program, path=PATH) is None]
    if missing:
        print(f"not run: {check.name} (needs {', '.join(missing)})", file=sys.stderr)
        return "CI" not in os.environ
    try:
        problems = list(check.problems())
    except subprocess.CalledProcessError as exc:
        problems = [exc.stderr.strip()]
    print(f"{'failed' if problems else 'ok'}: {check.name}", *problems, sep="\n  ", flush=True)
    return not problems


def schema_problems(overlay: str) -> Iterator[str]:
    """What an API server would refuse, or silently drop."""
    for each in objects(rendered(overlay)):
        judge = operator_problems if each["apiVersion"] == OPERATOR else kubernetes_problems
        for problem in judge(each):
            yield f"{each['kind']} {each['metadata']['name']}: {problem}"


def kubernetes_problems(each: dict[str, Any]) -> Iterator[str]:
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(each, version, strict=True)
        except kubernetes_validate.SchemaNotFoundError:
            yield f"Kubernetes {version} has no {each['kind']} of {each['apiVersion']}"
        except kubernetes_validate.ValidationError as exc:
            yield f"Kubernetes {version}: {exc.message}"


def operator_problems(each: dict[str, Any]) -> Iterator[str]:
    """By the models made of the operator's own definitions; a key that they don't know doesn't come back."""
    models = importlib.import_module("cloudcoil.models.prometheus_operator.v1")  # by name: it is huge for type checkers
    try:
        known = getattr(models, each["kind"]).model_validate(each)
    except ValueError as exc:
        yield str(exc)
        return
    if known.model_dump(mode="json", by_alias=True, exclude_unset=True) != each:
        yield "has keys that the definition doesn't know"


def policy_problems(overlay: str) -> Iterator[str]:
    """What a security review would object to; `checkov.yaml` has what we answer to some of it."""
    file = ROOT / ".venv" / f"{overlay}.yaml"
    file.write_text(rendered(overlay))
    yield from refused_by_policies(file)


def refused_by_policies(file: Path) -> Iterator[str]:
    yield from outcome("checkov", "--config-file", str(HERE / "checkov.yaml"), "--file", str(file))


def rule_problems() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        tests = rules.write(Path(folder))
        yield from outcome("promtool", "check", "rules", str(tests.with_name("rules.yaml")))
        yield from outcome("promtool", "test", "rules", str(tests))


@cache
def rendered(overlay: str) -> str:
    """The overlay's objects, as YAML documents.

    Raises:
        CalledProcessError: kustomize refuses it.
    """
    built = run("kubectl", "kustomize", str(HERE / "overlays" / overlay))
    built.check_returncode()
    return built.stdout


def objects(documents: str) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(documents) if each]


def outcome(*command: str) -> Iterator[str]:
    """What a program had to say that told by its exit status that something is wrong."""
    ended = run(*command)
    if ended.returncode:
        yield (ended.stdout + ended.stderr).strip()


def run(*command: str) -> subprocess.CompletedProcess[str]:
    # checkov would log that it can't reach its makers.
    environment = os.environ | {"PATH": PATH, "LOG_LEVEL": "CRITICAL"}
    return subprocess.run(
        command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PATIENCE
    )


if __name__ == "__main__":
    sys.exit(main())
