"""What the collector learnt as Prometheus metrics: the reference's names where the meaning agrees, ours elsewhere.

Distributions are of the whole pool; of each endpoint there are counts and sums, whose quotients are averages. A histogram for
each endpoint would be 35 series more of each: 70,000 at a thousand endpoints.
"""

from collections.abc import Iterator, Sequence

from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)

from shunter.picker.core.learned import (
    CACHED_TOKENS,
    COMPLETION_TOKENS,
    DURATION_S,
    PROMPT_TOKENS,
    TTFT_S,
    Histogram,
    Learned,
    outliers,
)

__all__ = ["count_by", "outcome_families"]


def outcome_families(learned: Learned) -> Iterator[Metric]:
    """Yield every family."""
    times = HistogramMetricFamily(
        "llm_d_epp_request_ttft_seconds", "To the first byte of the response's body.", labels=["streaming"]
    )
    times.add_metric(["true"], *_buckets(learned.ttft, TTFT_S))
    times.add_metric(["false"], *_buckets(learned.first_byte, TTFT_S))
    yield times
    for name, text, histogram, bounds in (
        ("request_duration_seconds", "To the response's last byte.", learned.duration, DURATION_S),
        ("request_input_tokens", "Of prompts, where a response told.", learned.prompt, PROMPT_TOKENS),
        ("request_output_tokens", "Of answers, where a response told.", learned.completion, COMPLETION_TOKENS),
        ("request_cached_tokens", "Of prompts, served by the engine's cache.", learned.cached, CACHED_TOKENS),
    ):
        family = HistogramMetricFamily(f"llm_d_epp_{name}", text)
        family.add_metric([], *_buckets(histogram, bounds))
        yield family
    for name, text, value in (
        ("records", "Requests that Envoy told the collector of.", learned.records),
        ("unread_records", "Entries that could not be read.", learned.unread),
        ("refused_peers", "Connections for records that did not speak the protocol.", learned.refused_peers),
        ("stranger_records", "Requests to endpoints that the snapshot does not have.", learned.strangers),
        ("blind_requests", "Requests that were served without a pick.", learned.blind),
        ("fallbacks", "Requests that another endpoint served than the first one picked.", learned.fallbacks),
        ("retries", "Attempts beyond each request's first.", learned.retries),
        ("adopted", "Requests that the collector took over from dead workers or ended streams.", learned.adopted),
        ("expired", "Adopted requests given up since Envoy spoke of them no more.", learned.expired),
    ):
        yield CounterMetricFamily(f"shunter_picker_{name}", text, value)
    yield GaugeMetricFamily("shunter_picker_adopted_requests", "Adopted requests in flight.", learned.adopting)
    yield count_by("responses", "Requests by status class.", "status", learned.statuses)
    yield count_by("response_flags", "Requests by Envoy's response flag, if any.", "flag", learned.flags)
    yield from _by_endpoint(learned)


def _by_endpoint(learned: Learned) -> Iterator[Metric]:
    rows = sorted(learned.rows.values(), key=lambda row: row.slot)
    yield count_by("endpoint_requests", "Requests an endpoint ended.", "endpoint", {row.endpoint: row.requests for row in rows})
    yield count_by("endpoint_failures", "Of these, failed.", "endpoint", {row.endpoint: row.failures for row in rows})
    ttft = SummaryMetricFamily("shunter_picker_endpoint_ttft_seconds", "Of streamed responses.", labels=["endpoint"])
    for row in rows:
        ttft.add_metric([row.endpoint], row.ttfts, row.ttft_total_s)
    yield ttft
    for name, text, values in (
        ("prefill_tokens_per_second", "Prompt tokens computed, queueing included.", [row.prefill_per_s for row in rows]),
        ("decode_tokens_per_second", "Of one response.", [row.decode_per_s for row in rows]),
    ):
        family = GaugeMetricFamily(f"shunter_picker_endpoint_{name}", text, labels=["endpoint"])
        for row, value in zip(rows, values, strict=True):
            if value is not None:
                family.add_metric([row.endpoint], value)
        yield family
    slow = GaugeMetricFamily("shunter_picker_endpoint_outlier", "1: much slower than others, or failing.", labels=["endpoint"])
    for row in outliers(learned):
        slow.add_metric([row.endpoint], 1)
    yield slow


def _buckets(histogram: Histogram, bounds: Sequence[float]) -> tuple[list[tuple[str, float]], float]:
    """Return cumulative buckets as prometheus_client takes them, and the sum."""
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip([*map(str, map(float, bounds)), "+Inf"], histogram.counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets, histogram.total


def count_by(name: str, text: str, label: str, values: dict[str, int]) -> Metric:
    """Return a counter of ours with one value for each value of ``label``."""
    family = CounterMetricFamily(f"shunter_picker_{name}", text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family
