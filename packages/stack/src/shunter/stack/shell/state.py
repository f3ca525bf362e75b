"""``stack.json`` in the runtime directory: what runs, and where, for ``top``, ``explain`` and tests."""

import os
from pathlib import Path

import msgspec

from shunter.snapshot import runtime_directory
from shunter.stack.core.plan import Plan
from shunter.stack.errors import StackError

__all__ = ["State", "forget", "load", "save"]

FILE = "stack.json"


class State(msgspec.Struct, frozen=True):
    """A running stack."""

    pid: int
    plan: Plan
    pids: dict[str, int]


def save(directory: Path, state: State) -> None:
    """Write the state atomically."""
    temporary = directory / f"{FILE}.{os.getpid()}"
    temporary.write_bytes(msgspec.json.format(msgspec.json.encode(state), indent=2))
    temporary.replace(directory / FILE)


def load(name: str) -> State:
    """Return the state of the running stack ``name``; raise StackError if there is none."""
    path = runtime_directory(name) / FILE
    try:
        state = msgspec.json.decode(path.read_bytes(), type=State)
        os.kill(state.pid, 0)
    except (OSError, msgspec.MsgspecError):
        raise StackError(f"no stack {name!r} is running on this machine; start one with: shunter up --name {name}") from None
    return state


def forget(directory: Path) -> None:
    """Remove the state."""
    (directory / FILE).unlink(missing_ok=True)
