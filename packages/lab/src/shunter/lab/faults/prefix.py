"""Prefix: prompts that are cached for nobody, for everybody, or in vain."""

from uuid import uuid4

from shunter.lab.faults.seams import COMPLETED, Fault, Json, answer, value

__all__ = ["FAULTS"]

HITS = "vllm:prefix_cache_hits_total"


def _salt_each(ask: Json) -> Json:
    return {**ask, "cache_salt": uuid4().hex}


def _ignore_salt(ask: Json) -> Json:
    return {name: value for name, value in ask.items() if name != "cache_salt"}


def _cache_more(body: Json) -> None:
    if details := body["usage"]["prompt_tokens_details"]:
        details["cached_tokens"] += 16


FAULTS = (
    Fault(name="prefix-never-hits", case="ms.prefix.hits", breaks="no prompt is found in the cache", ask=_salt_each),
    Fault(
        name="prefix-hits-doubled",
        case="ms.prefix.hits",
        breaks="each hit in the prefix cache counts twice",
        reply=value(HITS, lambda was, _: 2 * was),
    ),
    Fault(
        name="prefix-hits-partial-blocks",
        case="ms.prefix.hits",
        breaks="hits in the prefix cache are counted for blocks that are not full, too",
        reply=value(HITS, lambda was, _: was + was // 64),
    ),
    Fault(
        name="cached-tokens-wrong",
        case="ms.prefix.cached-tokens",
        breaks="an answer tells one block more than was cached",
        reply=answer(_cache_more, COMPLETED),
    ),
    Fault(
        name="salt-ignored", case="ms.prefix.salt", breaks="prompts with any cache_salt share what is cached", ask=_ignore_salt
    ),
    Fault(
        name="prefix-shared-by-adapters",
        case="ms.prefix.adapter",
        breaks="an adapter goes on from what the base model has cached",
        hits="shared",
    ),
    Fault(
        name="prefix-in-vain",
        case="ms.prefix.faster",
        breaks="what is cached is counted, and computed all the same",
        hits="late",
    ),
)
