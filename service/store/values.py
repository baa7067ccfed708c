"""Values that stand in Redis, before anything is believed of them."""

DIGITS = 15
"""Of the longest number: beyond every time in ms, and before the digits become work."""


def whole(text: object, most: int) -> int | None:
    """A whole number from 0 to `most`; `None`: no replica wrote that."""
    if not isinstance(text, bytes) or not text.isdigit() or len(text) > DIGITS:
        return None
    number = int(text)
    return number if number <= most else None
