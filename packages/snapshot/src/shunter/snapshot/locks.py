"""A file that one process has and others ask about: whoever only asks is never taken for the one who has it.

The kernel lets go of a lock when its process ends, however it does. It has no way to ask without locking, so who asks shares
the lock for an instant; who wants it all meanwhile finds that out by sharing it too, and tries again.

It is here as ``stderr`` is: this is the one package that all processes know.
"""

import fcntl
import time
from typing import IO, Any

__all__ = ["is_taken", "take"]

# Who asks shares a lock for microseconds; one that was stopped in the middle of them has it like anybody else.
PATIENCE_S = 1.0
PAUSE_S = 0.001


def take(file: IO[Any]) -> bool:
    """Have an open file until it is closed; tell whether nobody else has it. Raises OSError where files have no locks."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not is_taken(file) and time.monotonic() < deadline_s:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(PAUSE_S)
        else:
            return True
    return False


def is_taken(file: IO[Any]) -> bool:
    """Tell whether another process, or this one by another opening, has an open file. Raises OSError as ``take`` does."""
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(file, fcntl.LOCK_UN)
    return False
