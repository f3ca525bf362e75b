"""What processes tell each other through shared memory: two snapshots of what the scraper saw, and a log of what happened."""

from shunter.snapshot.errors import RingBusyError, RingError, SnapshotError
from shunter.snapshot.log import Batch, Buffer, LogReader, LogWriter
from shunter.snapshot.model import (
    NEVER,
    SCHEMA,
    Endpoint,
    Health,
    InferenceModel,
    Load,
    LoadRow,
    Objective,
    Pool,
    Rewrite,
    RewriteRule,
    Target,
    Topology,
    decode_load,
    decode_topology,
    encode,
)
from shunter.snapshot.pair import LOAD_RING, TOPOLOGY_RING, SnapshotReader, SnapshotWriter, View
from shunter.snapshot.place import runtime_directory
from shunter.snapshot.ring import RingReader, RingWriter

__all__ = [
    "LOAD_RING",
    "NEVER",
    "SCHEMA",
    "TOPOLOGY_RING",
    "Batch",
    "Buffer",
    "Endpoint",
    "Health",
    "InferenceModel",
    "Load",
    "LoadRow",
    "LogReader",
    "LogWriter",
    "Objective",
    "Pool",
    "Rewrite",
    "RewriteRule",
    "RingBusyError",
    "RingError",
    "RingReader",
    "RingWriter",
    "SnapshotError",
    "SnapshotReader",
    "SnapshotWriter",
    "Target",
    "Topology",
    "View",
    "decode_load",
    "decode_topology",
    "encode",
    "runtime_directory",
]
