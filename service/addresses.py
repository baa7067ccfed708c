"""Hosts and URLs in the settings: which forms are accepted, and which parts may be shown."""

# An address of another form may be a secret in the wrong place, or contain one, so no error quotes it. The forms are
# stricter than RFC 3986: where a password has an unescaped `/`, `#`, `?` or `@`, parsers disagree on where it ends. A
# part of it would then be taken for a host, a path or a fragment, which are shown.

import ipaddress
import re
from urllib.parse import unquote, urlsplit

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"  # with `_`, since names in Docker have it
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_MAX_NAME = 253
"""Characters of a DNS name. Python's IDNA codec raises on longer names, and on labels over 63."""
_PRINTABLE = re.compile(r"[!-~]+")
_DATABASE = re.compile(r"[0-9]{0,5}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

ENCODE = "write /, #, ? and @ of a password as %2F, %23, %3F and %40, or use password_file"


def is_host(text: str) -> bool:
    """Whether the text is an IP address (IPv6 without brackets) or a DNS name in ASCII."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        last = text.rpartition(".")[2]  # all digits: httpx and browsers read it as IPv4
        return len(text) <= _MAX_NAME and _NAME.fullmatch(text) is not None and not last.isdigit()
    return "%" not in text  # no IPv6 zone


def is_loopback(host: str | None) -> bool:
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return host == "localhost"


def host_and_port(text: str) -> tuple[str, int] | None:
    """The parts of `HOST:PORT` or `[IPV6]:PORT`; None: it is neither."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]]+)):([0-9]{1,5})", text)
    if match is None:
        return None
    host, port = match[1] or match[2], int(match[3])
    # Only an IPv6 address has brackets, and it must have them.
    valid = (":" in host) == bool(match[1]) and is_host(host.removesuffix("."))
    return (host, port) if valid and 0 < port <= 65_535 else None


def base_url_fault(url: str) -> str | None:
    """What is wrong with the base URL of an HTTP API; None: nothing."""
    match = re.fullmatch(r"(https?)://([^/?#]*)(.*)", url) if _PRINTABLE.fullmatch(url) else None
    if match is None or not _is_authority(match[2]) or match[2].partition(":")[0].endswith("."):
        return "expected https://HOST or https://HOST:PORT"
    if match[3].strip("/"):
        return "expected no path: the gateway knows the paths"
    # Keys and tokens must not cross a network in the clear.
    if match[1] == "http" and not is_loopback(urlsplit(url).hostname):
        return "expected https (http only to a loopback host)"
    return None


def redis_url_fault(url: str) -> str | None:
    """What is wrong with a URL of Redis; None: nothing."""
    scheme, _, rest = url.partition("://")
    if scheme not in ("redis", "rediss", "unix") or not rest:
        return "expected redis://, rediss:// or unix://"
    if not _PRINTABLE.fullmatch(rest):
        return "expected printable ASCII, all else percent-encoded"
    if "#" in rest:
        return f"expected no fragment (#): {ENCODE}"
    if "?" in rest:
        return f"expected no query (?), which would override the gateway's own time-outs: {ENCODE}"
    authority, _, path = rest.partition("/")
    if authority.count("@") > 1 or "@" in path:
        return f"expected one @ at the most, before the host: {ENCODE}"
    host = authority.rpartition("@")[2]
    if scheme == "unix":
        valid = not host and path.strip("/") and not _CONTROL.search(unquote(path))
        return None if valid else "expected unix:///PATH"
    if not _is_authority(host):
        return f"expected {scheme}://HOST or {scheme}://HOST:PORT; {ENCODE}"
    if not _DATABASE.fullmatch(path):
        return f"expected nothing after the host and port but the number of a database; {ENCODE}"
    return None


def mask_url(url: str) -> str:
    """Scheme, host and port of a URL; user info is masked, and so is the whole of a URL that is not accepted."""
    if base_url_fault(url) is not None and redis_url_fault(url) is not None:
        return "…"
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    return f"{parts.scheme}://{'…@' if user else ''}{host or '…'}"


def password_of(url: str) -> str | None:
    """The password in an accepted URL, still percent-encoded."""
    return urlsplit(url).password


def _is_authority(text: str) -> bool:
    """Whether the text is HOST or [IPV6], with a port or without."""
    has_port = re.search(r":[0-9]+\Z", text) and not text.endswith("]")
    return host_and_port(text if has_port else f"{text}:1") is not None
