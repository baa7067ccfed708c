import pytest

from service.fleet.lineage import used_by_strangers
from service.fleet.shared_state import Lineage


@pytest.mark.parametrize(
    ("lineage", "replaced", "strangers"),
    [
        (Lineage(), "", False),  # nobody uses it yet
        (Lineage(in_use=True), "", True),  # somebody does, and nothing links it to us
        (Lineage(in_use=True, replaced=frozenset({"active"})), "", False),  # it has replaced ours
        (Lineage(in_use=True, replaced=frozenset({"other"})), "", True),  # it has replaced another's
        (Lineage(temporary_link=True, replaced=frozenset({"active"})), "", True),
        (None, "", True),  # unknown without Redis
        (None, "candidate", False),  # a rotation that is taken back: this process used it before
        (Lineage(in_use=True), "candidate", False),
    ],
)
def test_strangers_use_a_candidate_that_is_in_use_without_a_link_from_ours(
    lineage: Lineage | None,
    replaced: str,
    strangers: bool,  # noqa: FBT001 - a table's column
) -> None:
    assert used_by_strangers("candidate", lineage, "active", replaced) is strangers
