"""What a supervisor claims before it starts anything: its runtime directory and its ports. What is taken is refused by name.

The directory is claimed by a lock, with the pid inside, which the kernel gives back however a process ends: a second
supervisor is refused at once. The workers of one that was killed sit in the directory for some seconds more (``shell.memory``
has a lock for each seat) and go on with their work. Its successor takes other seats and the same ports, and relieves them.

A port is claimed by a socket that is bound with SO_REUSEPORT and does not listen. Our own workers bind beside it, a successor
while its predecessor still drains; a program that does not share the port, or of another user, cannot.
"""

import asyncio
import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Collection, Generator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from shunter.picker.errors import ConfigError
from shunter.picker.shell.service import ALONE_S, LAST_WORDS_S, ORPHAN_S

__all__ = ["LOOK_S", "Ports", "await_seats", "claim_directory", "count_upward", "taken_seats"]

LOCK = "supervisor.lock"
LAST_PORT = 65535

# By then an orphan has ended, if it can.
SEATS_FREE_S = ALONE_S + ORPHAN_S + LAST_WORDS_S
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


async def await_seats(directory: Path, enough: Callable[[set[int]], bool]) -> set[int]:
    """Wait until ``enough`` is true of the seats that are taken, and return them; raise ConfigError if that takes too long."""
    deadline_s = time.monotonic() + SEATS_FREE_S
    while not enough(taken := taken_seats(directory)):
        if time.monotonic() > deadline_s:
            raise ConfigError(
                f"workers of a picker that was killed still run in {directory} after {SEATS_FREE_S:g} s; end them"
                f" (fuser {directory / f'seat-{min(taken)}.lock'} names one), or choose another directory with --runtime"
            )
        await asyncio.sleep(LOOK_S)
    return taken


def taken_seats(directory: Path, among: Collection[int] | None = None) -> set[int]:
    """Return the seats in which somebody sits, ``among`` those or all.

    Whoever would sit down in the same moment finds the seat taken: while children are started, only others' may be looked at.
    """
    locks = {int(path.stem.removeprefix("seat-")): path for path in directory.glob("seat-*.lock")}
    return {index for index, path in locks.items() if (among is None or index in among) and not _free(path)}


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
    """The ports that are claimed, until ``close``; ``shared`` already with workers that are to be relieved."""

    def __init__(self, *, shared: bool = False) -> None:
        self._shared = shared
        self._held: list[socket.socket] = []
        self._options: dict[int, str] = {}  # which has a port

    def claim(self, host: str, port: int, option: str) -> int:
        """Claim a port, any free one for 0, and return it; raise ConfigError naming ``option`` if it cannot be had."""
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
            if not self._shared:  # who listens with SO_REUSEPORT is only found by asking without it
                with socket.socket(family, socket.SOCK_STREAM) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(address)
            claimed = socket.socket(family, socket.SOCK_STREAM)
            self._held.append(claimed)
            claimed.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            claimed.bind(address)
        except OSError as error:
            where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
                remedy = "give an address of this machine with --host"
            elif port in self._options:
                remedy = f"{self._options[port]} has it already; choose another with {option}"
            else:
                remedy = f"choose another with {option}, or stop what listens there (ss -ltnp names it)"
            raise ConfigError(f"cannot listen on {where}: {error.strerror}; {remedy}") from error
        found: int = claimed.getsockname()[1]
        self._options.setdefault(found, option)
        return found

    def close(self) -> None:
        """Give all of them back."""
        for claimed in self._held:
            claimed.close()
        self._held.clear()
