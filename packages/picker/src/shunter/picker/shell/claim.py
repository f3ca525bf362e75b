"""What a supervisor claims before it starts anything: its runtime directory and its ports. What is taken is refused by name.

The directory is claimed by a lock, with the pid inside, which the kernel gives back however a process ends: a second
supervisor is refused at once. The workers of one that was killed sit in the directory until they have noticed (``shell.memory``
has a lock for each seat), and its successor waits for that, because each file there has one writer.

A port is claimed by a socket that is bound with SO_REUSEPORT and does not listen. Our own workers bind beside it, a successor
while its predecessor still drains; a program that does not share the port, or of another user, cannot.
"""

import asyncio
import fcntl
import os
import socket
import time
from collections.abc import Collection, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from shunter.picker.errors import ConfigError

__all__ = ["Ports", "await_seats", "claim_directory", "count_upward"]

LOCK = "supervisor.lock"
LAST_PORT = 65535

# A worker notices at once that its supervisor is gone, and ends within ORPHAN_S (shell.process) if it can.
SEATS_FREE_S = 10.0
LOOK_S = 0.05


@contextmanager
def claim_directory(directory: Path) -> Generator[None]:
    """Make ``directory`` ours alone; raise ConfigError if another supervisor has it."""
    with ExitStack() as stack:
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = stack.enter_context((directory / LOCK).open("a+"))
        except OSError as error:
            raise ConfigError(f"cannot use {directory}: {error.strerror}; choose another with --runtime") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            raise ConfigError(
                f"another picker (process {lock.read() or 'unknown'}) runs in {directory};"
                " end it, or choose another directory with --runtime"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


async def await_seats(directory: Path) -> None:
    """Wait until nobody sits in ``directory`` any more; raise ConfigError if somebody stays."""
    deadline_s = time.monotonic() + SEATS_FREE_S
    while taken := _taken(directory):
        if time.monotonic() > deadline_s:
            raise ConfigError(
                f"workers of a picker that was killed still run in {directory} after {SEATS_FREE_S:g} s;"
                f" end them (fuser {taken[0]} names one), or choose another directory with --runtime"
            )
        await asyncio.sleep(LOOK_S)


def _taken(directory: Path) -> list[Path]:
    return [path for path in directory.glob("seat-*.lock") if not _free(path)]


def _free(path: Path) -> bool:
    with path.open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def count_upward(first: int, count: int, avoid: Collection[int]) -> list[int]:
    """Return ``count`` ports from ``first`` upward without those in ``avoid``; raise ConfigError where there are not so many.

    >>> count_upward(9002, 3, {9003})
    [9002, 9004, 9005]
    """
    ports = [port for port in range(first, min(first + count + len(avoid), LAST_PORT + 1)) if port not in avoid][:count]
    if len(ports) < count:
        raise ConfigError(f"there are no {count} ports from {first} upward; lower --port or --workers")
    return ports


class Ports:
    """The ports that are claimed, until ``close``."""

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def claim(self, host: str, port: int, option: str) -> int:
        """Claim a port, any free one for 0, and return it; raise ConfigError naming ``option`` if it cannot be had."""
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            # Who listens with SO_REUSEPORT is only found by asking without it.
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
            claimed = socket.socket(family, socket.SOCK_STREAM)
            self._held.append(claimed)
            claimed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            claimed.bind(address)
        except OSError as error:
            where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            remedy = f"choose another with {option}, or stop what listens there (ss -ltnp names it)"
            raise ConfigError(f"cannot listen on {where}: {error.strerror}; {remedy}") from error
        return claimed.getsockname()[1]

    def close(self) -> None:
        """Give all of them back."""
        for claimed in self._held:
            claimed.close()
        self._held.clear()
