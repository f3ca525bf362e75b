"""The processes of a session, from /proc: whatever a server starts is among them, be its parent dead or not."""

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

__all__ = ["bound_to_us", "members", "shared_memory"]

PROC = Path("/proc")

# After the name in brackets, which may itself have brackets and spaces: state, parent, process group, session.
STATE, SESSION = 0, 3
ZOMBIE = "Z"

# Of prctl: which signal a process gets when whoever started it is no more.
PR_SET_PDEATHSIG = 1

SHARED = "/dev/shm/"  # noqa: S108 – where Linux keeps it


def bound_to_us() -> Callable[[], None] | None:
    """What a child does first, so that the kernel tells it to end when we are killed; None where no kernel does that."""
    if sys.platform != "linux":
        return None
    we, libc = os.getpid(), ctypes.CDLL(None)

    def bind() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != we:  # killed before that
            os._exit(1)

    return bind


def members(session: int) -> Iterator[tuple[int, str]]:
    """The living processes of a session, and the command line of each; none where there is no /proc."""
    for directory in PROC.glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            fields = (directory / "stat").read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[SESSION]) == session and fields[STATE] != ZOMBIE:
                yield int(directory.name), (directory / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def shared_memory(pid: int) -> set[Path]:
    """The pieces of shared memory that a process has mapped, as files."""
    with suppress(OSError):
        maps = (PROC / str(pid) / "maps").read_text(errors="replace")
        return {
            Path(SHARED + line.rpartition(SHARED)[2])
            for line in maps.splitlines()
            if SHARED in line and "(deleted)" not in line
        }
    return set()
