from pathlib import Path

import pytest

from service.check import audit_finding, line, redis_findings
from service.settings import Audit

GOOD = {"redis_mode": "standalone", "role": "master", "maxmemory_policy": "noeviction", "redis_version": "7.0.15"}


def test_a_redis_as_it_should_be_is_one_row() -> None:
    (finding,) = redis_findings(GOOD)

    assert line(finding) == "ok    redis                    standalone, master, version 7.0.15, eviction noeviction"


@pytest.mark.parametrize(
    ("told", "finding"),
    [
        ({"role": "slave"}, ("redis role", "fail")),
        ({"maxmemory_policy": "allkeys-lru"}, ("redis eviction", "warn")),
        ({"maxmemory_policy": "volatile-ttl"}, ("redis eviction", "warn")),  # a ban's memory has a time to live too
    ],
)
def test_what_the_gateway_cannot_work_with_is_a_row_more(told: dict[str, str], finding: tuple[str, str]) -> None:
    found = [row for row in redis_findings(GOOD | told) if row.verdict != "ok"]

    assert [(row.subject, row.verdict) for row in found] == [finding]
    assert found[0].text.startswith("expected")


@pytest.mark.parametrize(
    ("audit", "row"),
    [
        (None, "ok    audit                    none: there is no [audit] table"),
        (Audit(), "ok    audit                    stdout, queue 10000, when full drop"),
        (
            Audit(file=Path("/dev/null"), queue=5, when_full="refuse"),
            "ok    audit                    audit.file, queue 5, when full refuse",
        ),
        (
            Audit(file=Path("/nowhere/a")),
            "fail  audit                    audit.file cannot be created in its folder, queue 10000, when full drop",
        ),
    ],
    ids=["none", "stdout", "a file", "no folder"],
)
def test_where_the_audit_goes_is_a_row(audit: Audit | None, row: str) -> None:
    assert line(audit_finding(audit)) == row
