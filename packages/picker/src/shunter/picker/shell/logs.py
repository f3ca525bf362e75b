"""The log of a process: one line of text for each event on standard error, and few of one kind.

A peer that goes on making the same mistake, a thousand times a second, must neither fill a disk with it nor hide what else is.
"""

import logging
import sys
import time
from collections.abc import Callable

__all__ = ["BURST", "PERIOD_S", "Sparing", "log_to_stderr"]

# Of lines that one statement writes: enough to see what is going on, and from whom.
BURST = 20
PERIOD_S = 10.0


def log_to_stderr(level: str, who: str) -> None:
    """Begin every line of the log with who says it."""
    logging.basicConfig(level=level.upper(), format=f"%(asctime)s %(levelname)s {who} %(name)s %(message)s", stream=sys.stderr)
    for handler in logging.getLogger().handlers:
        handler.addFilter(Sparing())


class Sparing(logging.Filter):
    """Lets pass BURST records of one statement in PERIOD_S; the first one after that tells how many it kept back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._counts: dict[tuple[str, int], tuple[float, int]] = {}  # file and line → since when, and how many

    def filter(self, record: logging.LogRecord) -> bool:
        """See logging.Filter."""
        now_s = self._clock()
        statement = record.pathname, record.lineno
        since_s, count = self._counts.get(statement, (now_s, 0))
        if now_s - since_s >= PERIOD_S:
            if count > BURST:
                record.msg = f"{record.msg} (and {count - BURST} before it that were not shown)"
            since_s, count = now_s, 0
        self._counts[statement] = since_s, count + 1
        return count < BURST
