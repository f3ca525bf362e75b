"""What runs, and where: ``stack.json`` in the runtime directory, believed as long as its lock is held."""

import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from shunter.snapshot import SnapshotError, runtime_directory
from shunter.snapshot.locks import is_taken, take
from shunter.stack.core.plan import Plan
from shunter.stack.errors import StackError

__all__ = ["State", "hold", "load", "save"]

FILE = "stack.json"
# Locked by the stack that runs, with its pid inside. The kernel lets go however a process ends; a pid alone would be
# believed again once another process has got it.
LOCK = "stack.lock"


class State(msgspec.Struct, frozen=True):
    """A running stack; ``pids`` by the names of its processes."""

    plan: Plan
    pids: dict[str, int]


@contextmanager
def hold(name: str, directory: Path) -> Generator[None]:
    """Be the one stack of this name; raises StackError if another one is. Its state is gone afterwards."""
    with (directory / LOCK).open("a+") as lock:
        if not _ask(take, lock):
            lock.seek(0)
            raise StackError(f"stack {name!r} is running already (process {lock.read()}); end it, or start another with --name")
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        (directory / FILE).unlink(missing_ok=True)  # of a stack that was killed
        try:
            yield
        finally:
            (directory / FILE).unlink(missing_ok=True)


def save(directory: Path, state: State) -> None:
    """Write the state atomically."""
    temporary = directory / f"{FILE}.{os.getpid()}"
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(state), indent=2))
    temporary.replace(directory / FILE)


def load(name: str) -> State:
    """Return the state of the running stack ``name``; raises StackError if there is none."""
    try:
        directory = runtime_directory(name, create=False)
        with (directory / LOCK).open() as lock:
            if not _ask(is_taken, lock):
                raise FileNotFoundError(LOCK)
        return msgspec.json.decode((directory / FILE).read_bytes(), type=State)
    except SnapshotError as error:
        raise StackError(str(error)) from error
    except (OSError, msgspec.MsgspecError):
        raise StackError(f"no stack {name!r} is running on this machine; start one with: shunter up --name {name}") from None


def _ask(ask: Callable[[IO[str]], bool], lock: IO[str]) -> bool:
    try:
        return ask(lock)
    except OSError as error:  # as where the temporary directory is on a network
        raise StackError(
            f"{lock.name}: cannot be locked: {error.strerror}; let TMPDIR be a directory of this machine"
        ) from None
