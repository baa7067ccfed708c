"""What schemathesis is told of the format `cache-control`, which is no standard one: well-formed request directives."""

import schemathesis
from hypothesis import strategies as st

SECONDS = st.integers(0, 2**31).map(str)
NUMBERED = st.tuples(st.sampled_from(["max-age", "min-fresh", "max-stale"]), SECONDS).map("=".join)
BARE = st.sampled_from(["no-cache", "only-if-cached", "max-stale", "no-store", "no-transform"])
UNKNOWN = st.from_regex(r"\Ax-[a-z]{1,10}(=([0-9]{1,5}|\"[ -!#-\[\]-~]{0,10}\"))?\Z")


def _name(directive: str) -> str:
    return directive.partition("=")[0]


schemathesis.openapi.format(
    "cache-control", st.lists(st.one_of(NUMBERED, BARE, UNKNOWN), max_size=4, unique_by=_name).map(", ".join)
)
