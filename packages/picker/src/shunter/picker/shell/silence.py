"""Says in the log that the scraper is silent, and that it is heard again; for how long, pages and metrics say."""

import asyncio
import logging
import time

from shunter.picker.core.verdict import SILENT_S
from shunter.snapshot import SnapshotReader

__all__ = ["Silence", "listen"]

LOOK_S = 1.0

log = logging.getLogger(__name__)


class Silence:
    """What of it was said last."""

    def __init__(self) -> None:
        """It was never silent."""
        self.silent = False

    def look(self, age_s: float | None) -> str:
        """Return what is news, in words, with a snapshot of that age; there may be none yet, which readiness tells."""
        silent = age_s is not None and age_s > SILENT_S
        if age_s is None or silent == self.silent:
            return ""
        self.silent = silent
        if silent:
            return f"the scraper has been silent for {age_s:.0f} s: picks go by requests in flight alone"
        return "the scraper is heard again"


async def listen(reader: SnapshotReader) -> None:
    """Look once a second, until cancelled."""
    silence = Silence()
    while True:
        now_ns = time.monotonic_ns()
        view = reader.view(now_ns)
        words = silence.look(view.age_s(now_ns) if view is not None else None)
        if words:
            log.log(logging.WARNING if silence.silent else logging.INFO, words)
        await asyncio.sleep(LOOK_S)
