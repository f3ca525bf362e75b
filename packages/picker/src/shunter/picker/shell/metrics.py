"""The picker's metrics in Prometheus text: the workers' counters, read when somebody asks.

Names are the reference's (``llm_d_epp_*``) where the meaning agrees, ours (``shunter_picker_*``) elsewhere.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from shunter.picker.core.overview import Overview
from shunter.picker.shell.outcome_metrics import count_by, outcome_families
from shunter.picker.shell.queue_metrics import queue_families
from shunter.picker.shell.report import Source, WorkerReport

__all__ = ["Metrics", "averages"]


class Metrics(Collector):
    """Renders what its source tells at that moment."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def render(self) -> bytes:
        """Return the page."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield every family."""
        overview, tally = self._source.overview(), self._source.tally()
        yield from _by_endpoint(overview)
        yield count_by("refusals", "Requests refused, by the reason given to the client.", "reason", overview.refusals)
        for name, text, value in (
            ("released", "Picked requests that ended.", tally.released),
            ("incomplete", "Picked requests that were cut short: the client left, a reset, a drain.", tally.incomplete),
            ("model_rewrites", "Requests whose model name was rewritten.", tally.rewrites),
            ("plugin_errors", "Runs of the scheduling profile that a plugin broke.", tally.plugin_errors),
            ("models_named", "Requests whose model was named in headers, by body-based routing.", tally.named),
            ("models_not_named", "Requests in which body-based routing found no model.", tally.nameless),
            ("laps", "Times a worker lost the trail of another one's bookings.", tally.laps),
            ("prompts_tokenised", "Prompts whose tokens an engine told.", tally.tokenised),
            ("prompts_untokenised", "Prompts whose tokens were wanted and did not come.", tally.untokenised),
        ):
            yield CounterMetricFamily(f"shunter_picker_{name}", text, value)
        rulings = CounterMetricFamily(
            "llm_d_epp_model_rewrite_decisions",
            "What InferenceModelRewrites and InferenceModels made of models.",
            labels=["model_rewrite_name", "model_name", "target_model"],
        )
        for (rule, model, target), count in tally.rulings.items():
            rulings.add_metric([rule.partition(" ")[2] or rule, model, target], count)
        yield rulings
        complaints = GaugeMetricFamily(
            "shunter_picker_plugin_complaints",
            "Plugins that did something wrong, or are not shown what they need; the fleet's page says what.",
            labels=["plugin"],
        )
        for plugin in overview.complaints:
            complaints.add_metric([plugin], 1.0)
        yield complaints
        age = float("inf") if overview.snapshot_age_s is None else overview.snapshot_age_s
        yield GaugeMetricFamily("shunter_picker_snapshot_age_seconds", "Time since the scraper was last heard of.", age)
        yield from averages(overview, self._source.pool())
        yield from queue_families(tally.queue, self._source.pool())
        yield from _by_worker(self._source.workers())
        yield count_by("config_reloads", "Reloads of the configuration.", "result", self._source.reloads())
        shadow = self._source.shadow()
        if shadow is not None:
            results = {"agreed": shadow.decided - shadow.differed, "differed": shadow.differed - shadow.refused}
            results["refused"] = shadow.refused
            yield count_by("shadow_decisions", "What the shadow configuration made of requests.", "result", results)
            yield CounterMetricFamily("shunter_picker_shadow_seconds", "Time that workers spent on it.", shadow.spent_s)
        learned = self._source.learned()
        if learned is not None:
            yield from outcome_families(learned)


def averages(overview: Overview, served: str) -> Iterator[Metric]:
    """Yield those of ``served`` as a whole, and of each pool by itself if it is more than one pool.

    The label ``name`` is the reference's; of several pools it is namespace/name.
    """
    pools = sorted({pool for row in overview.endpoints for pool in row.pools})
    groups = {served: overview.endpoints}
    if len(pools) > 1:
        groups |= {pool: tuple(row for row in overview.endpoints if pool in row.pools) for pool in pools}
    ready = {pool: [row for row in rows if row.ready] for pool, rows in groups.items()}
    yield _by_pool("ready_endpoints", "Endpoints that may get requests.", {pool: len(rows) for pool, rows in ready.items()})
    for name, text, column in (
        ("average_queue_size", "Requests waiting, per endpoint.", "waiting"),
        ("average_running_requests", "Requests running, per endpoint.", "running"),
        ("average_kv_cache_utilization", "KV cache in use, 0 to 1.", "kv_usage"),
    ):
        known = {
            pool: [value for row in rows if (value := cast("float | None", getattr(row, column))) is not None]
            for pool, rows in ready.items()
        }
        yield _by_pool(name, text, {pool: sum(values) / len(values) for pool, values in known.items() if values})


def _by_worker(reports: Sequence[WorkerReport]) -> Iterator[Metric]:
    up = GaugeMetricFamily("shunter_picker_worker_up", "Whether the worker is ready.", labels=["worker"])
    streams = GaugeMetricFamily("shunter_picker_worker_streams", "Open ext_proc streams.", labels=["worker"])
    expiry = GaugeMetricFamily(
        "shunter_picker_worker_certificate_expiry_seconds",
        "When its certificate expires, since 1970; none without TLS.",
        labels=["worker"],
    )
    memory = GaugeMetricFamily("shunter_picker_worker_resident_memory_bytes", "Its resident memory.", labels=["worker"])
    cpu = CounterMetricFamily("shunter_picker_worker_cpu_seconds", "CPU time of the process there now.", labels=["worker"])
    restarts = CounterMetricFamily(
        "shunter_picker_worker_restarts", "Processes that ended there, by the reason.", labels=["worker", "reason"]
    )
    for report in reports:
        label = [report.worker]
        up.add_metric(label, report.ready)
        streams.add_metric(label, report.streams)
        if report.certificate_expires_s is not None:
            expiry.add_metric(label, report.certificate_expires_s)
        usage = _usage(report.pid)
        if usage is not None:
            cpu.add_metric(label, usage[0])
            memory.add_metric(label, usage[1])
        for reason, count in report.restarts.items():
            restarts.add_metric([*label, reason], count)
    yield from (up, streams, expiry, memory, cpu, restarts)


def _usage(pid: int) -> tuple[float, int] | None:
    """Return a process' CPU seconds and resident bytes (proc(5)); None if it is gone, or there is no /proc."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()  # after the name, which may hold anything: field 3 is the first
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), int(fields[21]) * os.sysconf("SC_PAGE_SIZE")


def _by_endpoint(overview: Overview) -> Iterator[Metric]:
    rows = overview.endpoints
    yield count_by("picks", "Requests sent to an endpoint.", "endpoint", {row.authority: row.picks for row in rows})
    hits = {row.authority: row.prefix_hit_blocks for row in rows}
    yield count_by("prefix_hit_blocks", "Prompt blocks that the chosen endpoint had seen before.", "endpoint", hits)
    blocks = {row.authority: row.prefix_blocks for row in rows}
    yield count_by("prefix_blocks", "Prompt blocks of all requests sent to an endpoint.", "endpoint", blocks)
    in_flight = GaugeMetricFamily("shunter_picker_in_flight_requests", "Requests picked and not ended.", labels=["endpoint"])
    for row in rows:
        in_flight.add_metric([row.authority], row.in_flight)
    yield in_flight


def _by_pool(name: str, text: str, values: Mapping[str, float]) -> Metric:
    family = GaugeMetricFamily(f"llm_d_epp_{name}", text, labels=["name"])
    for pool, value in values.items():
        family.add_metric([pool], value)
    return family
