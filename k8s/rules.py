"""Alert rules before promtool: from the operator's object into the plain file that it reads."""

from pathlib import Path
from typing import Any

import yaml

MONITORING = Path(__file__).parent / "components/monitoring"
TESTS = MONITORING / "rules-test.yaml"


def rules() -> dict[str, Any]:
    """The groups, as a rule file of Prometheus has them."""
    rule: dict[str, Any] = yaml.safe_load((MONITORING / "prometheus-rule.yaml").read_text())
    return {"groups": rule["spec"]["groups"]}


def alerts() -> list[dict[str, Any]]:
    return [rule for group in rules()["groups"] for rule in group["rules"]]


def write(folder: Path) -> Path:
    """The rules and their tests, side by side; the tests' file.

    promtool compares every annotation, so that only the one is left whose text depends on what fired.
    """
    plain = rules()
    for group in plain["groups"]:
        for rule in group["rules"]:
            rule["annotations"] = {"summary": rule["annotations"]["summary"]}
    (folder / "rules.yaml").write_text(yaml.safe_dump(plain))
    tests = folder / TESTS.name
    tests.write_text(TESTS.read_text())
    return tests
