"""Parameters as GIE and llm-d read them: former names, spellings that they take for others, values that they take for none.

What they refuse is a mistake here, too. A value that is none is left out, so that the default counts.
"""

from collections.abc import Callable, Mapping
from math import log
from typing import Any, cast

import msgspec

from shunter.picker.config.document import PluginSpec
from shunter.picker.config.separation import SEPARATED

__all__ = ["FORMER", "respell"]

# Parameters that were dropped since, or are somebody else's here, by type, and why they are not missed.
DROPPED = {
    "active-request-scorer": {"requestTimeout": "a request counts until it ends"},
    "metrics-data-source": {"interval": "the scraper asks the busy more often than the idle (--interval-min-ms, -max-ms)"},
    "models-data-source": {"interval": "the scraper's --models-interval counts"},
    "pd-profile-handler": {"hashBlockSize": "prompts are cut once, as the producer of prefix matches says"},
}

# A program's service was forgotten by the pick, by this part of it, where today a minute is the default.
FAIRNESS, DECAY, HALF_LIFE = "program-aware-fairness", "lasDecayFactor", "lasHalfLifeSeconds"
USUAL_DECAY, USUAL_HALF_LIFE_S = 0.99997, 60.0

# Until llm-d had a second strategy, session affinity had nothing but the header of its tokens to say.
SESSIONS = ("session-affinity-filter", "session-affinity-scorer")
HEADER, TOKENS = "headerName", "encodedEndpointHeaderConfig"

RENAMED = {**dict.fromkeys(SESSIONS, (HEADER,)), FAIRNESS: (DECAY,)}

# The order of stages may be spelt in any case, with any of these between the words, and by the first word alone.
HANDLER, ORDER = "disagg-profile-handler", "stageOrder"
STAGE_ORDERS = {"decode": "decode-first", "prefill": "prefill-first"}

FORMER = {
    type_name: (*SEPARATED.get(type_name, ()), *DROPPED.get(type_name, ()), *RENAMED.get(type_name, ()))
    for type_name in (*SEPARATED, *DROPPED, *RENAMED)
}
"""Parameters that plugins had in former releases, by type."""

PRODUCER, BLOCK = "approx-prefix-cache-producer", "blockSizeTokens"


def _below(least: float) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int | float) and value < least


def _no_share(value: object) -> bool:
    return isinstance(value, int | float) and not 0 <= value <= 1


def _empty(value: object) -> bool:
    return value in ("", [])


def _zero(value: object) -> bool:
    return value == 0 and not isinstance(value, bool)


_SESSION = {
    "encodedEndpointHeaderConfig.header": _empty,
    "sessionIdConfig.sources": _empty,
    "sessionIdConfig.evictionTtlSeconds": _zero,
    "sessionIdConfig.evictionSweepSeconds": _zero,
}
# By type and parameter: which values are none.
UNSET: Mapping[str, Mapping[str, Callable[[Any], bool]]] = {
    "active-request-scorer": {"idleThreshold": _below(0), "maxBusyScore": _no_share},
    "disagg-profile-handler": dict.fromkeys((ORDER, "profiles.decode", "profiles.prefill", "profiles.encode"), _empty),
    "burst-prefix-cache-producer": {"balanceBy": _empty},
    "header-profile-handler": {"headerName": _empty, "defaultProfile": _empty},
    "load-aware-scorer": {"threshold": _below(1)},
    "mm-embeddings-cache-producer": {"cacheSizeInMBPerServer": _below(1)},
    "no-hit-lru-scorer": {"lruSize": _below(1)},
    "token-load-scorer": {"queueThresholdTokens": _below(1)},
    "topology-affinity-filter": {"minAffinity": _empty},
    PRODUCER: {BLOCK: _below(1), "lruCapacityPerServer": _below(1)},
    **dict.fromkeys(SESSIONS, _SESSION),
    **{each: {"maxNumOfEndpoints": _below(1)} for each in ("max-score-picker", "random-picker", "weighted-random-picker")},
}


def respell(spec: PluginSpec) -> tuple[PluginSpec, list[str]]:
    """Return a plugin in today's words, and what was said otherwise: each note begins with the place below the parameters."""
    parameters = dict(spec.parameters or {})
    notes: list[str] = []
    for dropped, reason in DROPPED.get(spec.type, {}).items():
        if dropped in parameters:
            del parameters[dropped]
            notes.append(f"{dropped}: ignored; {reason}; remove it")
    for path, is_none in UNSET.get(spec.type, {}).items():
        if path == BLOCK and parameters.get("autoTune") is False:
            continue  # the reference refuses it then
        *above, last = path.split(".")
        at: Any = parameters
        for key in above:
            at = cast("dict[str, Any]", at).get(key) if isinstance(at, dict) else None
        if isinstance(at, dict) and last in at and is_none(at[last]):
            notes.append(f"{path}: {at[last]!r} counts as not given; remove it")
            parameters = _without(parameters, above, last)
    if spec.type == HANDLER and (order := _stage_order(parameters.get(ORDER))):
        notes.append(f"{ORDER}: {parameters[ORDER]!r} is {order}; write that")
        parameters[ORDER] = order
    elif spec.type in SESSIONS and HEADER in parameters:
        notes.append(f"{HEADER}: deprecated; it is {TOKENS}.header")
        header = parameters.pop(HEADER)
        if header and TOKENS not in parameters:
            parameters[TOKENS] = {"header": header}
    elif spec.type == FAIRNESS and (half_life_s := _half_life_s(parameters)) is not None:
        notes.append(f"{DECAY}: deprecated; it is {HALF_LIFE} {half_life_s:g}")
        del parameters[DECAY]
        parameters[HALF_LIFE] = half_life_s
    return (msgspec.structs.replace(spec, parameters=parameters), notes) if notes else (spec, notes)


def _without(parameters: Mapping[str, Any], above: list[str], last: str) -> dict[str, Any]:
    """Return parameters without the one of that name below the path ``above``."""
    if not above:
        return {key: value for key, value in parameters.items() if key != last}
    first, *rest = above
    return {**parameters, first: _without(parameters[first], rest, last)}


def _stage_order(given: object) -> str:
    """Return how an order of stages that is spelt otherwise is spelt; "" for any other."""
    if not isinstance(given, str) or given in STAGE_ORDERS.values():
        return ""
    return STAGE_ORDERS.get(given.lower().replace("-", "").replace("_", "").removesuffix("first"), "")


def _half_life_s(parameters: Mapping[str, Any]) -> float | None:
    """Return the half-life that a decay factor is; one that is given outweighs it, as ever. None: nothing to do."""
    factor, given = parameters.get(DECAY), parameters.get(HALF_LIFE, 0.0)
    if not isinstance(factor, int | float) or not 0 < factor <= 1 or not isinstance(given, int | float):
        return None
    return given or (USUAL_HALF_LIFE_S * log(USUAL_DECAY) / log(factor) if factor < 1 else 0.0)
