"""Prefix matches from what engines announce of their KV caches: the reference's parameters, as far as they have a meaning here.

The scraper subscribes to the engines, once for all workers of a machine, and is told their ports (``--kv-events-port``,
``--kv-replay-port``); the tokens of a prompt come from the engines' own ``/tokenize``. So what the reference says of sockets,
topics, discovery, hashes and tokenizers is accepted where it changes nothing, and refused where it would.
"""

import re
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from shunter.picker.core.holders import MAX_PAIRS, PAIR_BYTES, HoldersSettings
from shunter.picker.core.precise import PreciseSettings
from shunter.picker.plugins.catalogue import Kind, Part, Plugin, Stability, register
from shunter.picker.plugins.durations import duration_ns

__all__ = ["PrecisePrefixCache"]

Positive = Annotated[int, Meta(ge=1)]
Weight = Annotated[float, Meta(ge=0, le=1)]
Port = Annotated[int, Meta(ge=1, le=65_535)]

_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)\s*([KMGT]?)i?B?")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class TokenProcessor(Part, frozen=True):
    """How blocks are named: as the engines cut them, by xxh3. So none of this has an effect."""

    block_size_tokens: Positive = 16
    block_size: Positive | None = None  # its former name
    hash_seed: str = ""
    hash_algorithm: str = ""


class InMemory(Part, frozen=True):
    """``size`` bounds what is remembered, in pairs of endpoint and 64 tokens; unset: 200,000 of 150 bytes each.

    The reference's ``podCacheSize``, endpoints per block, has no effect: they are bits of one number.
    """

    size: Positive | None = None
    pod_cache_size: Positive = 10


class CostAware(Part, frozen=True):
    """The same bound in bytes."""

    size: str = "2GiB"

    def __post_init__(self) -> None:
        """Refuse what is no size."""
        if not _SIZE.fullmatch(self.size):
            raise ValueError(f"{self.size!r} is not a size such as 512MiB")

    @property
    def size_bytes(self) -> int:
        """The size as a number."""
        number, unit = _SIZE.findall(self.size)[0]
        return int(float(number) * _UNITS[unit])


class BlockIndex(Part, frozen=True):
    """What bounds the index, and how it is watched."""

    in_memory_config: InMemory | None = None
    cost_aware_memory_config: CostAware | None = None
    redis_config: Any = None
    valkey_config: Any = None
    enable_metrics: bool = False
    metrics_logging_interval: str | int = ""

    def __post_init__(self) -> None:
        """Refuse a shared index."""
        if self.redis_config is not None or self.valkey_config is not None:
            raise ValueError(
                "an index in Redis is not needed: every picker learns from the engines themselves; remove redisConfig and "
                "valkeyConfig, and let a scraper on every host follow the engines"
            )


class Tier(Part, frozen=True):
    """What a block in this kind of memory is worth."""

    name: str
    weight: Weight


class Indexer(Part, frozen=True):
    """The index."""

    kv_block_index_config: BlockIndex = BlockIndex()
    kv_cache_backend_configs: tuple[Tier, ...] = (Tier(name="gpu", weight=1.0), Tier(name="cpu", weight=0.8))
    # The reference's tokenizers; here the engines are asked.
    tokenizers_pool_config: Any = None
    prefix_store_config: Any = None


class PodDiscovery(Part, frozen=True):
    """Whom to subscribe to: done by the scraper, for every endpoint of the pools."""

    pod_label_selector: str = "llm-d.ai/inference-serving=true"
    pod_namespace: str = ""
    socket_port: Port = 5557
    replay_socket_port: Port | None = None


class KvEvents(Part, frozen=True):
    """How events come: by the scraper, from every engine, in whichever of the dialects."""

    zmq_endpoint: str = ""
    topic_filter: str = "kv@"
    concurrency: Positive = 4
    engine_type: Literal["vllm", "sglang"] = "vllm"
    discover_pods: bool = True
    pod_discovery_config: PodDiscovery = PodDiscovery()

    def __post_init__(self) -> None:
        """Refuse the direction in which engines connect to the picker."""
        if self.zmq_endpoint or not self.discover_pods:
            raise ValueError(
                "engines cannot connect to the picker: the scraper connects to them (shunter scraper run --kv-events-port); "
                "remove zmqEndpoint, leave discoverPods true and let engines publish at an address of their own (tcp://*:5557)"
            )


@register("precise-prefix-cache-producer", Kind.PRODUCER, stability=Stability.BETA)
class PrecisePrefixCache(Plugin, frozen=True):
    """Knows who has which prefix cached from the engines' KV events, and guesses where it does not: see ``core.precise``.

    The share of an endpoint is the sum of tier weights over the strides (64 tokens, or the next multiple of the engine's block
    size) that it holds from the prompt's beginning without a gap, by the number of strides of the prompt. With
    ``speculativeIndexing`` whoever was sent a prompt is taken to hold it for ``speculativeTTL``; it is on unless switched off,
    where the reference's is off: without it, equal prompts that come within one prefill scatter.
    """

    token_processor_config: TokenProcessor = TokenProcessor()
    indexer_config: Indexer = Indexer()
    kv_events_config: KvEvents = KvEvents()
    speculative_indexing: bool = True
    speculative_ttl: str = msgspec.field(default="2s", name="speculativeTTL")

    gives_prefix: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse what is no duration."""
        duration_ns(self.speculative_ttl)

    def settings(self, name: str) -> PreciseSettings:
        """Return the parameters as the core takes them; ``name`` is the plugin's own."""
        index = self.indexer_config.kv_block_index_config
        max_pairs = MAX_PAIRS
        if index.cost_aware_memory_config is not None:
            max_pairs = index.cost_aware_memory_config.size_bytes // PAIR_BYTES
        elif index.in_memory_config is not None and index.in_memory_config.size is not None:
            max_pairs = index.in_memory_config.size
        tiers = tuple((tier.name.lower(), tier.weight) for tier in self.indexer_config.kv_cache_backend_configs)
        expect_ns = duration_ns(self.speculative_ttl) if self.speculative_indexing else 0
        return PreciseSettings(producer=name, holders=HoldersSettings(weights=tiers, max_pairs=max_pairs, expect_ns=expect_ns))
