"""Free ports: found, or refused by name."""

import socket
from collections.abc import Mapping

from shunter.stack.core.plan import LOOPBACK
from shunter.stack.errors import StackError

__all__ = ["claim"]

LAST_PORT = 65535


def claim(wanted: Mapping[str, int]) -> dict[str, int]:
    """Return a free port of 127.0.0.1 for each name: the one wanted, or any for 0.

    Raises StackError naming each port that is taken and the option that chooses another.
    """
    held: list[socket.socket] = []
    claimed: dict[str, int] = {}
    taken: list[str] = []
    try:
        for option, port in wanted.items():
            if port > LAST_PORT:
                taken.append(f"port {port} ({option}): the last port is {LAST_PORT}")
                continue
            if port and port in claimed.values():  # two that do not listen may be bound to one port
                taken.append(f"port {port} ({option}): wanted twice")
                continue
            # Envoy and others listen with SO_REUSEPORT; asking without it is what finds them.
            probe = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            held.append(probe)
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError as error:
                taken.append(f"port {port} ({option}): {error.strerror}")
            else:
                claimed[option] = probe.getsockname()[1]
    finally:
        for probe in held:
            probe.close()
    if taken:
        raise StackError("; ".join(taken) + "; choose others, or --any-port")
    return claimed
