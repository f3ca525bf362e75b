"""Ports of this machine: some that are free, and some that stay ours while nobody listens."""

import contextlib
import errno
import random
import socket

__all__ = ["free_ports", "hold"]

# Linux gives clients ports from 32,768 on: one of theirs may be in use at the moment when somebody wants to listen there.
UNASSIGNED = 15_000, 32_000

# Where a hundred draws find nothing, more will not.
DRAWS = 100

# Not the dice that a test seeds: the run beside it, of the same seed, would draw the same.
LOTS = random.SystemRandom()


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 in a row that nobody has at this moment: whoever is told of one has to be told before it listens.

    None is one that a client is given meanwhile by its system, or that somebody holds. Raises OSError where there are none.
    """
    for _ in range(DRAWS):
        first = LOTS.randrange(*UNASSIGNED)
        ports = [*range(first, first + count)]
        try:
            with contextlib.ExitStack() as held:
                for port in ports:  # without SO_REUSEADDR, by which one gets what is held, too
                    held.enter_context(socket.socket()).bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return ports
    raise OSError(errno.EADDRINUSE, f"no {count} ports in a row are free on 127.0.0.1")


def hold(host: str, port: int) -> contextlib.ExitStack:
    """Keep others from a port until this is closed; raises OSError where somebody has it.

    Who connects is refused. Whoever listens there with SO_REUSEADDR, as servers of asyncio do, can come and go meanwhile.
    """
    with contextlib.ExitStack() as held:
        for family, kind, protocol, _, place in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            try:
                each = held.enter_context(socket.socket(family, kind, protocol))
            except OSError:  # a family that this kernel has not: asyncio leaves it out, too
                continue
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:  # as asyncio does, beside 0.0.0.0
                each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            each.bind(place)
        return held.pop_all()
