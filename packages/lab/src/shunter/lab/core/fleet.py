"""The fleet that a simulation runs: engines, what is told of them and when, and what goes wrong."""

import math
from collections.abc import Mapping

import msgspec

from shunter.lab.core.params import EngineParams
from shunter.lab.errors import ParamsError

__all__ = ["Crash", "Fleet", "Slowdown"]


class Crash(msgspec.Struct, frozen=True, tag="crash"):
    """An engine dies, with all it was doing and all it had cached, and is there again after a while."""

    endpoint: int
    at_s: float
    restart_s: float = 60.0


class Slowdown(msgspec.Struct, frozen=True, tag="slowdown"):
    """An engine's speed is multiplied by `factor` (0.25: four times as slow) for a while."""

    endpoint: int
    from_s: float
    to_s: float
    factor: float


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """Engines behind one gateway. Endpoint numbers are positions in `engines`."""

    engines: tuple[EngineParams, ...]
    labels: tuple[Mapping[str, str], ...] = ()
    """Of each endpoint, as a pod would have them; empty: none."""
    scrape_s: float = 0.1
    """Between two scrapes: what a picker knows of load is up to so old. The scraper polls every 50 to 1,000 ms."""
    record_s: float = 1.0
    """How long after its end a request's record arrives: the gateway flushes its log that often."""
    sample_s: float = 1.0
    """Between two samples of the run's own curves."""
    failures: tuple[Crash | Slowdown, ...] = ()

    def __post_init__(self) -> None:
        if not self.engines:
            raise ParamsError("engines is empty; a fleet needs at least one")
        if self.labels and len(self.labels) != len(self.engines):
            raise ParamsError(f"{len(self.labels)} labels for {len(self.engines)} engines; give one set for each, or none")
        for name in ("scrape_s", "sample_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ParamsError(f"{name} must be a positive number of seconds, got {getattr(self, name)}")
        for failure in self.failures:
            if not 0 <= failure.endpoint < len(self.engines):
                raise ParamsError(f"a failure of endpoint {failure.endpoint}: there are {len(self.engines)}, counted from 0")
            if isinstance(failure, Slowdown) and not 0 < failure.factor < math.inf:
                raise ParamsError(f"factor of a slowdown must be a positive number, got {failure.factor}")
