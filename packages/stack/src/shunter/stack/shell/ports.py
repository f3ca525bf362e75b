"""Free ports: found and held, or refused by name."""

import socket
from collections.abc import Mapping
from contextlib import ExitStack

from shunter.stack.core.plan import LOOPBACK
from shunter.stack.errors import StackError

__all__ = ["claim"]

LAST_PORT = 65535


def claim(wanted: Mapping[str, int], held: ExitStack) -> dict[str, int]:
    """Return a free port of 127.0.0.1 for each name: the one wanted, or any for 0.

    Until ``held`` is closed the kernel gives them to nobody who wants any port: their sockets are bound and do not listen.
    Whoever is told of one listens there all the same, if it sets SO_REUSEADDR or SO_REUSEPORT, as servers do.
    Raises StackError naming each port that is taken and the option that chooses another.
    """
    claimed: dict[str, int] = {}
    taken: list[str] = []
    for option, port in wanted.items():
        if port > LAST_PORT:
            taken.append(f"port {port} ({option}): the last port is {LAST_PORT}")
            continue
        if port and port in claimed.values():  # two that do not listen may be bound to one port
            taken.append(f"port {port} ({option}): wanted twice")
            continue
        probe = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            taken.append(f"port {port} ({option}): {error.strerror}")
        else:
            # Envoy and others listen with SO_REUSEPORT; having asked without it is what finds them.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            claimed[option] = probe.getsockname()[1]
    if taken:
        raise StackError("; ".join(taken) + "; choose others, or --any-port")
    return claimed
