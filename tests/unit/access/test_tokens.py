import hashlib
import re

import pytest

from service.access import tokens

TOKEN = "cgw_" + "0" * 43 + "062kxq"  # the same in every worker, for the names of the tests


def test_a_new_token_has_the_form_that_scanners_look_for() -> None:
    assert re.fullmatch(r"cgw_[0-9A-Za-z]{49}", TOKEN)
    assert tokens.well_formed(TOKEN)


def test_no_two_tokens_are_alike() -> None:
    assert len({tokens.generate() for _ in range(100)}) == 100


def test_the_checksum_is_the_crc_32_in_base_62() -> None:
    assert tokens.well_formed("cgw_" + "0" * 43 + "062kxq")  # computed apart: tokens in the field must stay valid
    assert not tokens.well_formed("cgw_" + "0" * 43 + "062kxr")


@pytest.mark.parametrize(
    "token",
    [
        "",
        "cgw_",
        TOKEN[:-1],
        TOKEN + "0",
        TOKEN + "\n",
        " " + TOKEN[1:],
        TOKEN.swapcase(),
        TOKEN[:10] + ("0" if TOKEN[10] != "0" else "1") + TOKEN[11:],  # one character mistyped
        TOKEN[:10] + "é" + TOKEN[11:],
        TOKEN[:10] + "\udc80" + TOKEN[11:],  # a byte that was no UTF-8
        "ghp_" + TOKEN[4:],
    ],
)
def test_anything_else_is_not_well_formed(token: str) -> None:
    assert not tokens.well_formed(token)


def test_a_digest_is_the_sha_256_in_hex() -> None:
    assert tokens.digest(b"cgw_x") == hashlib.sha256(b"cgw_x").hexdigest()
