"""The metrics page: an engine's gauges and tally under vLLM's names, types and labels, written by prometheus_client.

Only families whose values the engine model really has; vLLM 0.32 publishes a few dozen more (FLOPs, KV connectors, HTTP), and
none of its encoder: a model that reads media tells of that as `shunter_lab_encodings`. As in vLLM, all `vllm:` families carry
`engine` and `model_name`, except `lora_requests_info` and `admission_rejections_total`; counters and histograms have a
`_created` gauge beside them; and `lora_requests_info` is a unix time, with one series for ever per combination of adapters
that was ever true.

Two differences on purpose: the two adapter lists say what runs and what waits, and requests whose clients hang up are counted
as aborted. vLLM 0.12 to 0.32 writes every name into both lists (the fault `lora-lists-equal` does that), and vLLM 0.32 counts
no aborts (`aborts-uncounted`).
"""

from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString  # pyright: ignore[reportUnknownVariableType]  its argument has no annotation

from shunter.lab.core.models import Models
from shunter.lab.core.params import EngineParams
from shunter.lab.core.tally import Histogram, Tally
from shunter.lab.shell.clockwork import Clockwork

__all__ = ["MetricsPage"]

_COUNTERS = {
    "prefix_cache_queries": "Prefix cache queries, in terms of number of queried tokens.",
    "prefix_cache_hits": "Prefix cache hits, in terms of number of cached tokens.",
    "mm_cache_queries": "Multi-modal cache queries, in terms of number of queried items.",
    "mm_cache_hits": "Multi-modal cache hits, in terms of number of cached items.",
    "num_preemptions": "Cumulative number of preemption from the engine.",
    "prompt_tokens": "Number of prefill tokens processed.",
    "prompt_tokens_cached": "Number of cached prompt tokens (local + external).",
    "generation_tokens": "Number of generation tokens processed.",
}
_HISTOGRAMS = {
    "request_prompt_tokens": "Number of prefill tokens processed.",
    "request_generation_tokens": "Number of generation tokens processed.",
    "iteration_tokens_total": "Histogram of number of tokens per engine_step.",
    "request_params_max_tokens": "Histogram of the max_tokens request parameter.",
    "time_to_first_token_seconds": "Histogram of time to first token in seconds.",
    "inter_token_latency_seconds": "Histogram of inter-token latency in seconds.",
    "request_time_per_output_token_seconds": "Histogram of time_per_output_token_seconds per request.",
    "e2e_request_latency_seconds": "Histogram of e2e request latency in seconds.",
    "request_queue_time_seconds": "Histogram of time spent in WAITING phase for request.",
    "request_inference_time_seconds": "Histogram of time spent in RUNNING phase for request.",
    "request_prefill_time_seconds": "Histogram of time spent in PREFILL phase for request.",
    "request_decode_time_seconds": "Histogram of time spent in DECODE phase for request.",
    "request_num_preemptions": "Histogram of the number of times a request was preempted.",
    "request_prefill_kv_computed_tokens": ("Histogram of new KV tokens computed during prefill (excluding cached tokens)."),
}


