"""What flow control counted as Prometheus metrics, under the reference's names (GIE digest §7.2).

The reference has each also by fairness id and model; here neither is a label, since clients choose both.
"""

from collections.abc import Iterator

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from shunter.picker.core.queue_counters import OUTCOMES, WAITS_S, QueueTally

__all__ = ["queue_families"]

PREFIX = "llm_d_epp_flow_control_"


def queue_families(queue: QueueTally, pool: str) -> Iterator[Metric]:
    """Yield every family; nothing where there is no flow control."""
    if not queue.bands:
        return
    by_band = ["priority", "inference_pool"]
    size = GaugeMetricFamily(f"{PREFIX}queue_size", "Requests that wait.", labels=by_band)
    size_bytes = GaugeMetricFamily(f"{PREFIX}queue_bytes", "Bytes of their bodies.", labels=by_band)
    used = GaugeMetricFamily(f"{PREFIX}capacity_utilization_requests", "Of what may wait, how much does.", labels=by_band)
    used_bytes = GaugeMetricFamily(f"{PREFIX}capacity_utilization_bytes", "Of what may wait, how much does.", labels=by_band)
    ends = CounterMetricFamily(f"{PREFIX}requests", "Requests, by what became of them.", labels=["outcome", *by_band])
    waits = HistogramMetricFamily(
        f"{PREFIX}request_queue_duration_seconds", "How long those waited who went on.", labels=["outcome", *by_band]
    )
    for priority, band in sorted(queue.bands.items(), reverse=True):
        labels = [str(priority), pool]
        size.add_metric(labels, band.requests)
        size_bytes.add_metric(labels, band.size_bytes)
        used.add_metric(labels, _share(band.requests, band.max_requests))
        used_bytes.add_metric(labels, _share(band.size_bytes, band.max_bytes))
        for outcome, count in zip(OUTCOMES, band.outcomes, strict=True):
            ends.add_metric([outcome, *labels], count)
        waits.add_metric(["Dispatched", *labels], _cumulate(band.waits), band.waited_us / 1e6)
    yield from (size, size_bytes, used, used_bytes, ends, waits)
    bands = queue.bands.values()
    for name, value, most in (
        ("requests", sum(band.requests for band in bands), queue.max_requests),
        ("bytes", sum(band.size_bytes for band in bands), queue.max_bytes),
    ):
        family = GaugeMetricFamily(
            f"{PREFIX}global_capacity_utilization_{name}",
            "Of what may wait of all priorities, how much does; 0 without a bound.",
            labels=["inference_pool"],
        )
        family.add_metric([pool], _share(value, most))
        yield family
    saturation = GaugeMetricFamily(
        f"{PREFIX}pool_saturation", "How full the pool was when a worker looked last.", labels=["inference_pool", "stage"]
    )
    saturation.add_metric([pool, "effective"], queue.saturation)
    yield saturation


def _share(value: int, most: int) -> float:
    return value / most if most else 0.0


def _cumulate(counts: list[int]) -> list[tuple[str, float]]:
    bounds = [*map(str, WAITS_S), "+Inf"]
    return [(bound, sum(counts[: at + 1])) for at, bound in enumerate(bounds)]
