"""The picker's metrics in Prometheus text: the workers' counters, read when somebody asks.

Which metrics there are, and under which names, ``core.families`` says; what each shows, the modules ``core.…_samples``.

Counters of what rarely happens are there from the beginning, as 0: Prometheus sees no growth in a series that begins with 1, so
an alert on the first time would never fire.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Literal, TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from shunter.picker.core import families
from shunter.picker.core.buckets import Histogram
from shunter.picker.core.class_samples import class_samples, level_samples
from shunter.picker.core.families import Family
from shunter.picker.core.outcome_samples import outcome_samples
from shunter.picker.core.pool_samples import pool_samples
from shunter.picker.core.queue_samples import queue_samples
from shunter.picker.core.samples import Labels, Samples, Sum, Value, by_label, fold, single
from shunter.picker.core.shadow import Account
from shunter.picker.core.tables import Tally
from shunter.picker.shell.process import REASONS
from shunter.picker.shell.report import RELOADS, Source, WorkerReport

__all__ = ["Metrics", "Names", "as_metrics", "everything", "process_samples"]

Names: TypeAlias = Literal["current", "legacy", "both"]
"""Whether families are shown under their own names, their twins', or both."""

SUFFIX = "_total"


class Metrics(Collector):
    """Renders what its source tells at that moment."""

    def __init__(self, source: Source, names: Names = "current", page_dropped: Callable[[], int] = int) -> None:
        """Show nothing yet; ``page_dropped`` as in ``everything``."""
        self._source = source
        self._page_dropped = page_dropped
        self._names: Names = names
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def render(self) -> bytes:
        """Return the page."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        for samples in everything(self._source, self._page_dropped()):
            yield from as_metrics(samples, self._names)


def as_metrics(samples: Samples, names: Names = "current") -> Iterator[Metric]:
    """Yield a family as prometheus_client has it, under every name that is wanted."""
    family = samples.family
    if names != "legacy" or not family.twins:
        yield _metric(family, family.name, family.help, family.labels, samples.values)
    if names != "current":
        for twin in family.twins:
            yield _metric(family, twin.name, f"Deprecated: {family.name}.", twin.labels, fold(samples, twin))


def everything(source: Source, page_dropped: int = 0) -> Iterator[Samples]:
    """Yield all that a picker shows; ``page_dropped`` counts the web page's dropped viewers."""
    overview, tally = source.overview(), source.tally()
    yield from class_samples(tally.classes, tally.folded, tally.given_up)
    yield from level_samples(source.service_levels(), tally.levels)
    if overview.snapshot_age_s is not None or source.hindrances():  # a body router, ready without a snapshot, has no pool
        yield from pool_samples(overview, source.pool())
    yield by_label(families.REFUSALS, overview.refusals)
    yield from _counters(tally)
    yield by_label(families.COMPLAINTS, dict.fromkeys(overview.complaints, 1))
    yield from queue_samples(tally.queue, source.pool())
    yield from process_samples(source.workers())
    reloads = source.reloads()
    yield by_label(families.RELOADS, dict.fromkeys(RELOADS, 0) | reloads)
    yield single(families.RELOADED, next(reversed(reloads), "done") == "done")
    yield single(families.PAGE_DROPPED, page_dropped)
    if (shadow := source.shadow()) is not None:
        yield from _shadow(shadow)
    if (learned := source.learned()) is not None:
        yield from outcome_samples(learned)


def _counters(tally: Tally) -> Iterator[Samples]:
    yield by_label(families.ATTEMPTS, {"success": tally.picks, "failure": tally.unscheduled})
    yield single(families.RELEASED, tally.released)
    yield single(families.INCOMPLETE, tally.incomplete)
    yield single(families.MODEL_REWRITES, tally.rewrites)
    yield single(families.PLUGIN_ERRORS, tally.plugin_errors)
    yield single(families.NAMED, tally.named)
    yield single(families.NOT_NAMED, tally.nameless)
    yield single(families.LAPS, tally.laps)
    yield single(families.TURNED_AWAY, tally.turned_away)
    yield single(families.TOKENISED, tally.tokenised)
    yield single(families.UNTOKENISED, tally.untokenised)
    spans = {"exported": tally.spans_exported, "failed": tally.spans_failed, "full": tally.spans_full}
    yield by_label(families.SPANS, spans)
    rulings: dict[Labels, Value] = {}
    for (rule, model, target), count in tally.rulings.items():
        rulings[rule.partition(" ")[2] or rule, model, target] = count
    yield Samples(families.REWRITES, rulings)


def _shadow(account: Account) -> Iterator[Samples]:
    results = {"agreed": account.decided - account.differed, "differed": account.differed - account.refused}
    yield by_label(families.SHADOW_DECISIONS, results | {"refused": account.refused})
    yield single(families.SHADOW_SECONDS, account.spent_s)


def process_samples(reports: Sequence[WorkerReport]) -> Iterator[Samples]:
    """Yield what is shown of each worker and of the collector."""
    yield Samples(families.INFO, {("", f"shunter-{version('shunter-picker')}"): 1})
    yield by_label(families.WORKER_UP, {report.worker: report.ready for report in reports})
    yield by_label(families.WORKER_STREAMS, {report.worker: report.streams for report in reports})
    yield single(families.STREAMS, sum(report.streams for report in reports if report.worker.isdecimal()))
    expiries = {each.worker: each.certificate_expires_s for each in reports if each.certificate_expires_s is not None}
    yield by_label(families.WORKER_CERTIFICATE, expiries)
    usages = {report.worker: usage for report in reports if (usage := _usage(report.pid)) is not None}
    yield by_label(families.WORKER_CPU, {worker: cpu_s for worker, (cpu_s, _) in usages.items()})
    yield by_label(families.WORKER_MEMORY, {worker: size_bytes for worker, (_, size_bytes) in usages.items()})
    restarts = {(each.worker, reason): each.restarts.get(reason, 0) for each in reports for reason in (*REASONS, "relieved")}
    yield Samples(families.WORKER_RESTARTS, restarts)


def _usage(pid: int) -> tuple[float, int] | None:
    """Return a process' CPU seconds and resident bytes (proc(5)); None if it is gone, or there is no /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()  # after the name, which may hold anything: field 3 is the first
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), int(fields[21]) * os.sysconf("SC_PAGE_SIZE")


_KINDS = {
    "counter": CounterMetricFamily,
    "gauge": GaugeMetricFamily,
    "histogram": HistogramMetricFamily,
    "summary": SummaryMetricFamily,
}


def _metric(family: Family, name: str, text: str, labels: Labels, values: Mapping[Labels, Value]) -> Metric:
    """Return it as prometheus_client has it, which adds a counter's suffix itself."""
    metric = _KINDS[family.kind](name.removesuffix(SUFFIX), text, labels=labels)
    for key, value in values.items():
        if isinstance(metric, HistogramMetricFamily) and isinstance(value, Histogram):
            metric.add_metric(key, _cumulate(value, family.buckets), value.total)
        elif isinstance(metric, SummaryMetricFamily) and isinstance(value, Sum):
            metric.add_metric(key, value.count, value.total)
        elif isinstance(metric, CounterMetricFamily | GaugeMetricFamily) and isinstance(value, int | float):
            metric.add_metric(key, value)
        else:
            raise TypeError(f"{name} is a {family.kind}, and {type(value).__name__} is none")
    return metric


def _cumulate(histogram: Histogram, bounds: Sequence[float]) -> list[tuple[str, float]]:
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip([*map(str, map(float, bounds)), "+Inf"], histogram.counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets
