"""Long prompts where there is room for them: endpoints say in a label for how many tokens they are meant."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated

from msgspec import Meta

from shunter.picker.core.fleet import Fleet
from shunter.picker.core.request import Request
from shunter.picker.plugins.catalogue import Kind, Plugin, register

__all__ = ["ContextLength"]

LABEL = "llm-d.ai/context-length-range"
RANGE = re.compile(r"(\d{1,12})-(\d{1,12})", re.ASCII)


@register("context-length-aware", Kind.SCORER, Kind.FILTER)
class ContextLength(Plugin, frozen=True):
    """A range that fits the prompt, and narrowly, is better; as a filter, with enableFiltering, the others are dropped.

    The label says ``min-max``, in tokens. Without it an endpoint has 0.5 and is kept; with a bad one it has 0 and is dropped.
    In range: 0.3 + 0.7 · (0.7 / (1 + width / 10000) + 0.3 · (max - tokens) / width), 1 where the width is 0. Else
    0.3 / (1 + distance / 1000). Source: llm-d's plugin of that name.
    """

    label: Annotated[str, Meta(min_length=1)] = LABEL
    enable_filtering: bool = False

    def score(self, request: Request, fleet: Fleet) -> Sequence[float]:
        """Score all candidates."""
        tokens = request.prompt_tokens
        return [_fit(endpoint.labels.get(self.label), tokens) for endpoint in fleet.endpoints]

    def keep(self, request: Request, fleet: Fleet) -> Sequence[int]:
        """Return the positions that stay."""
        if not self.enable_filtering:
            return range(len(fleet))
        tokens, label = request.prompt_tokens, self.label
        return [at for at, endpoint in enumerate(fleet.endpoints) if _holds(endpoint.labels.get(label), tokens)]


@lru_cache(4096)
def _read(text: str) -> tuple[int, int] | None:
    """Return the range that a label says; None if it says none."""
    found = RANGE.fullmatch(text.replace(" ", ""))
    if found is None:
        return None
    low, high = map(int, found.groups())
    return (low, high) if low <= high else None


def _holds(text: str | None, tokens: int) -> bool:
    span = _read(text) if text is not None else (tokens, tokens)
    return span is not None and span[0] <= tokens <= span[1]


def _fit(text: str | None, tokens: int) -> float:
    if text is None:
        return 0.5
    span = _read(text)
    if span is None:
        return 0.0
    low, high = span
    width = high - low
    if low <= tokens <= high:
        return 0.3 + 0.7 * (0.7 / (1 + width / 10_000) + 0.3 * (high - tokens) / width) if width else 1.0
    return 0.3 / (1 + max(low - tokens, tokens - high) / 1000)
