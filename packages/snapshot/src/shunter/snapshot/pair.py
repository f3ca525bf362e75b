"""Topology and Load as one consistent pair: published by one writer, read by anybody.

The writer publishes a new Topology first and then the Load that belongs to it. A reader uses a pair only when epoch and
generation agree; until both halves of a new pair have arrived it keeps the old one, which was consistent too.
"""

from pathlib import Path

import msgspec

from shunter.snapshot.errors import SnapshotError
from shunter.snapshot.model import Load, Topology, decode_load, decode_topology, encode
from shunter.snapshot.ring import RingReader, RingWriter

__all__ = ["LOAD_RING", "TOPOLOGY_RING", "SnapshotReader", "SnapshotWriter", "View"]

TOPOLOGY_RING = "topology.ring"
LOAD_RING = "load.ring"


class View(msgspec.Struct, frozen=True):
    """A Topology and the Load that belongs to it."""

    topology: Topology
    load: Load

    def age_s(self, now_ns: int) -> float:
        """Seconds since the writer was last heard of (it publishes at least once a second); infinite if in the future."""
        published_ns = self.load.published_ns
        return (now_ns - published_ns) / 1e9 if published_ns <= now_ns else float("inf")


class SnapshotWriter:
    """Publishes pairs into ``directory``, which must exist."""

    def __init__(self, directory: Path, *, mode: int = 0o600) -> None:
        """Become the writer; ``mode`` 0o640 lets the group read. Raises RingBusyError and RingError as RingWriter does."""
        self._topologies = RingWriter(directory / TOPOLOGY_RING, mode=mode)
        try:
            self._loads = RingWriter(directory / LOAD_RING, mode=mode)
        except BaseException:
            self._topologies.close()
            raise

    def last_topology(self) -> Topology | None:
        """Return the newest Topology, a former run's included; None if there is none that this version can read."""
        frame = self._topologies.newest()
        try:
            return decode_topology(frame.payload) if frame else None
        except SnapshotError:
            return None

    def publish_topology(self, topology: Topology, now_ns: int) -> int:
        """Publish who exists; returns its size in bytes. The Load that belongs to it must follow."""
        payload = encode(topology)
        self._topologies.publish(payload, now_ns)
        return len(payload)

    def publish_load(self, load: Load) -> int:
        """Publish how everybody is; returns its size in bytes. ``published_ns`` is the writer's sign of life."""
        payload = encode(load)
        self._loads.publish(payload, load.published_ns)
        return len(payload)

    def publish(self, topology: Topology, load: Load, now_ns: int) -> tuple[int, int]:
        """Publish both halves of a new pair; returns their sizes in bytes.

        Raises RingError if there is no room for one of them; then neither is published, and readers keep the pair they have.
        """
        first, second = encode(topology), encode(load)
        self._topologies.reserve(len(first))
        self._loads.reserve(len(second))
        self._topologies.publish(first, now_ns)
        self._loads.publish(second, load.published_ns)
        return len(first), len(second)

    def close(self) -> None:
        """Let go of both rings; their files stay."""
        self._topologies.close()
        self._loads.close()


class SnapshotReader:
    """Reads pairs from ``directory``, which need not exist yet."""

    def __init__(self, directory: Path, *, trusted_uid: int | None = None) -> None:
        """Trust files of this user, of root and of ``trusted_uid``."""
        self._topologies = RingReader(directory / TOPOLOGY_RING, trusted_uid=trusted_uid)
        self._loads = RingReader(directory / LOAD_RING, trusted_uid=trusted_uid)
        self._topology: Topology | None = None
        self._load: Load | None = None
        self._view: View | None = None
        self.trouble: str | None = None
        """Why the newest pair could not be read, for logs and health pages; None while all is well."""

    def view(self, now_ns: int) -> View | None:
        """Return the newest consistent pair, the same object while nothing has changed; None before the first. Never raises."""
        try:
            topology = self._topologies.poll(now_ns)
            if topology is not None:
                self._topology = decode_topology(topology.payload)
            load = self._loads.poll(now_ns)
            if load is not None:
                self._load = decode_load(load.payload)
            if topology is not None or load is not None:
                self._combine()
        except SnapshotError as error:
            self.trouble = str(error)
        return self._view

    def close(self) -> None:
        """Unmap both rings."""
        self._topologies.close()
        self._loads.close()

    def _combine(self) -> None:
        topology, load = self._topology, self._load
        if topology and load and (load.epoch, load.topology_generation) == (topology.epoch, topology.generation):
            self._view = View(topology, load)
            self.trouble = None
