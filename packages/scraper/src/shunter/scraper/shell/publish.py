"""Publishes what is known: a new topology with its load at once, load alone as it changes, and a sign of life.

Load is coalesced to twenty publications a second (what readers can use) and repeated once a second when nothing
changes, so that its age tells whether the scraper lives.
"""

import asyncio
import contextlib
import time
from collections.abc import Collection

from shunter.snapshot import NEVER, Load, LoadRow, SnapshotWriter, Topology

__all__ = ["Publisher"]

# A reader decodes a thousand endpoints in a quarter of a millisecond; twenty times a second that is half a percent of a core.
INTERVAL_S = 0.05
# A little under the second that readers are promised.
HEARTBEAT_S = 0.9


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

    @property
    def rows(self) -> Collection[LoadRow]:
        """What is known of each endpoint now."""
        return self._rows.values()

    def publish(self, topology: Topology) -> None:
        """Publish who exists, with the rows of those who existed before; new ones are unscraped."""
        pairs = [(one.slot, one.incarnation) for one in topology.endpoints]
        self._rows = {pair: self._rows.get(pair) or LoadRow(slot=pair[0], incarnation=pair[1]) for pair in pairs}
        self._topology = topology
        self._note("topology", self._writer.publish_topology(topology, time.monotonic_ns()))
        self._publish_load()

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
            self._publish_load()
            await asyncio.sleep(INTERVAL_S)

    def _publish_load(self) -> None:
        self._changed.clear()
        if self._topology:
            epoch, generation = self._topology.epoch, self._topology.generation
            rows = tuple(self._rows.values())
            now_ns = time.monotonic_ns()
            load = Load.of(rows, epoch=epoch, topology_generation=generation, published_ns=now_ns)
            self._note("load", self._writer.publish_load(load))
            self.published_ns = now_ns

    def _note(self, kind: str, size_bytes: int) -> None:
        self.sizes_bytes[kind] = size_bytes
        self.publications[kind] += 1
