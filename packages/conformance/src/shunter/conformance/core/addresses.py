"""Addresses, `host:port` with an IPv6 host in brackets: read in one way wherever somebody is told of one."""

from ipaddress import ip_address
from urllib.parse import urlsplit

from shunter.conformance.errors import UsageError

__all__ = ["check_address", "check_endpoint", "split_address", "with_port"]


def split_address(address: str) -> tuple[str, int]:
    """Return the host, without the brackets of IPv6, and the port; raises ValueError."""
    parts = urlsplit(f"//{address}")
    host, port = parts.hostname, parts.port
    if parts.netloc != address or "@" in address or not host or port is None or " " in host:
        raise ValueError(address)
    return host, port


def with_port(address: str, port: int) -> str:
    """Another port of the same host: whoever reaches one reaches the other."""
    return f"{address.rpartition(':')[0]}:{port}"


def check_address(address: str, name: str) -> str:
    """Return the address; raises UsageError, which begins with its name, if it is none."""
    try:
        split_address(address)
    except ValueError:
        raise UsageError(f"{name} {address!r}: want HOST:PORT") from None
    return address


def check_endpoint(address: str, name: str) -> str:
    """Return the address of a model server as pickers write it, by IP (GIE proposal 004: `<ip:port>`); raises UsageError."""
    host, port = split_address(check_address(address, name))
    try:
        ip = ip_address(host)
    except ValueError:
        raise UsageError(f"{name} {address!r}: want IP:PORT, since pickers name endpoints by IP") from None
    return f"[{ip}]:{port}" if ip.version == 6 else f"{ip}:{port}"
