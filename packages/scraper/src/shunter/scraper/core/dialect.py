"""Which metrics of which engine mean what: a table, and the readings it is made of.

A dialect gives each signal a tuple of readings; the first that the page answers counts (a family was renamed, or a
flavour of the engine lacks it). A signal no reading answers is None: unknown, never zero.

Several series
--------------
One port may speak for several engines (vLLM with ``--data-parallel-size`` labels them ``engine="0"``,
``engine="1"``). Their queues and batches add up; their cache usage is averaged, which together with the added block
counts keeps "usage × blocks = blocks in use" true. Shards of one engine (SGLang's tensor, pipeline and expert ranks)
repeat what the engine says: of those the newest counts, of equally new ones the largest. A NaN among them makes the
sum unknown.

Sources of the names: the Model Server Protocol of the Gateway API Inference Extension (built-in engines of its
reference) for vllm, sglang, triton-tensorrt-llm and trtllm-serve; the engines' own code for the rest.
"""

import re
from collections.abc import Iterable, Mapping
from math import isfinite, nan
from typing import Literal, Protocol

import msgspec

from shunter.scraper.core.exposition import Page, Sample
from shunter.scraper.errors import ConfigError

__all__ = [
    "DIALECTS",
    "METRICS_PATH",
    "Dialect",
    "Difference",
    "Gauge",
    "Label",
    "Ratio",
    "Reading",
    "Spec",
    "as_number",
    "parse_spec",
]

METRICS_PATH = "/metrics"

Fold = Literal["sum", "mean", "max"]


class Spec(msgspec.Struct, frozen=True):
    """Which samples: a name and the labels they must have."""

    name: str
    labels: Mapping[str, str] = {}

    def matching(self, page: Page) -> list[Sample]:
        """Return the samples that match."""
        samples, wanted = page.samples(self.name), self.labels.items()
        return [sample for sample in samples if wanted <= sample.labels.items()] if wanted else samples

    def engines(self, page: Page, shards: frozenset[str]) -> list[Sample]:
        """Return one matching sample per engine."""
        samples = self.matching(page) if self.labels else page.samples(self.name)
        if len(samples) < 2:
            return samples
        engines: dict[frozenset[tuple[str, str]], Sample] = {}
        for sample in samples:
            engine = frozenset(item for item in sample.labels.items() if item[0] not in shards)
            other = engines.get(engine)
            if other is None or _precedence(sample) > _precedence(other):
                engines[engine] = sample
        return list(engines.values())


def _precedence(sample: Sample) -> tuple[float, float]:
    return (float("-inf") if sample.timestamp_ms is None else sample.timestamp_ms, sample.value)


class Reading(Protocol):
    """How one signal is read off a page."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the samples that it reads."""
        ...

    def read(self, page: Page, shards: frozenset[str], fold: Fold) -> float | None:
        """Return the signal; None if the page does not answer. Raises ExpositionError."""
        ...


class Gauge(msgspec.Struct, frozen=True):
    """The value itself."""

    spec: Spec

    @property
    def names(self) -> tuple[str, ...]:
        """See Reading."""
        return (self.spec.name,)

    def read(self, page: Page, shards: frozenset[str], fold: Fold) -> float | None:
        """See Reading."""
        samples = self.spec.engines(page, shards)
        if len(samples) == 1:  # whatever the fold
            value = samples[0].value
            return value if isfinite(value) else None
        return _fold([sample.value for sample in samples], fold)


class Label(msgspec.Struct, frozen=True):
    """A number in a label of an info metric, such as ``vllm:cache_config_info{block_size="16"}``."""

    spec: Spec
    label: str

    @property
    def names(self) -> tuple[str, ...]:
        """See Reading."""
        return (self.spec.name,)

    def read(self, page: Page, shards: frozenset[str], fold: Fold) -> float | None:
        """See Reading."""
        texts = [sample.labels.get(self.label, "") for sample in self.spec.engines(page, shards)]
        return _fold(list(map(as_number, texts)), fold)


