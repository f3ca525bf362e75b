"""Filters and screeners of third parties, whose positions are looked at before they are believed.

Of a list that names somebody twice, or -1, a fleet would be made without a murmur: one endpoint in it twice, and chosen twice
as often. Ours are tested not to do so, so that only what a third party adds pays for the look: microseconds for a thousand.
"""

from collections.abc import Sequence
from typing import Any

from shunter.picker.core.fleet import Fleet
from shunter.picker.core.judgement import Refusal
from shunter.picker.core.request import Request

__all__ = ["believed"]

OURS = "shunter.picker."


class Doubted:
    """The plugin at work, asked through somebody who looks."""

    def __init__(self, plugin: Any) -> None:
        self._plugin = plugin

    def keep(self, request: Request, fleet: Fleet) -> Sequence[int]:
        """Return the positions that stay; raise ValueError if these cannot."""
        return _look(self._plugin.keep(request, fleet), fleet)

    def screen(self, request: Request, fleet: Fleet) -> Sequence[int] | Refusal:
        """Return the positions that stay, or a refusal; raise as ``keep``."""
        kept = self._plugin.screen(request, fleet)
        return kept if isinstance(kept, Refusal) else _look(kept, fleet)


def believed(plugin: Any) -> Any:
    """Return a filter or screener whose positions are positions, each once: itself, if it is ours."""
    return plugin if type(plugin).__module__.startswith(OURS) else Doubted(plugin)


def _look(kept: Sequence[int], fleet: Fleet) -> Sequence[int]:
    count = len(fleet.endpoints)
    if kept and not (0 <= min(kept) <= max(kept) < count and len(set(kept)) == len(kept)):
        raise ValueError(f"kept the positions {list(kept)[:10]} of {count} candidates")
    return kept
