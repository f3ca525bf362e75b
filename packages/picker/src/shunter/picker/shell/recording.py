"""Writes recorded decisions into files, a few at a time and beside the event loop: requests do not wait for a disk.

Each seat has a file of its own, ``decisions-SEAT.ndjson``, and the one before it, ``decisions-SEAT.1.ndjson``: so the directory
never holds more than twice FILE_BYTES for each worker, one more seat included.
"""

import asyncio
import logging
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path

from shunter.picker.core.decisions import Entry
from shunter.picker.core.precedents import precedent, write
from shunter.picker.core.recorder import Recorder

__all__ = ["FILE_BYTES", "Recording"]

# Some 20,000 decisions among ten endpoints.
FILE_BYTES = 64 << 20

# Between two looks, and the candidates of all decisions that are written down at one: 4 ms of the event loop.
LOOK_S = 0.25
LOOK_CANDIDATES = 1_000

log = logging.getLogger(__name__)


class Recording:
    """One worker's."""

    def __init__(self, directory: Path, seat: int, recorder: Recorder) -> None:
        """Write nothing yet."""
        self._path = directory / f"decisions-{seat}.ndjson"
        self._recorder = recorder
        self._trouble = ""

    async def run(self) -> None:
        """Write until cancelled; what cannot be written is lost, and said once."""
        while True:
            await asyncio.sleep(LOOK_S)
            await self._write(self._recorder.take(time.monotonic(), LOOK_CANDIDATES))

    async def finish(self) -> None:
        """Write what is left, whatever is known of it."""
        while entries := self._recorder.take(math.inf, LOOK_CANDIDATES):
            await self._write(entries)

    async def _write(self, entries: Sequence[Entry]) -> None:
        try:
            lines = write(found for entry in entries if (found := precedent(entry)) is not None)
            if lines:
                await asyncio.to_thread(self._append, lines)
                self._trouble = ""
        except Exception as error:  # noqa: BLE001  the boundary: scores come from plugins, and may be what nobody can write down
            trouble = getattr(error, "strerror", None) or str(error)
            if trouble != self._trouble:
                self._trouble = trouble
                log.warning("decisions are not recorded in %s: %s", self._path, trouble)

    def _append(self, lines: bytes) -> None:
        if self._path.exists() and self._path.stat().st_size + len(lines) > FILE_BYTES:
            self._path.replace(self._path.with_suffix(".1.ndjson"))
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "ab", buffering=0) as file:
            whole = file.seek(0, os.SEEK_END)
            try:
                while lines:
                    lines = lines[file.write(lines) :]
            except OSError:
                file.truncate(whole)  # half a line would spoil the next one
                raise
