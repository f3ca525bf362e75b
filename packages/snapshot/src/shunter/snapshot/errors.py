"""Every error this package raises.

::

    SnapshotError            anything wrong with a snapshot or the file that carries it
    ├── RingError            the file is missing, foreign, stale, damaged or not ours to read
    └── RingBusyError        another writer holds the ring
"""

__all__ = ["RingBusyError", "RingError", "SnapshotError"]


class SnapshotError(Exception):
    """A snapshot cannot be read, decoded or published."""


class RingError(SnapshotError):
    """The ring's file cannot be used; the message names the file, what is wrong with it and the remedy."""


class RingBusyError(SnapshotError):
    """Another process is the writer of this ring; a ring has exactly one."""
