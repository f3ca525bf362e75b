"""Whom a sync of a whole pool talks to, as the snapshot says."""

import time
from pathlib import Path

from shunter.rollout.errors import ConfigError, ServerError
from shunter.rollout.shell.syncing import Target
from shunter.snapshot import SnapshotReader

__all__ = ["Fleet"]


class Fleet:
    """The ready endpoints of one pool, by its name or ``namespace/name``; of all if it is empty."""

    def __init__(self, directory: Path, pool: str, *, scheme: str = "http") -> None:
        self._scheme = scheme
        self._pool = pool
        self._known = False
        self._reader = SnapshotReader(directory)

    def targets(self) -> tuple[Target, ...]:
        """Return who is there now. A scraper that falls silent is believed.

        Raises ServerError until there is something to read, and ConfigError if there never was such a pool.
        """
        view = self._reader.view(time.monotonic_ns())
        if view is None:
            raise ServerError(self._reader.trouble or "the scraper has published nothing yet")
        pools = [f"{each.namespace}/{each.name}" for each in view.topology.pools]
        wanted = {at for at, each in enumerate(pools) if self._pool in ("", each, each.rpartition("/")[2])}
        self._known = self._known or bool(wanted)
        if not self._known:
            raise ConfigError(f"--pool {self._pool}: there is no such pool; there are: {', '.join(pools) or 'none'}")
        return tuple(
            Target(f"{self._scheme}://{each.authority}", each.engine, (each.slot, each.incarnation))
            for each in view.topology.endpoints
            if each.ready and wanted.intersection(each.pools)
        )

    def close(self) -> None:
        """Let go of the snapshot."""
        self._reader.close()
