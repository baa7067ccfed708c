from pathlib import Path

import pytest
from msgspec.structs import replace

from service.check import (
    audit_finding,
    file_findings,
    line,
    redis_findings,
    sharing_findings,
    tls_finding,
    weight_finding,
)
from service.fleet.shared_state import Lineage
from service.settings import Audit, Client, ClientGrant, Server
from service.settings_file import load
from tests.process.certificates import write_certificate
from tests.support import START, write_settings

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


MODES = [
    (0o600, None),
    (0o400, None),
    (0o440, None),
    (0o644, "every user can read it (mode 0644)"),
    (0o666, "every user can write it (mode 0666)"),
    (0o660, "its group can write it (mode 0660)"),
    (0o602, "every user can write it (mode 0602)"),
]


@pytest.mark.parametrize(("mode", "warned"), MODES)
@pytest.mark.parametrize("key", ["accounts.main.api_key_file", "accounts.main.secret_key_file", "audit.file"])
def test_a_file_that_others_can_read_or_change_is_a_warning(
    tmp_path: Path, mode: int, warned: str | None, key: str
) -> None:
    file = write_settings(tmp_path, audit={"file": "audit_file"})
    (tmp_path / "audit_file").touch(0o600)
    (changed,) = tmp_path.rglob(key.rpartition(".")[2].removesuffix("_file") if "accounts" in key else "audit_file")
    target = changed.rename(tmp_path / "target")
    changed.symlink_to(target)
    target.chmod(mode)
    (finding,) = file_findings(file, load(file))
    expected = f"{key}: {warned}; expected 0600, or 0440 where a group must read it"
    assert (finding.verdict, finding.text) == (("warn", expected) if warned else ("ok", finding.text))


def test_the_settings_are_a_secret_where_they_hold_a_password(tmp_path: Path) -> None:
    file = write_settings(tmp_path, redis={"url": "redis://:canary@h"})
    file.chmod(0o644)
    (finding,) = file_findings(file, load(file))
    assert (finding.verdict, "which holds redis.url with a password: every user can read it" in finding.text) == (
        "warn",
        True,
    )
    file.write_text(file.read_text().replace(":canary@", ""))
    assert [each.verdict for each in file_findings(file, load(file))] == ["ok"]


@pytest.mark.parametrize(("days", "verdict"), [(-365, "warn"), (0, "warn"), (365, "warn")])
def test_a_certificate_that_ends_soon_or_does_not_hold_is_a_warning(tmp_path: Path, days: int, verdict: str) -> None:
    certificate, key = write_certificate(tmp_path)
    now = int(certificate.stat().st_mtime * 1000) + days * 86_400_000
    found = tls_finding(Server(tls_certificate_file=certificate, tls_key_file=key), now)
    assert found.verdict == verdict
    assert ("not now; callers will refuse it" in found.text) is (days != 0)


def test_a_pair_that_cannot_be_served_with_fails(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    (tmp_path / "other").mkdir()
    _, other = write_certificate(tmp_path / "other")
    assert tls_finding(Server(), START).verdict == "ok"
    assert tls_finding(Server(tls_certificate_file=certificate, tls_key_file=other), START).verdict == "fail"
    assert tls_finding(Server(tls_certificate_file=key, tls_key_file=key), START).verdict == "fail"


@pytest.mark.parametrize(
    ("lineage", "verdicts"),
    [
        (Lineage(), []),
        (Lineage(replaced=frozenset({"1" * 16})), []),
        (Lineage(foreign=2), ["fail"]),
        (Lineage(superseded=True), ["warn"]),
        (Lineage(superseded=True, foreign=1), ["fail"]),
    ],
)
def test_another_user_of_an_accounts_name_is_a_row(lineage: Lineage, verdicts: list[str]) -> None:
    found = sharing_findings("main", lineage)

    assert [(row.subject, row.verdict) for row in found] == [("account main", verdict) for verdict in verdicts]
    assert all("the last 120 s" in row.text for row in found)


@pytest.mark.parametrize(
    ("granted", "ceiling", "verdict", "wanted"),
    [
        ({"*"}, 463, "ok", [330, 66, 66, 0]),
        ({"*"}, 462, "warn", [330, 66, 66, 0]),
        ({"main"}, 421, "ok", [300, 60, 60, 0]),
        ({"main"}, 420, "warn", [300, 60, 60, 0]),  # for the brackets, two an hour more
        ({"slow"}, 421, "ok", [30, 6, 6, 0]),
        ({"slow", "*"}, 462, "warn", [330, 66, 66, 0]),
        (set[str](), 1, "ok", [0, 0, 0, 0]),
    ],
)
def test_the_weight_is_that_of_all_documents_of_the_accounts_that_clients_may_read(
    tmp_path: Path, granted: set[str], ceiling: float, verdict: str, wanted: list[int]
) -> None:
    settings = load(write_settings(tmp_path, accounts={"main": None, "slow": {"fresh_for": "10s"}}))
    grants = {name: ClientGrant(assets="all") for name in granted}
    settings = replace(settings, clients={"risk": Client(accounts=grants), "nobody": Client()})
    found = weight_finding(settings, ceiling)
    names = ("account", "balance", "position-risk", "leverage-brackets")
    parts = ", ".join(f"{name} {weight}" for name, weight in zip(names, wanted, strict=True))
    assert (found.verdict, f" of {ceiling} per minute ({parts})" in found.text) == (verdict, True), found.text
