"""Reads the desired state from a file, or from the files of a directory, again whenever they have changed.

Changes are seen by ``stat``: device, inode, size and time of what the path leads to, so that edits in place, atomic renames
and the symlink swap of a mounted ConfigMap all count. A changed file is read once it has been still for one look, and must
still be the same after reading: half of a file that is being written may well be a valid file with fewer endpoints.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from shunter.scraper.core.assembly import assemble
from shunter.scraper.core.cluster import Cluster
from shunter.scraper.core.complaints import Complaint, Place, in_files
from shunter.scraper.core.documents import MAX_FILE_BYTES, read_documents
from shunter.scraper.errors import ConfigError
from shunter.scraper.shell.registry import Following

__all__ = ["Files"]

# How often to call ``poll``. Two looks lie between a change and its effect: a fifth of a second.
POLL_S = 0.1
SUFFIXES = {".yaml", ".yml", ".json"}

log = logging.getLogger(__name__)

Signature = tuple[tuple[str, int, int, int, int], ...]


class Files:
    """The files that ``path`` names: itself, or everything in it that ends in .yaml, .yml or .json and is not hidden."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: Signature | None = None  # what the files looked like when they were last read
        self._seen: Signature | None = None  # what they looked like last
        self._newest: Cluster | None = None
        self._changed = asyncio.Event()
        self._trouble = ""
        self._readings = 0
        self._complaints: Mapping[Place, Complaint] = {}

    @property
    def title(self) -> str:
        return str(self.path)

    @property
    def following(self) -> Sequence[Following]:
        relists = max(self._readings - 1, 0)
        return (
            Following(resource="files", place=str(self.path), known=self._readings > 0, trouble=self._trouble, relists=relists),
        )

    @property
    def complaints(self) -> Mapping[Place, Complaint]:
        return self._complaints

    async def run(self) -> None:
        """Look again and again until cancelled; what cannot be used is logged."""
        while True:
            await asyncio.sleep(POLL_S)
            try:
                cluster = await self.poll()
            except ConfigError as error:
                self._trouble = str(error)
                log.error("%s; the state before stays in force", error)  # noqa: TRY400  the message is the whole story
                continue
            if cluster:
                log.info("read %s: %d endpoints in the files", self.path, len(cluster.members))
                self._newest = cluster
                self._changed.set()

    async def changed(self) -> Cluster:
        """Wait until the files say something else."""
        while self._newest is None:
            await self._changed.wait()
            self._changed.clear()
        cluster, self._newest = self._newest, None
        return cluster

    def load(self) -> Cluster:
        """Return the cluster that the files describe; raises ConfigError."""
        self._read = self._seen = self._signature()
        cluster = assemble(document for name, text in self._contents() for document in read_documents(name, text))
        self._complaints = in_files(cluster.pools, cluster.members)
        self._trouble = ""
        self._readings += 1
        return cluster

    async def poll(self) -> Cluster | None:
        """Look; return the new cluster after a change, None if there is none; raises ConfigError once per bad change."""
        seen, self._seen = self._seen, self._signature()
        if self._seen != seen or self._seen == self._read:
            return None
        try:
            cluster = await asyncio.to_thread(self.load)
        except ConfigError:
            if self._is_still():
                raise
            return None
        return cluster if self._is_still() else None

    def _is_still(self) -> bool:
        """Tell whether the files are as they were before they were read; if not, they are to be read again."""
        if self._signature() == self._read:
            return True
        self._read = None
        return False

    def _paths(self) -> list[Path]:
        try:
            if not self.path.is_dir():
                return [self.path]
            return sorted(path for path in self.path.iterdir() if path.suffix in SUFFIXES and path.name[0] != ".")
        except OSError:
            return []

    def _signature(self) -> Signature:
        return tuple((str(path), *_look(path)) for path in self._paths())

    def _contents(self) -> list[tuple[str, bytes]]:
        paths = self._paths()
        if not paths:
            raise ConfigError(f"{self.path}: there is no readable .yaml, .yml or .json file in it")
        contents: list[tuple[str, bytes]] = []
        for path in paths:
            try:
                with path.open("rb") as file:
                    contents.append((str(path), file.read(MAX_FILE_BYTES + 1)))
            except OSError as error:
                raise ConfigError(f"{path}: {error.strerror}") from None
        return contents


def _look(path: Path) -> tuple[int, int, int, int]:
    try:
        info = path.stat()
    except OSError:
        return (0, 0, 0, 0)  # a file that vanished has changed
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)
