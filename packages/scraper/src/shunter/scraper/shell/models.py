"""Asks engines now and then which models they serve, at the port where requests go."""

import asyncio

from shunter.scraper.core.models import Models as Listed
from shunter.scraper.core.models import read_models
from shunter.scraper.shell.fetch import Failure, Fetcher
from shunter.snapshot import Endpoint

__all__ = ["Models"]

# After a failure: an engine that starts takes minutes, and should not be missed for as long again.
RETRY_S = 2.0

Key = tuple[int, int]


class Models:
    """What all endpoints said last, by slot and incarnation.

    One that falls silent keeps its models: it may only be busy. One that accepts no connections has lost them: its process
    has ended, and adapters that were loaded while it ran are gone with it.
    """

    def __init__(self, interval_s: float, timeout_s: float) -> None:
        """Know nothing yet."""
        self.changed = False
        """Whether something is to be published."""
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._known: dict[Key, Listed] = {}

    def of(self, endpoint: Endpoint) -> Listed:
        """Return an endpoint's models, none if they are not known."""
        return self._known.get((endpoint.slot, endpoint.incarnation), Listed())

    async def follow(self, endpoint: Endpoint) -> None:
        """Ask one endpoint until cancelled."""
        key = endpoint.slot, endpoint.incarnation
        fetcher = Fetcher(endpoint.address, endpoint.port, "/v1/models", timeout_s=self._timeout_s)
        try:
            while True:
                answer = await fetcher.get()
                listed = None if isinstance(answer, Failure) else read_models(answer)
                if listed is not None and listed != self._known.get(key):
                    self._known[key] = listed
                    self.changed = True
                if isinstance(answer, Failure) and answer.refused and self._known.pop(key, None) is not None:
                    self.changed = True
                await asyncio.sleep(min(RETRY_S, self._interval_s) if listed is None else self._interval_s)
        finally:
            fetcher.close()
            self._known.pop(key, None)
