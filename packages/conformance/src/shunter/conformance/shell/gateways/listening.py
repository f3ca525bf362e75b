"""Addresses at which the exam listens in the place of pickers and model servers."""

from urllib.parse import urlsplit

__all__ = ["split_address"]


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of `host:port` or `[host]:port`, which has been checked."""
    parts = urlsplit(f"//{address}")
    return parts.hostname or "", parts.port or 0
