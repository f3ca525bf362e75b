"""Where to listen: at an address, or at every one of both families where somebody asks for ``::``; and why not.

It is here as ``stderr`` is: this is the one package that all processes with pages know.
"""

import os
import socket

__all__ = ["addresses_of", "why_not"]


def addresses_of(host: str) -> tuple[str, ...]:
    """Return what to bind a socket to for ``host`` each: asyncio gives one of IPv6 nothing of IPv4, so ``::`` takes two.

    Where the kernel has no IPv6 (``ipv6.disable=1``) it is IPv4's alone.
    """
    if host != "::":
        return (host,)
    return ("0.0.0.0", "::") if socket.has_dualstack_ipv6() else ("0.0.0.0",)


def why_not(error: OSError) -> str:
    """Say why nobody can listen there, without the place.

    asyncio's words tell the place again, and from Python 3.13 on are all there is if the address is not this machine's; of a
    name that nobody knows the number is negative.
    """
    return os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
