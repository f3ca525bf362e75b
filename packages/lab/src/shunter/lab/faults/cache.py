"""The KV cache: sizes and shares of it that are not true, and answers that are cut when it is full."""

import re
from collections.abc import Callable

from shunter.lab.faults.seams import KV, Fault, Json, Reply, page, value

__all__ = ["FAULTS"]

# Longer than what other sections let an engine generate to its end.
CUT_TOKENS = 300


def _relabel(label: str, value: str) -> Callable[[str, Reply], str]:
    info = re.compile(rf'^(vllm:cache_config_info\{{.*\b{label}=")[^"]*', re.MULTILINE)
    return lambda text, _: info.sub(rf"\g<1>{value}", text)


def _cut_long(ask: Json) -> Json:
    limit = ask.get("max_tokens")
    return {**ask, "max_tokens": CUT_TOKENS} if isinstance(limit, int) and limit > CUT_TOKENS else ask


FAULTS = (
    Fault(
        name="blocks-unknown",
        case="ms.cache.size",
        breaks="the number of KV blocks is None",
        reply=page(_relabel("num_gpu_blocks", "None")),
    ),
    Fault(
        name="capacity-wrong",
        case="ms.cache.capacity",
        breaks="the cache is said to hold other tokens than its blocks do",
        reply=page(_relabel("kv_cache_size_tokens", "999")),
    ),
    Fault(
        name="kv-halved",
        case="ms.cache.tokens-held",
        breaks="a small KV usage shows as the half of it",
        reply=value(KV, lambda was, _: was / 2 if was < 0.5 else was),
    ),
    Fault(
        name="kv-never-full",
        case="ms.cache.full",
        breaks="KV usage stops at 0.85",
        reply=value(KV, lambda was, _: min(was, 0.85)),
    ),
    Fault(
        name="long-answers-cut",
        case="ms.cache.nothing-lost",
        breaks=f"an answer of more than {CUT_TOKENS} tokens ends there",
        ask=_cut_long,
    ),
    Fault(
        name="preemptions-uncounted",
        case="ms.cache.preemptions",
        breaks="nobody is ever preempted, says the counter",
        reply=value("vllm:num_preemptions_total", lambda _was, _: 0.0),
    ),
)
