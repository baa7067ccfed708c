"""The check of the manifests finds what it is there for."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from k8s import check
from tests.manifests.rendered import Manifests, rendered

MONITOR: dict[str, Any] = {
    "apiVersion": "monitoring.coreos.com/v1",
    "kind": "PodMonitor",
    "metadata": {"name": "gateway"},
    "spec": {"selector": {"matchLabels": {"a": "b"}}, "podMetricsEndpoints": [{"port": "metrics", "interval": "15s"}]},
}


@pytest.fixture
def deployment(kubectl: str) -> dict[str, Any]:
    return rendered(kubectl, "production").one("Deployment")


def test_objects_that_are_right_pass(manifests: Manifests) -> None:
    ours = [each for each in manifests.objects if each["apiVersion"] != check.OPERATOR]
    assert [problem for each in ours for problem in check.kubernetes_problems(each)] == []
    assert list(check.operator_problems(MONITOR)) == []


def test_a_misspelt_key_is_found(deployment: dict[str, Any]) -> None:
    deployment["spec"]["template"]["spec"]["terminationGracePeriodSecond"] = 20
    problems = list(check.kubernetes_problems(deployment))
    assert len(problems) == len(check.VERSIONS)
    assert all("terminationGracePeriodSecond" in problem for problem in problems)


@pytest.mark.parametrize(("key", "value"), [("interval", "15 s"), ("intervall", "15s")])
def test_an_operators_object_with_a_wrong_value_or_key_is_found(key: str, value: str) -> None:
    wrong = deepcopy(MONITOR)
    wrong["spec"]["podMetricsEndpoints"][0][key] = value
    assert len(list(check.operator_problems(wrong))) == 1


def test_an_object_that_kubernetes_does_not_have_is_found() -> None:
    (first, *_) = check.kubernetes_problems({"apiVersion": "apps/v1", "kind": "Deploiment", "metadata": {"name": "x"}})
    assert "deploiment" in first.lower()


def test_a_container_that_may_do_too_much_is_found(deployment: dict[str, Any], tmp_path: Path, checkov: Path) -> None:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    container["securityContext"]["privileged"] = True
    (file := tmp_path / "deployment.yaml").write_text(yaml.safe_dump(deployment))
    (said,) = check.refused_by_policies(file)
    assert "privileged" in said


def test_a_missing_program_is_a_failure_in_ci_and_told_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    needy = check.Check("manifests", ("no-such-program",), lambda: iter(()))
    monkeypatch.delenv("CI", raising=False)
    assert check.went_well(needy)
    monkeypatch.setenv("CI", "true")
    assert not check.went_well(needy)
    assert "not run: manifests (needs no-such-program)" in capsys.readouterr().err
