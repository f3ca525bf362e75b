"""Cases are well-formed values, and the right ones are selected."""

import pytest

from shunter.conformance.core.case import Level, find, select
from shunter.conformance.errors import UsageError
from shunter.conformance.sections.servers import CASES

# The ids that reports in the world may contain. Lines are only ever added.
IDS = [
    "ms.reachability.health",
    "ms.reachability.models",
    "ms.reachability.metrics",
    "ms.reachability.health-quick",
    "ms.reachability.process",
    "ms.openai.completion-fields",
    "ms.openai.chat-fields",
    "ms.openai.stream-framing",
    "ms.openai.stream-finish-reason",
    "ms.openai.stream-usage",
    "ms.openai.usage-sum",
    "ms.openai.usage-exact",
    "ms.openai.model-cards",
    "ms.openai.model-named",
    "ms.openai.content-types",
    "ms.sampling.greedy",
    "ms.sampling.seed",
    "ms.sampling.choices",
    "ms.sampling.stop",
    "ms.sampling.logprobs",
    "ms.sampling.chat-logprobs",
    "ms.streaming.same-text",
    "ms.streaming.gradual",
    "ms.streaming.characters",
    "ms.streaming.stop",
    "ms.streaming.unmixed",
    "ms.streaming.chat-role",
    "ms.streaming.usage-so-far",
    "ms.requests.chat-roles",
    "ms.requests.chat-parts",
    "ms.requests.max-completion-tokens",
    "ms.requests.token-ids",
    "ms.requests.several-prompts",
    "ms.requests.idle-members",
    "ms.requests.request-id",
    "ms.requests.kept-connection",
    "ms.errors.unknown-model",
    "ms.errors.malformed-json",
    "ms.errors.missing-prompt",
    "ms.errors.negative-max-tokens",
    "ms.errors.wrong-types",
    "ms.errors.context-overflow",
    "ms.errors.stream-refused",
    "ms.errors.body",
    "ms.errors.internals",
    "ms.errors.wrong-method",
    "ms.errors.unknown-path",
    "ms.metrics.exposition",
    "ms.metrics.load-present",
    "ms.metrics.kv-present",
    "ms.metrics.gauge-types",
    "ms.metrics.counters-rise",
    "ms.metrics.load-values",
    "ms.metrics.kv-range",
    "ms.metrics.load-idle",
    "ms.metrics.kv-idle",
    "ms.metrics.model-label",
    "ms.metrics.one-series",
    "ms.metrics.same-engines",
    "ms.metrics.histograms",
    "ms.load.running-rises",
    "ms.load.queue-rises",
    "ms.load.all-shown",
    "ms.load.drains",
    "ms.load.kv-follows",
    "ms.load.tokens-counted",
    "ms.load.running-bounded",
    "ms.load.scrapers-agree",
    "ms.load.queue-falls",
    "ms.freshness.lag",
    "ms.freshness.ramp",
    "ms.accounting.counters",
    "ms.accounting.first-token",
    "ms.accounting.whole-answer",
    "ms.scrape.in-time",
    "ms.scrape.median",
    "ms.scrape.crowded",
    "ms.scrape.size",
    "ms.scrape.stable-series",
    "ms.scrape.content-type",
    "ms.scrape.compression",
    "ms.scrape.head",
    "ms.scrape.costs-little",
    "ms.cache.size",
    "ms.cache.capacity",
    "ms.cache.tokens-held",
    "ms.cache.full",
    "ms.cache.nothing-lost",
    "ms.cache.preemptions",
    "ms.cancel.stream",
    "ms.cancel.whole",
    "ms.cancel.queued",
    "ms.cancel.kv",
    "ms.cancel.counted",
    "ms.robustness.health-unseen",
    "ms.robustness.health-under-load",
    "ms.robustness.overload",
    "ms.robustness.mistakes",
    "ms.robustness.half-a-body",
    "ms.lora.listed",
    "ms.lora.selected",
    "ms.lora.batched",
    "ms.lora.unknown",
    "ms.lora.unloaded",
    "ms.lora.refused",
    "ms.lora.info",
    "ms.lora.running",
    "ms.lora.fresh",
    "ms.lora.waiting",
    "ms.lora.slots",
    "ms.prefix.hits",
    "ms.prefix.cached-tokens",
    "ms.prefix.salt",
    "ms.prefix.adapter",
    "ms.prefix.faster",
    "ms.kv-events.readable",
    "ms.kv-events.contiguous",
    "ms.kv-events.chained",
    "ms.kv-events.tokens",
    "ms.kv-events.hashes",
    "ms.kv-events.replay",
    "ms.kv-events.predicted",
    "ms.pd.handed-over",
    "ms.pd.same-text",
    "ms.pd.fetched",
    "ms.pd.lost",
    "ms.ranks.series",
    "ms.ranks.pinned",
    "ms.ranks.out-of-range",
    "ms.drain.ready-when-able",
    "ms.drain.unready",
    "ms.drain.in-flight",
    "ms.drain.refuses",
    "ms.drain.exits",
    "ms.drain.engine-dead",
]


def test_ids_never_change():
    assert [case.id for case in CASES] == IDS


def test_a_prefix_selects_whole_segments():
    assert [case.id for case in select(CASES, ["ms.reachability"])] == IDS[:5]
    assert [case.id for case in select(CASES, ["ms.metrics.kv-idle"])] == ["ms.metrics.kv-idle"]
    assert select(CASES) == CASES
    with pytest.raises(UsageError, match=r"'ms\.metrics\.kv'"):
        select(CASES, ["ms.metrics.kv"])


def test_a_level_selects_itself_and_the_stronger_ones():
    assert select(CASES, level=Level.MUST) == tuple(case for case in CASES if case.level is Level.MUST)


def test_a_near_miss_is_named():
    with pytest.raises(UsageError, match=r"did you mean ms\.errors\.malformed-json"):
        find(CASES, "ms.errors.malformd-json")
    with pytest.raises(UsageError, match=r"did you mean ms\.openai"):
        select(CASES, ["ms.openia"])
