"""The scraper's metrics in Prometheus text: what it counted, read when somebody asks.

Names are the reference's (``llm_d_epp_datalayer_*``) where the meaning agrees, ours (``shunter_scraper_*``) elsewhere. What has
the label ``endpoint`` is of those that exist, and is gone with them.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from shunter.scraper.core.scrapes import BOUNDS_S, EndpointScrapes
from shunter.scraper.shell.registry import Following
from shunter.scraper.shell.service import Scraper
from shunter.snapshot import SCHEMA, Health

__all__ = ["Metrics"]

# What is told of everything that is followed, added up by resource.
FOLLOWED: tuple[tuple[str, str, Any, Callable[[Following], int]], ...] = (
    ("relists", "Whole readings of what is followed, after the first.", CounterMetricFamily, lambda each: each.relists),
    ("watch_restarts", "Watches begun after the first, at their time too.", CounterMetricFamily, lambda each: each.restarts),
    ("unread", "Namespaces or files in which it was never read.", GaugeMetricFamily, lambda each: not each.known),
    ("troubled", "Namespaces or files in which it cannot be read now.", GaugeMetricFamily, lambda each: bool(each.trouble)),
)
KV_COUNTERS = {
    "publications": "Publications of KV events that were taken.",
    "gaps": "Holes in the sequence of publications: ZeroMQ dropped some, or they were missed while joining.",
    "lost": "Publications that nobody could repeat; what was cached is learnt anew after each.",
    "unreadable": "Publications that are not such as engines make.",
    "replays": "Times that an engine was asked to repeat publications.",
    "restarts": "Connections and sequences of publications that began.",
}
KV_GAUGES = {"blocks": "Blocks known to be cached.", "orphans": "Blocks told of whose parents are not known."}


class Metrics(Collector):
    """Renders what a scraper tells at that moment."""

    def __init__(self, scraper: Scraper, version: str) -> None:
        self._scraper = scraper
        self._version = version
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def render(self) -> bytes:
        """Return the page."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        yield _by(GaugeMetricFamily, "info", "Which one this is.", ("version", "schema"), {(self._version, str(SCHEMA)): 1})
        yield from self._scrapes()
        yield from self._endpoints()
        yield from self._snapshot()
        yield from self._following()
        yield from self._kv_events()

    def _scrapes(self) -> Iterator[Metric]:
        scrapes = self._scraper.scrapes
        source = "metrics-data-source"
        polls = CounterMetricFamily("llm_d_epp_datalayer_poll_errors", "Scrapes that got no page.", labels=["source_type"])
        polls.add_metric([source], scrapes.unanswered)
        yield polls
        extracts = CounterMetricFamily(
            "llm_d_epp_datalayer_extract_errors",
            "Pages in which the engine's metrics could not be read.",
            labels=["source_type", "extractor_type"],
        )
        extracts.add_metric([source, "core-metrics-extractor"], scrapes.unreadable)
        yield extracts
        total = [*accumulate(scrapes.durations)]
        buckets = [*zip((*map(str, BOUNDS_S), "+Inf"), map(float, total), strict=True)]
        yield HistogramMetricFamily(
            "shunter_scraper_scrape_seconds", "How long scrapes took, failed ones too.", buckets, scrapes.seconds
        )

    def _endpoints(self) -> Iterator[Metric]:
        scraper, now_ns = self._scraper, time.monotonic_ns()
        names = {(each.slot, each.incarnation): each.authority for each in scraper.topology.endpoints}
        counts = {authority: scraper.scrapes.by_endpoint.get(pair, EndpointScrapes()) for pair, authority in names.items()}
        yield _by_endpoint(CounterMetricFamily, "scrapes", "Scrapes that made a row.", counts, "answered")
        yield _by_endpoint(CounterMetricFamily, "scrape_failures", "Scrapes that did not.", counts, "failed")
        rows = [row for row in scraper.publisher.rows if (row.slot, row.incarnation) in names]
        ages = {(names[row.slot, row.incarnation],): row.age_s(now_ns) for row in rows}
        yield _by(GaugeMetricFamily, "row_age_seconds", "Age of what is known of an endpoint.", ("endpoint",), ages)
        healths = Counter(row.health for row in rows)
        by_health = {(health.name.lower(),): healths[health] for health in Health}
        yield _by(GaugeMetricFamily, "endpoints", "Endpoints, by what their last scrape was.", ("health",), by_health)
        inhabited = Counter(index for each in scraper.topology.endpoints for index in each.pools)
        pools = {(pool.namespace, pool.name): inhabited[index] for index, pool in enumerate(scraper.topology.pools)}
        yield _by(GaugeMetricFamily, "pool_endpoints", "Endpoints of a pool.", ("namespace", "name"), pools)

    def _snapshot(self) -> Iterator[Metric]:
        scraper, publisher = self._scraper, self._scraper.publisher
        generation = scraper.topology.generation if publisher.published_ns else 0
        yield GaugeMetricFamily("shunter_scraper_generation", "Of the topology; 0 before the first.", generation)
        age_s = (time.monotonic_ns() - publisher.published_ns) / 1e9 if publisher.published_ns else float("inf")
        yield GaugeMetricFamily("shunter_scraper_snapshot_age_seconds", "Since load was published last.", age_s)
        sizes = {(kind,): size for kind, size in publisher.sizes_bytes.items()}
        yield _by(GaugeMetricFamily, "snapshot_bytes", "Size of the last snapshot.", ("kind",), sizes)
        counts = {(kind,): count for kind, count in publisher.publications.items()}
        yield _by(CounterMetricFamily, "publications", "Snapshots published.", ("kind",), counts)
        troubled = {(part,): bool(trouble) for part, trouble in scraper.troubles.items()}
        text = "1 while something here, a lack of room say, keeps this part of the snapshot from being up to date."
        yield _by(GaugeMetricFamily, "snapshot_troubled", text, ("part",), troubled)

    def _following(self) -> Iterator[Metric]:
        for name, text, kind, count in FOLLOWED:
            sums: Counter[tuple[str]] = Counter()
            for each in self._scraper.registry.following:
                sums[each.resource,] += count(each)
            yield _by(kind, name, text, ("resource",), sums)
        complaints = Counter((title, each.reason) for (title, _), each in self._scraper.registry.complaints.items())
        yield _by(GaugeMetricFamily, "complaints", "Objects with which something is wrong.", ("resource", "reason"), complaints)

    def _kv_events(self) -> Iterator[Metric]:
        counts = self._scraper.kv_events.counts if self._scraper.kv_events else {}
        for kind, families in ((CounterMetricFamily, KV_COUNTERS), (GaugeMetricFamily, KV_GAUGES)):
            for field, text in families.items():
                yield _by_endpoint(kind, f"kv_{field}", text, counts, field)


def _by_endpoint(kind: Any, name: str, text: str, counts: dict[str, Any], field: str) -> Metric:
    return _by(kind, name, text, ("endpoint",), {(authority,): getattr(each, field) for authority, each in counts.items()})


def _by(kind: Any, name: str, text: str, labels: Iterable[str], values: "dict[Any, Any]") -> Metric:
    """Return a family of ours with a value for each tuple of labels."""
    family = kind(f"shunter_scraper_{name}", text, labels=[*labels])
    for words, value in values.items():
        family.add_metric([*words], value)
    return family
