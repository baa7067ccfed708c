"""Whatever a caller sends is read in a time that grows with its length, and no faster."""

import contextlib
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.account.documents import SHAPES
from service.kubernetes.token_review import precheck
from service.telemetry.logs import looks_secret
from service.web.authentication import bearer_token
from service.web.caching import bounded, matching_tag, request_directives
from service.web.compression import accepts_gzip
from service.web.parameters import accept_only, require_readable, selected
from service.web.problems import ProblemError

Parser = Callable[[str], object]

PARSERS: dict[str, Parser] = {
    "Cache-Control": lambda text: request_directives([text], []),
    "Cache-Control, lines": lambda text: request_directives(text.split(), []),
    "Pragma": lambda text: request_directives([], [text]),
    "If-None-Match": lambda text: matching_tag([text], '"a"'),
    "Accept-Encoding": accepts_gzip.__wrapped__,
    "Authorization": lambda text: bearer_token([text], another=False),
    "Authorization, token": lambda text: bearer_token([f"Bearer {text}"], another=False),
    "X-Request-Id": looks_secret,
    "query": lambda text: selected(SHAPES["account"], {}, text.encode()),
    "query, values": lambda text: selected(SHAPES["account"], {}, f"asset={text}".encode()),
    "query of an item": lambda text: accept_only((), text.encode()),
    "query of Binance's": lambda text: accept_only(frozenset({"timestamp"}), f"timestamp={text}".encode()),
    "path": lambda text: require_readable(text.encode()),
    "name in a path": lambda text: selected(SHAPES["asset"], {"asset": text}, b""),
    "JWT": lambda text: precheck(text.encode(), "a", 0),
    "JWT, payload": lambda text: precheck(f"e30.{text}.x".encode(), "a", 0),
}
"""As they read beyond their bounds too, where those are somebody else's to check."""

SHORT, LONG = 2_000, 16_000
STEEPEST = 3 * LONG / SHORT
"""How much longer the long one may take: three times what it is longer, for what is noise."""
UNNOTICED = 0.010
"""Seconds of CPU that are too few to tell; a nanosecond for each pair of characters would be 0.256."""

pieces = st.sampled_from(
    [
        *" \t,;=\"\\\\%.&+*/-_~:{}[]()<>|^`!#$'@?aA0é",
        "%41",
        "%zz",
        'W/"',
        "a=",
        '\\\\"',
        '"",',
        "max-age=1,",
        "asset=",
        "eyJ",
    ]
)
texts = st.tuples(st.sampled_from(["", "a1,", 'a="', '"', "a=", "W/", "e30."]), pieces, pieces | st.just(""), pieces)


def text(shape: tuple[str, str, str, str], length: int) -> str:
    """A beginning, two pieces in turn, and an end that may not fit."""
    beginning, *repeated, end = shape
    unit = "".join(repeated)
    return beginning + unit * (length // len(unit)) + end


def seconds(parse: Parser, given: str) -> float:
    """Of CPU."""
    began = time.process_time()
    with contextlib.suppress(ProblemError):
        parse(given)
    return time.process_time() - began


@pytest.mark.parametrize("name", PARSERS)
@settings(max_examples=120)
@given(shape=texts)
def test_a_text_eight_times_as_long_takes_no_more_than_its_share(name: str, shape: tuple[str, str, str, str]) -> None:
    parse = PARSERS[name]
    for _ in range(3):  # whatever else the process did in between
        if seconds(parse, text(shape, LONG)) <= max(UNNOTICED, STEEPEST * seconds(parse, text(shape, SHORT))):
            return
    pytest.fail(f"{name}: slower than linear")


@given(texts, st.booleans())
def test_a_cache_control_of_8_kib_costs_less_than_a_millisecond(shape: tuple[str, str, str, str], split: bool) -> None:  # noqa: FBT001
    def read(given: str) -> object:
        return request_directives(bounded("Cache-Control", given.split(" ") if split else [given]), [])

    assert min(seconds(read, text(shape, length)) for length in (1_000, 8_192) for _ in range(3)) < 0.001