def as_number(text: str) -> float:
    """Return a number that stands in a label, NaN if none does (engines write ``None`` there)."""
    return float(text) if text.isdecimal() else nan


class Difference(msgspec.Struct, frozen=True):
    """``total − part``; not below zero, since the two were not measured at the same instant."""

    total: Gauge
    part: Gauge

    @property
    def names(self) -> tuple[str, ...]:
        """See Reading."""
        return self.total.names + self.part.names

    def read(self, page: Page, shards: frozenset[str], fold: Fold) -> float | None:
        """See Reading."""
        total, part = self.total.read(page, shards, fold), self.part.read(page, shards, fold)
        return None if total is None or part is None else max(0.0, total - part)


class Ratio(msgspec.Struct, frozen=True):
    """``used ÷ capacity``, over all engines together."""

    used: Gauge
    capacity: Gauge

    @property
    def names(self) -> tuple[str, ...]:
        """See Reading."""
        return self.used.names + self.capacity.names

    def read(self, page: Page, shards: frozenset[str], fold: Fold) -> float | None:
        """See Reading; ``fold`` does not matter, a ratio of sums is the weighted mean."""
        del fold
        used, capacity = self.used.read(page, shards, "sum"), self.capacity.read(page, shards, "sum")
        return used / capacity if used is not None and capacity else None


def _fold(values: list[float], fold: Fold) -> float | None:
    if not values or not all(map(isfinite, values)):
        return None
    if fold == "max":
        return max(values)
    return sum(values) / (len(values) if fold == "mean" else 1)


class Dialect(msgspec.Struct, frozen=True):
    """What one engine calls its signals.

    ``lazy``: the engine shows a family only once it has been used, so a page without any is no sign of the wrong
    engine.
    """

    name: str
    waiting: tuple[Reading, ...] = ()
    running: tuple[Reading, ...] = ()
    kv_usage: tuple[Reading, ...] = ()
    block_size: tuple[Reading, ...] = ()
    num_blocks: tuple[Reading, ...] = ()
    adapters: Spec | None = None
    shards: frozenset[str] = frozenset()
    metrics_path: str = METRICS_PATH
    lazy: bool = False


_SPEC = re.compile(r"\s*([a-zA-Z_:][a-zA-Z0-9_:]*)\s*(?:\{(.*)\}\s*)?", re.DOTALL)
_CONSTRAINT = re.compile(r'\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*(?:"([^"]*)"|([^\s",={}]*))\s*(?:(,)|\Z)')


def parse_spec(text: str) -> Spec:
    """Read the reference's metric spec, ``name`` or ``name{label=value,label2="value"}``; raises ConfigError.

    Blanks are allowed around every part; quotes are optional; an empty block is an error, as in the reference.
    """
    match = _SPEC.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text!r} is not a metric: write name or name{{label=value}}")
    name, block = match.groups()
    labels: dict[str, str] = {}
    position, more = 0, block is not None
    while more:
        constraint = _CONSTRAINT.match(block, position)
        if constraint is None:
            raise ConfigError(f"{text!r}: in braces write label=value, with commas between")
        labels[constraint[1]] = constraint[3] if constraint[2] is None else constraint[2]
        position, more = constraint.end(), constraint[4] is not None
    return Spec(name, labels)


def _gauge(spec: str) -> Gauge:
    return Gauge(parse_spec(spec))


def _gauges(*specs: str) -> tuple[Reading, ...]:
    return tuple(map(_gauge, specs))


def _label(name: str, label: str) -> Label:
    return Label(Spec(name), label)


def _table(dialects: Iterable[Dialect]) -> Mapping[str, Dialect]:
    return {dialect.name: dialect for dialect in dialects}


_TRITON_REQUESTS = "nv_trt_llm_request_metrics{request_type=%s}"
_TRITON_BLOCKS = "nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type=%s}"

