"""The picker's metrics in Prometheus text: the workers' counters, read when somebody asks.

Names are the reference's (``llm_d_epp_*``) where the meaning agrees, ours (``shunter_picker_*``) elsewhere.
"""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shunter.picker.core.overview import Overview
from shunter.picker.core.tables import Tally

__all__ = ["Metrics"]


class Metrics(Collector):
    """Renders what two functions return at that moment."""

    def __init__(self, tally: Callable[[], Tally], look: Callable[[], Overview], pool: str) -> None:
        """``pool`` is the value of the label ``name`` of the pool's averages, as the reference has it."""
        self._tally = tally
        self._look = look
        self._pool = pool
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def render(self) -> bytes:
        """Return the page."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        overview, tally = self._look(), self._tally()
        yield from _by_endpoint(overview)
        yield _counter("refusals", "Requests refused, by the reason given to the client.", "reason", overview.refusals)
        for name, text, value in (
            ("released", "Picked requests that ended.", tally.released),
            ("incomplete", "Picked requests that were cut short: the client left, a reset, a drain.", tally.incomplete),
            ("model_rewrites", "Requests whose model name was rewritten.", tally.rewrites),
            ("plugin_errors", "Runs of the scheduling profile that a plugin broke.", tally.plugin_errors),
        ):
            yield CounterMetricFamily(f"shunter_picker_{name}", text, value)
        age = float("inf") if overview.snapshot_age_s is None else overview.snapshot_age_s
        yield GaugeMetricFamily("shunter_picker_snapshot_age_seconds", "Time since the scraper was last heard of.", age)
        yield from self._averages(overview)

    def _averages(self, overview: Overview) -> Iterator[Metric]:
        ready = [row for row in overview.endpoints if row.ready]
        yield _pool("ready_endpoints", "Endpoints that may get requests.", self._pool, float(len(ready)))
        for name, text, values in (
            ("average_queue_size", "Requests waiting, per endpoint.", [row.waiting for row in ready]),
            ("average_running_requests", "Requests running, per endpoint.", [row.running for row in ready]),
            ("average_kv_cache_utilization", "KV cache in use, 0 to 1.", [row.kv_usage for row in ready]),
        ):
            known = [value for value in values if value is not None]
            if known:
                yield _pool(name, text, self._pool, sum(known) / len(known))


def _by_endpoint(overview: Overview) -> Iterator[Metric]:
    rows = overview.endpoints
    yield _counter("picks", "Requests sent to an endpoint.", "endpoint", {row.authority: row.picks for row in rows})
    hits = {row.authority: row.prefix_hit_blocks for row in rows}
    yield _counter("prefix_hit_blocks", "Prompt blocks that the chosen endpoint had seen before.", "endpoint", hits)
    blocks = {row.authority: row.prefix_blocks for row in rows}
    yield _counter("prefix_blocks", "Prompt blocks of all requests sent to an endpoint.", "endpoint", blocks)
    in_flight = GaugeMetricFamily("shunter_picker_in_flight_requests", "Requests picked and not ended.", labels=["endpoint"])
    for row in rows:
        in_flight.add_metric([row.authority], row.in_flight)
    yield in_flight


def _counter(name: str, text: str, label: str, values: dict[str, int]) -> Metric:
    family = CounterMetricFamily(f"shunter_picker_{name}", text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _pool(name: str, text: str, pool: str, value: float) -> Metric:
    family = GaugeMetricFamily(f"llm_d_epp_{name}", text, labels=["name"])
    family.add_metric([pool], value)
    return family