class _HistogramText(Collector):
    """One histogram, written anew only after an observation: histograms are most of a page, and most of them rest.

    `histograms`: those of the engines, by the labels of each.
    """

    def __init__(
        self, name: str, documentation: str, histograms: Sequence[tuple[dict[str, str], Histogram]], created_s: float
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._histograms = histograms
        self._created_s = created_s
        self._written = 0, generate_latest(self)

    def render(self) -> bytes:
        count = sum(histogram.count for _, histogram in self._histograms)
        if count != self._written[0]:
            self._written = count, generate_latest(self)
        return self._written[1]

    def collect(self) -> Iterator[Metric]:
        names = list(self._histograms[0][0])
        family = HistogramMetricFamily(f"vllm:{self._name}", self._documentation, labels=names)
        for labels, histogram in self._histograms:
            total = 0
            buckets: list[tuple[str, float]] = []
            for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
                total += count
                buckets.append((floatToGoString(bound), total))
            family.add_metric(list(labels.values()), buckets, histogram.sum)
            family.add_sample(f"{family.name}_created", labels, self._created_s)
        yield family


class MetricsPage(Collector):
    """Renders the engines of a server. `unix_minus_engine_s`: what to add to the engines' time to get unix time."""

    def __init__(self, clockworks: Sequence[Clockwork], models: Models, unix_minus_engine_s: float, started_s: float) -> None:
        self._engines = [
            _EngineFamilies(clockwork, str(rank), models, unix_minus_engine_s, started_s)
            for rank, clockwork in enumerate(clockworks)
        ]
        self._registry = CollectorRegistry()
        GCCollector(self._registry)
        PlatformCollector(self._registry)
        ProcessCollector(registry=self._registry)
        self._registry.register(self)
        self._histograms = [
            _HistogramText(
                name,
                documentation,
                [(engine.labels, getattr(engine.tally, name)) for engine in self._engines],
                started_s + unix_minus_engine_s,
            )
            for name, documentation in _HISTOGRAMS.items()
        ]

    def render(self) -> bytes:
        """The page as of now, in the Prometheus text format."""
        return b"".join((generate_latest(self._registry), *(histogram.render() for histogram in self._histograms)))

    def collect(self) -> Iterator[Metric]:
        """Every family once, with the series of all engines; those without a label of the engine are the first one's."""
        for family, *others in zip(*(engine.collect() for engine in self._engines), strict=True):
            for other in others:
                family.samples.extend(sample for sample in other.samples if "engine" in sample.labels)
            yield family


class _EngineFamilies:
    """The families of one engine, but for its histograms."""

    def __init__(self, clockwork: Clockwork, rank: str, models: Models, unix_minus_engine_s: float, started_s: float) -> None:
        self.labels = {"engine": rank, "model_name": models.names[0]}
        self._clockwork = clockwork
        self._models = models
        self._unix_minus_engine_s = unix_minus_engine_s
        self._created_s = started_s + unix_minus_engine_s

    @property
    def tally(self) -> Tally:
        """What its engine has done."""
        return self._clockwork.engine.tally

    def collect(self) -> Iterator[Metric]:
        gauges = self._clockwork.gauges()
        engine = self._clockwork.engine
        tally = engine.tally
        yield self._gauge("num_requests_running", "Number of requests in model execution batches.", gauges.running)
        yield self._gauge("num_requests_waiting", "Number of requests waiting to be processed.", gauges.waiting)
        yield self._gauge(
            "num_requests_waiting_by_reason",
            "Number of waiting requests by reason. Reason labels: 'capacity' = waiting for scheduling capacity; "
            "'deferred' = deferred by transient constraints (LoRA budget, KV transfer, blocked status). "
            "Sum of all reasons equals vllm:num_requests_waiting.",
            {"capacity": gauges.waiting_capacity, "deferred": gauges.waiting_deferred},
            by="reason",
        )
        yield self._gauge("kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.", gauges.kv_usage)
        for name, documentation in _COUNTERS.items():
            yield self._counter(name, documentation, {"": getattr(tally, name)})
        yield self._counter(
            "prompt_tokens_by_source",
            "Number of prompt tokens by source.",
            {
                "local_compute": tally.prompt_tokens - tally.prompt_tokens_cached,
                "local_cache_hit": tally.prompt_tokens_cached - tally.prompt_tokens_external,
                "external_kv_transfer": tally.prompt_tokens_external,
            },
            by="source",
        )
        yield self._counter(
            "request_success",
            "Count of successfully processed requests.",
            tally.request_success,
            by="finished_reason",
        )
        yield self._rejections(tally)
        if engine.params.media_tokens:
            yield from self._encodings(tally)
        if self._models.lora:
            yield self._lora_info(tally, engine.params)
        yield self._cache_info(engine.params)

    def _gauge(self, name: str, documentation: str, values: float | Mapping[str, float], *, by: str = "") -> Metric:
        family = GaugeMetricFamily(f"vllm:{name}", documentation)
        for key, value in values.items() if isinstance(values, Mapping) else [("", values)]:
            family.add_sample(family.name, {**self.labels, by: key} if by else self.labels, value)
        return family

    def _counter(self, name: str, documentation: str, values: Mapping[str, float], *, by: str = "") -> Metric:
        family = CounterMetricFamily(f"vllm:{name}", documentation)
        for key, value in values.items():
            labels = {**self.labels, by: key} if by else self.labels
            family.add_sample(f"{family.name}_total", labels, value)
            family.add_sample(f"{family.name}_created", labels, self._created_s)
        return family

    def _rejections(self, tally: Tally) -> Metric:
        family = CounterMetricFamily(
            "vllm:admission_rejections",
            "Number of admission attempts rejected by a queue limit, by reason.",
            labels=["model_name", "reason"],
        )
        model = self._models.names[0]
        family.add_metric([model, "max_num_queued_reqs"], tally.admission_rejections, created=self._created_s)
        family.add_metric([model, "max_num_queued_tokens"], 0, created=self._created_s)
        return family

    def _encodings(self, tally: Tally) -> Iterator[Metric]:
        family = CounterMetricFamily(
            "shunter_lab_encodings",
            "Pictures and the like that steps needed, by where they came from: computed, cache, storage.",
            labels=["engine", "model_name", "source"],
        )
        for source, count in tally.encodings.items():
            family.add_metric([*self.labels.values(), source], count, created=self._created_s)
        yield family
        family = CounterMetricFamily(
            "shunter_lab_encodings_unsaved",
            "Pictures and the like that were encoded and could not be put into the storage.",
            labels=["engine", "model_name"],
        )
        family.add_metric([*self.labels.values()], tally.encodings_unsaved, created=self._created_s)
        yield family

    def _lora_info(self, tally: Tally, params: EngineParams) -> Metric:
        family = GaugeMetricFamily(
            "vllm:lora_requests_info",
            "Running stats on lora requests.",
            labels=["max_lora", "running_lora_adapters", "waiting_lora_adapters"],
        )
        for (running, waiting), seen_s in tally.adapters_seen_s.items():
            family.add_metric([str(params.max_loras), running, waiting], seen_s + self._unix_minus_engine_s)
        return family

    def _cache_info(self, params: EngineParams) -> Metric:
        """VLLM's labels that a consumer reads or that this engine has; the values are strings, None included."""
        family = GaugeMetricFamily("vllm:cache_config_info", "Information of the LLMEngine CacheConfig")
        labels = {
            "block_size": params.block_size,
            "cache_dtype": "auto",
            "enable_prefix_caching": params.keeps_prefixes,
            "engine": self.labels["engine"],
            "kv_cache_max_concurrency": params.num_blocks * params.block_size / params.context_tokens,
            "kv_cache_size_tokens": params.num_blocks * params.block_size,
            "num_cpu_blocks": None,
            "num_gpu_blocks": params.num_blocks,
            "num_gpu_blocks_override": params.num_blocks,
            "sliding_window": None,
        }
        family.add_sample(family.name, {name: str(value) for name, value in labels.items()}, 1)
        return family
