"""Asks engines now and then which models they serve, at the port where requests go."""

import asyncio

from shunter.scraper.core.models import read_models
from shunter.scraper.shell.fetch import Failure, Fetcher
from shunter.snapshot import Endpoint

__all__ = ["Models"]

# After a failure: an engine that starts takes minutes, and should not be missed for as long again.
RETRY_S = 2.0

Key = tuple[int, int]


class Models:
    """What all endpoints said last, by slot and incarnation; one that falls silent keeps its models until it is gone."""

    def __init__(self, interval_s: float, timeout_s: float) -> None:
        """Know nothing yet."""
        self.changed = False
        """Whether something is to be published."""
        self._interval_s = interval_s
        self._timeout_s = timeout_s
        self._known: dict[Key, tuple[str, ...]] = {}

    def of(self, endpoint: Endpoint) -> tuple[str, ...]:
        """Return an endpoint's models, none if they are not known."""
        return self._known.get((endpoint.slot, endpoint.incarnation), ())

    async def follow(self, endpoint: Endpoint) -> None:
        """Ask one endpoint until cancelled."""
        key = endpoint.slot, endpoint.incarnation
        fetcher = Fetcher(endpoint.address, endpoint.port, "/v1/models", timeout_s=self._timeout_s)
        try:
            while True:
                answer = await fetcher.get()
                names = None if isinstance(answer, Failure) else read_models(answer)
                if names is not None and names != self._known.get(key):
                    self._known[key] = names
                    self.changed = True
                await asyncio.sleep(min(RETRY_S, self._interval_s) if names is None else self._interval_s)
        finally:
            fetcher.close()
            self._known.pop(key, None)
