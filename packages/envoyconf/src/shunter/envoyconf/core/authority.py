"""Hosts and ports as operators write them, sockets in the file system, and how to tell a name from an address."""

import posixpath
import re
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address

from shunter.envoyconf.errors import IntentError

__all__ = [
    "UNIX",
    "check_address",
    "check_authorities",
    "check_authority",
    "check_host",
    "check_servers",
    "is_ip",
    "is_resolved",
    "join_authority",
    "split_authority",
    "split_server",
]

# What stands before the path of a socket, as in the picker's --host.
UNIX = "unix:"

# ``sun_path`` of unix(7) without the zero that ends it. Envoy refuses longer ones.
LONGEST_PATH_BYTES = 107

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


def is_resolved(host: str) -> bool:
    """Say whether nobody has to be asked where a host of ``split_server`` is: it is an IP address, or the path of a socket."""
    return host.startswith("/") or is_ip(host)


def split_authority(authority: str) -> tuple[str, int]:
    """Return host and port of ``host:port``, ``a.b.c.d:port`` or ``[v6]:port``; raise IntentError for anything else."""
    if authority.startswith((UNIX, "/")):
        raise IntentError(
            f"{authority!r} is a socket in the file system, at which only workers of a picker or a body router can be; let it "
            "listen on an address, such as 127.0.0.1, and give host:port"
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


def split_server(server: str) -> tuple[str, int]:
    """Return host and port as ``split_authority`` does; of ``unix:PATH``, PATH, which no host looks like, and 0."""
    if server.startswith("/"):
        raise IntentError(f"{server!r} is a path: write {UNIX}{server}, if there is a socket")
    if not server.startswith(UNIX):
        return split_authority(server)
    path = server.removeprefix(UNIX)
    if not path.startswith("/") or path.endswith("/") or not path.isprintable():
        raise IntentError(f"{server!r} must be {UNIX} and the whole path of a socket, such as {UNIX}/run/shunter/picker.0")
    if (size := len(path.encode())) > LONGEST_PATH_BYTES:
        raise IntentError(
            f"{server!r} has a path of {size} bytes, and a socket's is {LONGEST_PATH_BYTES} at most; choose a shorter one"
        )
    return path, 0


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
    _check_each(field, authorities, split_authority)


def check_servers(field: str, servers: Sequence[str]) -> None:
    """Raise IntentError unless all are host:port or unix:PATH, none is there twice, and one way finds them all."""
    places = _check_each(field, servers, split_server)
    names = [index for index, (host, _) in enumerate(places) if not is_resolved(host)]
    sockets = [index for index, (host, _) in enumerate(places) if host.startswith("/")]
    if names and sockets:
        raise IntentError(
            f"{field}[{names[0]}] {servers[names[0]]!r} is a name and {field}[{sockets[0]}] a socket: Envoy looks up all of "
            "them or none; write the name's IP addresses, or leave one of both out"
        )


def _check_each(field: str, servers: Iterable[str], split: Callable[[str], tuple[str, int]]) -> list[tuple[str, int]]:
    places: dict[tuple[str, int], int] = {}
    for index, server in enumerate(servers):
        try:
            host, port = split(server)
        except IntentError as error:
            raise IntentError(f"{field}[{index}] {error}") from None
        place = _one_spelling(host), port
        if place in places:
            raise IntentError(f"{field}[{index}] {server!r} is {field}[{places[place]}] once more")
        places[place] = index
    return [*places]


def _one_spelling(host: str) -> str:
    """Return what is the same for a host however it is written."""
    if host.startswith("/"):
        return posixpath.normpath(f"/{host.lstrip('/')}")
    return str(ip_address(host)) if is_ip(host) else host.lower()


def check_host(field: str, host: str) -> None:
    """Raise IntentError unless it is a DNS name or an IP address."""
    if not is_ip(host) and not is_name(host):
        raise IntentError(f"{field} {host!r} must be a host name or an IP address")


def check_address(address: str) -> None:
    """Raise IntentError unless it can be bound."""
    if not is_ip(address):
        raise IntentError(f"address {address!r} must be an IP address, such as 127.0.0.1, 0.0.0.0 or ::")
