import gzip

import pytest

from service.web.compression import UNCOMPRESSED, accepts_gzip, compress, compressed_etag, encoded, is_compressible

ROWS = b'{"asset":"BTC","walletBalance":"0.00000000"},' * 100


@pytest.mark.parametrize(
    ("accept_encoding", "accepted"),
    [
        (["gzip"], True),
        (["GZip"], True),
        (["gzip, deflate, br, zstd"], True),
        (["br", "gzip"], True),
        (["*"], True),
        (["gzip;q=0.001"], True),
        (["gzip ; Q=1.000"], True),
        (["gzip;q=0.8, identity;q=0.8"], True),
        (["identity;q=0, *;q=0.5"], True),
        ([], False),
        ([""], False),
        (["identity"], False),
        (["br, deflate"], False),
        (["gzip;q=0"], False),
        (["gzip;q=0.000, *"], False),
        (["gzip;q=0.5, identity"], False),
        (["*;q=0"], False),
        (["gzip;q=2"], False),
        (["gzip;q=soon"], False),
        (["gzip;"], False),
        (["xgzip"], False),
    ],
)
def test_gzip_is_accepted_as_the_rfc_says(accept_encoding: list[str], *, accepted: bool) -> None:
    assert accepts_gzip(accept_encoding) is accepted


def test_a_compressed_body_is_the_body_and_equal_bodies_are_compressed_to_equal_bytes() -> None:
    assert gzip.decompress(compress(ROWS)) == ROWS
    assert compress(ROWS) == compress(bytes(bytearray(ROWS)))
    assert len(compress(ROWS)) < len(ROWS) / 10


def test_a_body_in_gzip_has_a_strong_tag_of_its_own() -> None:
    assert compressed_etag('"abc"') == '"abc-gzip"'


@pytest.mark.parametrize(("size", "compressible"), [(UNCOMPRESSED, False), (UNCOMPRESSED + 1, True)])
def test_bodies_over_a_kibibyte_are_compressed(size: int, *, compressible: bool) -> None:
    assert is_compressible(bytes(size)) is compressible


async def test_a_body_without_a_view_is_sent_as_its_caller_accepts_it() -> None:
    assert await encoded(ROWS, ["identity"]) == (ROWS, {})
    assert await encoded(ROWS[:100], ["gzip"]) == (ROWS[:100], {})
    body, headers = await encoded(ROWS, ["gzip"])
    assert (gzip.decompress(body), headers) == (ROWS, {"content-encoding": "gzip"})
    again, _ = await encoded(bytes(bytearray(ROWS)), ["gzip"])
    assert again is body
