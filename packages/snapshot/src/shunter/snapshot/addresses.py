"""Where to listen: at an address, or at every one of both families where somebody asks for ``::``.

It is here as ``stderr`` is: this is the one package that all processes with pages know.
"""

import socket

__all__ = ["addresses_of"]


def addresses_of(host: str) -> tuple[str, ...]:
    """Return what to bind a socket to for ``host`` each: asyncio gives one of IPv6 nothing of IPv4, so ``::`` takes two.

    Where the kernel has no IPv6 (``ipv6.disable=1``) it is IPv4's alone.
    """
    if host != "::":
        return (host,)
    return ("0.0.0.0", "::") if socket.has_dualstack_ipv6() else ("0.0.0.0",)
