"""Checks of values read from Redis, before anything relies on them."""

MAX_DIGITS = 15
"""Beyond every time in ms, exact in a script's double, and few enough that parsing costs nothing."""


def whole(text: object, most: int) -> int | None:
    """A whole number from 0 to `most`; `None` if no replica can have written it."""
    # `isdigit` of bytes knows ASCII digits only: no sign, no space, no other script's digits, which `int` would take.
    if not isinstance(text, bytes) or not text.isdigit() or len(text) > MAX_DIGITS:
        return None
    number = int(text)
    return number if number <= most else None