# Upstream's engine "triton" (nv_inference_pending_request_count, nv_inference_exec_count) is left out on purpose: the
# first stays zero with twelve requests queued (Triton 2.51.0, decoupled model), the second is a counter.
DIALECTS: Mapping[str, Dialect] = _table(
    (
        Dialect(
            "vllm",
            waiting=_gauges("vllm:num_requests_waiting"),
            running=_gauges("vllm:num_requests_running"),
            kv_usage=_gauges("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"),  # the second before 0.9.2
            block_size=(_label("vllm:cache_config_info", "block_size"),),
            num_blocks=(_label("vllm:cache_config_info", "num_gpu_blocks"),),
            # Since 0.12 vLLM writes the same names to both lists, waiting or not (seen on 0.32.0).
            adapters=Spec("vllm:lora_requests_info"),
        ),
        Dialect(
            "sglang",
            waiting=_gauges("sglang:num_queue_reqs"),
            running=_gauges("sglang:num_running_reqs"),
            kv_usage=_gauges("sglang:token_usage"),
            # The info metric existed in 0.5.9 and 0.5.10 only; the reference still reads it.
            block_size=(_gauge("sglang:page_size"), _label("sglang:cache_config_info", "page_size")),
            num_blocks=(_gauge("sglang:num_pages"), _label("sglang:cache_config_info", "num_pages")),
            shards=frozenset({"tp_rank", "pp_rank", "moe_ep_rank"}),
        ),
        Dialect(
            "triton-tensorrt-llm",
            # The python flavour of the model and old releases lack the kinds "waiting" and "fraction".
            waiting=(
                _gauge(_TRITON_REQUESTS % "waiting"),
                Difference(_gauge(_TRITON_REQUESTS % "active"), _gauge(_TRITON_REQUESTS % "scheduled")),
            ),
            running=_gauges(_TRITON_REQUESTS % "scheduled"),
            kv_usage=(
                _gauge(_TRITON_BLOCKS % "fraction"),
                Ratio(_gauge(_TRITON_BLOCKS % "used"), _gauge(_TRITON_BLOCKS % "max")),
            ),
            block_size=_gauges(_TRITON_BLOCKS % "tokens_per"),
            num_blocks=_gauges(_TRITON_BLOCKS % "max"),
        ),
        Dialect(
            "trtllm-serve",
            waiting=_gauges("trtllm_num_requests_waiting"),
            running=_gauges("trtllm_num_requests_running"),
            kv_usage=_gauges("trtllm_kv_cache_utilization"),
            block_size=_gauges("trtllm_kv_cache_tokens_per_block"),
            num_blocks=_gauges("trtllm_kv_cache_max_blocks"),
            metrics_path="/prometheus/metrics",  # /metrics is JSON there
        ),
        Dialect(
            "tgi",
            waiting=_gauges("tgi_queue_size"),
            running=_gauges("tgi_batch_current_size"),
            # The token budget of the batch is the nearest thing to cache usage that it shows: an upper bound.
            kv_usage=(Ratio(_gauge("tgi_batch_current_max_tokens"), _gauge("tgi_batch_max_total_tokens")),),
            lazy=True,
        ),
        Dialect(
            "jetstream",
            # Its generate backlog lies between prefill and decode: neither the queue before the engine nor the batch.
            waiting=_gauges("jetstream_prefill_backlog_size"),
            kv_usage=_gauges("jetstream_slots_used_percentage"),  # a fraction of slots, one series per generate engine
        ),
        Dialect(
            "llama.cpp",
            waiting=_gauges("llamacpp:requests_deferred"),
            running=_gauges("llamacpp:requests_processing"),
            kv_usage=_gauges("llamacpp:kv_cache_usage_ratio"),  # removed in May 2025
        ),
        Dialect(
            "lmdeploy",
            waiting=_gauges("lmdeploy:num_requests_waiting"),
            running=_gauges("lmdeploy:num_requests_running"),
            kv_usage=_gauges("lmdeploy:gpu_cache_usage_perc"),
        ),
    )
)
