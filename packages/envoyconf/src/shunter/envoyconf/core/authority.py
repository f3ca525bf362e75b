"""Hosts and ports as operators write them, and how to tell a name from an address."""

import re
from collections.abc import Iterable
from ipaddress import ip_address

from shunter.envoyconf.errors import IntentError

__all__ = ["check_address", "check_authorities", "check_authority", "check_host", "is_ip", "join_authority", "split_authority"]

# Underscores are no part of a host name, but Docker Compose makes such.
LABEL = r"[A-Za-z0-9_]([-A-Za-z0-9_]{0,61}[A-Za-z0-9_])?"
HOST_NAME = re.compile(rf"(?=.{{1,253}}\Z){LABEL}(\.{LABEL})*\.?")
LOOKS_NUMERIC = re.compile(r"[0-9.]+")


def is_ip(host: str) -> bool:
    """Say whether a host is an IP address, without a zone, rather than a name."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return "%" not in host


def is_name(host: str) -> bool:
    """Say whether a host is a DNS name; four numbers with a mistake in them are not, though DNS would have them."""
    return bool(HOST_NAME.fullmatch(host)) and not LOOKS_NUMERIC.fullmatch(host)


def split_authority(authority: str) -> tuple[str, int]:
    """Return host and port of ``host:port``, ``a.b.c.d:port`` or ``[v6]:port``; raise IntentError for anything else."""
    if authority.startswith(("unix:/", "/")):
        raise IntentError(
            f"{authority!r} is a socket in the file system, and an intent has host:port: let it listen on 127.0.0.1, or write "
            "Envoy's configuration yourself"
        )
    host, _, port = authority.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    valid_host = is_ip(host) if bracketed or ":" in host else is_ip(host) or is_name(host)
    if not valid_host or bracketed != (":" in host):
        raise IntentError(f"{authority!r} must be host:port, such as 10.0.0.7:8000 or [fd00::7]:8000")
    if not (port.isascii() and port.isdecimal() and len(port) <= 5 and 1 <= int(port) <= 65535):
        raise IntentError(f"{authority!r} needs a port from 1 to 65535")
    return host, int(port)


def join_authority(host: str, port: int) -> str:
    """Return host and port as one text; an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_authority(field: str, authority: str) -> tuple[str, int]:
    """Return host and port; raise IntentError, which names the field, unless it is host:port."""
    try:
        return split_authority(authority)
    except IntentError as error:
        raise IntentError(f"{field} {error}") from None


def check_authorities(field: str, authorities: Iterable[str]) -> None:
    """Raise IntentError unless all are host:port and none is there twice, however it is written."""
    seen: dict[tuple[str, int], int] = {}
    for index, authority in enumerate(authorities):
        host, port = check_authority(f"{field}[{index}]", authority)
        place = str(ip_address(host)) if is_ip(host) else host.lower(), port
        if place in seen:
            raise IntentError(f"{field}[{index}] {authority!r} is {field}[{seen[place]}] once more")
        seen[place] = index


def check_host(field: str, host: str) -> None:
    """Raise IntentError unless it is a DNS name or an IP address."""
    if not is_ip(host) and not is_name(host):
        raise IntentError(f"{field} {host!r} must be a host name or an IP address")


def check_address(address: str) -> None:
    """Raise IntentError unless it can be bound."""
    if not is_ip(address):
        raise IntentError(f"address {address!r} must be an IP address, such as 127.0.0.1, 0.0.0.0 or ::")
