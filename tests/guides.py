"""The documents' examples, for the tests that do what they say."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]


def blocks(page: str, language: str, containing: str = "") -> list[str]:
    """A page's fenced blocks of one language, those in lists too; there is at least one."""
    text = (ROOT / page).read_text("utf-8")
    found = [block for block in re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL) if containing in block]
    assert found, f"{page} has no {language} block with {containing!r}"
    return found
