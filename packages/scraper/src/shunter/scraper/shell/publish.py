"""Publishes what is known: a new topology with its load at once, load alone as it changes, and a sign of life.

Load is coalesced to twenty publications a second (what readers can use) and repeated once a second when nothing
changes, so that its age tells whether the scraper lives.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Collection, Iterable

from shunter.snapshot import NEVER, Load, LoadRow, SnapshotError, SnapshotWriter, Topology

__all__ = ["Publisher"]

# A reader decodes a thousand endpoints in a quarter of a millisecond; twenty times a second that is half a percent of a core.
INTERVAL_S = 0.05
# A little under the second that readers are promised.
HEARTBEAT_S = 0.9

log = logging.getLogger(__name__)


class Publisher:
    """The rows of all endpoints, and the writer they go out by."""

    def __init__(self, writer: SnapshotWriter) -> None:
        self._writer = writer
        self._topology: Topology | None = None
        self._rows: dict[tuple[int, int], LoadRow] = {}  # by slot and incarnation, in the topology's order
        self._changed = asyncio.Event()
        self.sizes_bytes = {"topology": 0, "load": 0}
        self.publications = {"topology": 0, "load": 0}
        self.published_ns = NEVER
        self.trouble = ""
        """Why the newest load is not published, for people."""

    @property
    def rows(self) -> Collection[LoadRow]:
        """What is known of each endpoint now."""
        return self._rows.values()

    def publish(self, topology: Topology) -> None:
        """Publish who exists, with the rows of those who existed before; new ones are unscraped.

        Raises SnapshotError if there is no room for it; what was published before stays in force then.
        """
        pairs = [(one.slot, one.incarnation) for one in topology.endpoints]
        rows = {pair: self._rows.get(pair) or LoadRow(slot=pair[0], incarnation=pair[1]) for pair in pairs}
        load = _load(topology, rows.values())
        topology_bytes, load_bytes = self._writer.publish(topology, load, time.monotonic_ns())
        self._topology, self._rows = topology, rows
        self._note("topology", topology_bytes)
        self._published(load, load_bytes)

    def update(self, row: LoadRow) -> None:
        """Take a new row, which goes out soon; that of an endpoint that is gone is dropped."""
        if (row.slot, row.incarnation) in self._rows:
            self._rows[row.slot, row.incarnation] = row
            self._changed.set()

    async def run(self) -> None:
        """Publish load until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                # Not wait_for: on Python 3.11 it swallows a cancellation that comes together with the event.
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._changed.wait()
            try:
                self._publish_load()
            except SnapshotError as error:  # it has to grow, and cannot yet
                if not self.trouble:
                    log.error("%s; the load before ages meanwhile", error)  # noqa: TRY400  the message is the whole story
                self.trouble = str(error)
            await asyncio.sleep(INTERVAL_S)

    def _publish_load(self) -> None:
        self._changed.clear()
        if self._topology:
            load = _load(self._topology, self._rows.values())
            self._published(load, self._writer.publish_load(load))

    def _published(self, load: Load, size_bytes: int) -> None:
        self._note("load", size_bytes)
        self.published_ns, self.trouble = load.published_ns, ""

    def _note(self, kind: str, size_bytes: int) -> None:
        self.sizes_bytes[kind] = size_bytes
        self.publications[kind] += 1


def _load(topology: Topology, rows: Iterable[LoadRow]) -> Load:
    generation, now_ns = topology.generation, time.monotonic_ns()
    return Load.of(tuple(rows), epoch=topology.epoch, topology_generation=generation, published_ns=now_ns)
