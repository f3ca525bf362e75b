"""Files that somebody may replace: has anything changed, and is it complete?

Half of a file that is being written may well be a valid one with fewer pools: what has changed counts once it has been still
from one look to the next.
"""

import os
from collections.abc import Sequence
from pathlib import Path

__all__ = ["Watch"]


class Watch:
    """Follows files and directories by their metadata, through symbolic links: how Kubernetes replaces a mounted ConfigMap."""

    def __init__(self, places: Sequence[Path]) -> None:
        self._places = places
        self._told = self._seen = self._look()

    def changed(self) -> bool:
        """Say whether something is otherwise than when this was last said, or at the beginning, and as at the last call."""
        before, self._seen = self._seen, self._look()
        if self._seen == self._told or self._seen != before:
            return False
        self._told = self._seen
        return True

    def _look(self) -> list[tuple[str, int, int, int]]:
        found: list[tuple[str, int, int, int]] = []
        for place in self._places:
            for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
                try:
                    info = os.stat(path)  # noqa: PTH116 # through links, and no second object for each file
                except OSError:
                    continue  # gone: that is a change by itself
                found.append((str(path), info.st_mtime_ns, info.st_size, info.st_ino))
        return found
