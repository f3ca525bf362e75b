"""Ports of this machine: some that are free, and some that stay ours while nobody listens."""

import contextlib
import random
import socket

__all__ = ["free_ports", "hold"]

# Linux gives clients ports from 32,768 on: one of theirs may be in use at the moment when somebody wants to listen there.
UNASSIGNED = 15_000, 32_000


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 in a row that nobody has at this moment: whoever is told of one has to be told before it listens.

    None is one that a client is given meanwhile by its system.
    """
    while True:
        first = random.randrange(*UNASSIGNED)  # noqa: S311 – lots, no secrets
        ports = [*range(first, first + count)]
        with contextlib.ExitStack() as held, contextlib.suppress(OSError):
            for port in ports:
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            return ports


def hold(host: str, port: int) -> contextlib.ExitStack:
    """Keep others from a port until this is closed; raises OSError where somebody has it.

    Who connects is refused. Whoever listens there with SO_REUSEADDR, as servers of asyncio do, can come and go meanwhile.
    """
    with contextlib.ExitStack() as held:
        for family, kind, protocol, _, place in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            each = held.enter_context(socket.socket(family, kind, protocol))
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:  # as asyncio does, beside 0.0.0.0
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            each.bind(place)
        return held.pop_all()
