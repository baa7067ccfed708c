"""The rows of a document: a slice of the exchange's bytes each, and what filters and grants decide by."""

import re
from collections.abc import Mapping

import msgspec

POSITION_SIDES = ("BOTH", "LONG", "SHORT")

# One member of an object that is known to be valid JSON, up to its value; the group begins with its name.
_MEMBER = re.compile(rb'[\s{,]*("[^"\\]*(?:\\.[^"\\]*)*"\s*:\s*)', re.DOTALL)


class Row(msgspec.Struct, frozen=True, gc=False):
    """One row, of any kind."""

    raw: msgspec.Raw
    asset: str | None
    """The coin that it is of, or that its symbol is margined in. `None`: neither exchangeInfo nor the symbol's form
    says it; only a grant on all assets sees the row."""
    symbol: str | None = None
    """`None`: the row isn't keyed by one, and no filter by symbols touches it."""
    side: str | None = None
    """The same for position sides."""
    zero: bool = False
    """Whether all of its kind's `amounts` are present and zero: unknown is not zero. Without any, nothing asks."""


class Member(msgspec.Struct, frozen=True):
    """The place of one member in the text of an object: of its name, of its value, and of its end, exclusive."""

    start: int
    value: int
    end: int


def margin_asset(symbol: str, margin_assets: Mapping[str, str]) -> str | None:
    """The coin a symbol is margined in: by exchangeInfo, else the text before `USD_` (`BTCUSD_PERP`: BTC)."""
    listed = margin_assets.get(symbol)
    if listed is not None:
        return listed
    coin, separator, _ = symbol.partition("USD_")
    return coin if coin and separator else None


def pair_of(symbol: str) -> str:
    """The pair of a symbol (`BTCUSD` of `BTCUSD_PERP`); empty where its form has none."""
    return symbol.rpartition("_")[0]


def located(text: bytes, members: Mapping[str, msgspec.Raw]) -> dict[str, Member]:
    """Where the members of an object are, by what msgspec made of it; the text is valid JSON, with unique keys."""
    found: dict[str, Member] = {}
    end = 0
    for name, value in members.items():
        # msgspec gives each value's bytes but not their offset: the next name starts where the last value ended.
        match = next(_MEMBER.finditer(text, end))
        end = match.end() + len(memoryview(value))
        found[name] = Member(match.start(1), match.end(), end)
    return found


def without(row: bytes, names: frozenset[str]) -> bytes:
    """An object without these members; all other bytes stay as they are."""
    places = located(row, msgspec.json.decode(row, type=dict[str, msgspec.Raw]))
    kept = [member for name, member in places.items() if name not in names]
    if len(kept) == len(places) or not kept:
        return row if kept else b"{}"
    # Each kept member brings what stands before it, back to the end of the member before: the comma, and any space.
    # The first one brings what stands before the first of all, where there is no comma.
    starts = [0, *(member.end for member in places.values())]
    before = dict(zip((member.start for member in places.values()), starts, strict=False))
    first, *others = kept
    opening = row[: next(iter(places.values())).start]
    return b"".join(
        [
            opening,
            row[first.start : first.end],
            *(row[before[each.start] : each.end] for each in others),
            row[starts[-1] :],
        ]
    )
