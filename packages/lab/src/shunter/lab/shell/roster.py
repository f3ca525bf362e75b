"""Those who can be asked for a stage of a request: who of them failed is remembered, logged and shown among the metrics."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from shunter.lab.core.suspects import Attempt, Failure, Suspects

__all__ = ["Failures", "Roster"]

log = logging.getLogger(__name__)


class Roster:
    """Suspects of one stage, by a clock."""

    def __init__(self, stage: str, failures: Counter, clock: Callable[[], float]) -> None:
        self.stage = stage
        self._failures = failures
        self._clock = clock
        self._suspects = Suspects()
        self.leave = self._suspects.leave

    def choose(self, addresses: Iterable[str]) -> Attempt | None:
        """Return whom to ask next of those that are named, best first; None: nobody."""
        return self._suspects.choose(addresses, self._clock())

    def clear(self, attempt: Attempt) -> None:
        """It did what it is there for."""
        suspect = self._suspects.clear(attempt)
        if suspect is not None:
            out_s = self._clock() - suspect.since_s
            log.info("%s by %s works again, after %.1f s", self.stage, shown(attempt.address), out_s)

    def blame(self, attempt: Attempt, failure: Failure) -> None:
        """It did not."""
        self._failures.labels(self.stage, failure.reason).inc()
        if self._suspects.blame(attempt, failure, self._clock()):
            until = "one request at a time tries it" if failure.reason == "timeout" else "others are asked first"
            log.warning("%s by %s failed: %s; until it works %s", self.stage, shown(attempt.address), failure.words, until)

    def failing(self) -> Iterator[tuple[Sequence[str], int]]:
        """Yield the labels of each suspect, and how often it has failed."""
        for address, suspect in self._suspects.known(self._clock()):
            yield (self.stage, shown(address), suspect.failure.reason), suspect.failures


class Failures(Collector):
    """The metrics of several rosters: who fails now, and how often somebody failed."""

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.count = Counter(
            "shunter_sidecar_failures_total",
            "Engines that were asked in vain, by stage (prefill, encode) and reason.",
            ["stage", "reason"],
            registry=registry,
        )
        self.rosters: list[Roster] = []
        registry.register(self)

    def roster(self, stage: str) -> Roster:
        """Return one more."""
        self.rosters.append(Roster(stage, self.count, self._clock))
        return self.rosters[-1]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """See Collector."""
        family = GaugeMetricFamily(
            "shunter_sidecar_failing",
            "Failures in a row of an engine that is asked last or not at all; gone as soon as it works.",
            labels=["stage", "endpoint", "reason"],
        )
        for roster in self.rosters:
            for labels, failures in roster.failing():
                family.add_metric(labels, failures)
        yield family


def shown(address: str) -> str:
    """Return a name as it may stand in a log and on a page: it came in a header."""
    return ascii(address)[1:-1]
