"""Looks up the addresses of DNS names, and keeps the last ones known when a look-up fails.

A name with addresses of both families is taken by its IPv4 addresses: one server under two addresses would be counted twice.
"""

import asyncio
import socket
from collections.abc import Iterable, Mapping

__all__ = ["Names"]

# A resolver that takes longer is as good as dead; the next round asks again.
LOOK_UP_TIMEOUT_S = 2.0
FAMILIES = (socket.AF_INET, socket.AF_INET6)


class Names:
    """The addresses of the names that are wanted."""

    def __init__(self) -> None:
        self.addresses: Mapping[str, tuple[str, ...]] = {}
        self.failures: Mapping[str, str] = {}
        """Why the last look-up of a name failed, of the names whose did."""

    async def look_up(self, names: Iterable[str]) -> None:
        """Look up exactly these names; does not raise."""
        wanted = sorted(names)
        answers = await asyncio.gather(*map(_look_up, wanted), return_exceptions=True)
        addresses: dict[str, tuple[str, ...]] = {}
        failures: dict[str, str] = {}
        for name, answer in zip(wanted, answers, strict=True):
            if isinstance(answer, BaseException):
                failures[name] = getattr(answer, "strerror", None) or str(answer) or "no answer"
                addresses[name] = self.addresses.get(name, ())
            else:
                addresses[name] = answer
        self.addresses, self.failures = addresses, failures


async def _look_up(name: str) -> tuple[str, ...]:
    async with asyncio.timeout(LOOK_UP_TIMEOUT_S):
        found = await asyncio.get_running_loop().getaddrinfo(name, None, type=socket.SOCK_STREAM)
    both = [{str(address[0]) for kind, *_, address in found if kind == family} for family in FAMILIES]
    return tuple(sorted(both[0] or both[1]))
