"""Certificates and keys in files, checked before the server or a client uses them."""

# OpenSSL prompts for a pass phrase on the terminal, and reads any kind of file, even a pipe. Either would block the
# start. So each file is first read here, bounded, and a key with a pass phrase is refused.

import ssl
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from service.files import MAX_FILE, FileError, read_bounded
from service.settings import Server
from service.settings_file import SettingsError

CERTIFICATE, KEY = "server.tls_certificate_file", "server.tls_key_file"


def trust(path: Path, key: str) -> ssl.SSLContext:
    """A client context that trusts only the certificates in a file; `key` names it in the settings.

    Raises:
        SettingsError: the file holds no certificates.
    """
    _read(path, key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(path)
    except OSError:  # includes ssl.SSLError
        raise SettingsError(f"{key}: expected certificates in PEM") from None
    return context


def private_key(pem: bytes, key: str) -> PrivateKeyTypes:
    """The private key in a PEM text; `key` names its file in the settings.

    Raises:
        SettingsError: it is no key, of an unsupported kind, or has a pass phrase.
    """
    try:
        return load_pem_private_key(pem, password=None)
    except TypeError:  # cryptography's error for a missing pass phrase
        raise SettingsError(f"{key}: expected a PEM private key without a pass phrase") from None
    except (ValueError, UnsupportedAlgorithm):
        raise SettingsError(f"{key}: expected a PEM private key") from None


def require_pair(server: Server) -> tuple[datetime, datetime] | None:
    """Check that the server can use its certificate and key.

    Returns:
        The start and the end (UTC) of the certificate's validity; None if no pair is configured.

    Raises:
        SettingsError: it can't.
    """
    if server.tls_certificate_file is None or server.tls_key_file is None:
        return None
    certificate_pem, key_pem = _read(server.tls_certificate_file, CERTIFICATE), _read(server.tls_key_file, KEY)
    # The first certificate is the server's own; its chain follows (RFC 8446 §4.4.2).
    try:
        certificate = x509.load_pem_x509_certificates(certificate_pem)[0]
    except ValueError:
        raise SettingsError(f"{CERTIFICATE}: expected a certificate in PEM") from None
    if private_key(key_pem, KEY).public_key() != certificate.public_key():
        raise SettingsError(f"{KEY}: expected the key of the certificate in {CERTIFICATE}")
    # OpenSSL has the last word: it refuses weak keys and digests that `cryptography` reads.
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(server.tls_certificate_file, server.tls_key_file, _no_pass_phrase)
    except OSError:
        raise SettingsError(f"{CERTIFICATE}: expected a certificate and key that OpenSSL takes") from None
    return certificate.not_valid_before_utc, certificate.not_valid_after_utc


def _no_pass_phrase() -> NoReturn:
    """Instead of OpenSSL's prompt, if the file gets a pass phrase between the two reads."""
    raise OSError("nobody is asked for a pass phrase")


def _read(path: Path, key: str) -> bytes:
    try:
        return read_bounded(path, MAX_FILE)
    except FileError as exc:
        raise SettingsError(f"{key}: {exc}") from None
