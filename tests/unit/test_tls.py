"""A certificate and key that can't be served with are refused by name, without a question on the terminal."""

import datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from service.settings import Server
from service.settings_file import SettingsError
from service.tls import require_pair
from tests.process.certificates import write_certificate

KEY = ec.generate_private_key(ec.SECP256R1())
PLAIN = KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
LOCKED = BestAvailableEncryption(b"canary")
REFUSED = [
    ("key", KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, LOCKED), "private key without a pass phrase"),
    ("key", KEY.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, LOCKED), "without a pass phrase"),
    ("key", PLAIN, "the key of the certificate in server.tls_certificate_file"),
    ("key", b"canary", "a PEM private key"),
    ("key", None, "cannot be read: No such file or directory"),
    ("certificate", b"canary", "a certificate in PEM"),
    ("certificate", b"", "a certificate in PEM"),
    ("certificate", PLAIN, "a certificate in PEM"),
    ("certificate", None, "cannot be read: No such file or directory"),
]


def test_a_pair_is_good_and_says_until_when(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    validity = require_pair(Server(tls_certificate_file=certificate, tls_key_file=key))
    assert validity is not None
    assert validity[0] < datetime.datetime.now(datetime.UTC) < validity[1]
    assert require_pair(Server()) is None


@pytest.mark.parametrize(("which", "content", "expected"), REFUSED)
def test_a_bad_pair_is_refused_by_its_key(tmp_path: Path, which: str, content: bytes | None, expected: str) -> None:
    files: dict[str, Path] = dict(zip(("certificate", "key"), write_certificate(tmp_path), strict=True))
    if content is None:
        files[which].unlink()
    else:
        files[which].write_bytes(content)
    with pytest.raises(SettingsError) as refusal:
        require_pair(Server(tls_certificate_file=files["certificate"], tls_key_file=files["key"]))
    assert str(refusal.value).startswith(f"server.tls_{which}_file: ")
    assert str(refusal.value).endswith(expected)
    assert "canary" not in str(refusal.value)
