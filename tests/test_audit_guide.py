"""`docs/audit.md` says what the code writes."""

import json
import re
from pathlib import Path

import msgspec
import pytest

from service.settings import Audit
from service.telemetry.audit import CLOSING, PAUSE, Filters, Line, SnapshotRead

GUIDE = (Path(__file__).parent.parent / "docs" / "audit.md").read_text()
EXAMPLES = re.findall(r"^\{.*\}$", GUIDE, re.MULTILINE)


def fields(struct: type[msgspec.Struct], prefix: str = "") -> list[str]:
    return [prefix + field.name for field in msgspec.structs.fields(struct)]


def test_its_table_has_every_field_in_order() -> None:
    told = re.findall(r"^\| `([a-z_.]+)` \| (?:string|integer|array|boolean|object)", GUIDE, re.MULTILINE)
    expected = fields(Line)
    for name, struct in (("filters", Filters), ("snapshot", SnapshotRead)):
        place = expected.index(name) + 1
        expected[place:place] = fields(struct, f"{name}.")
    assert told == expected


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_its_examples_are_lines_as_they_are_written(example: str) -> None:
    line = msgspec.json.decode(example, type=Line)
    assert msgspec.json.encode(line).decode() == example


def test_it_shows_a_read_and_refusals() -> None:
    assert [json.loads(example)["status"] for example in EXAMPLES] == [200, 403, 401]


def test_its_shapes_and_numbers_are_the_codes() -> None:
    assert f"queue = {Audit().queue} " in GUIDE
    assert f"for {CLOSING:.0f} s at the most" in GUIDE
    assert PAUSE == 1
    assert "tried again every second" in GUIDE
