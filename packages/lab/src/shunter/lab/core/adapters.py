"""LoRA adapters of one engine: how many running sequences use each, and which have a slot in memory."""

from collections import OrderedDict
from collections.abc import Iterable

__all__ = ["Adapters"]


class Adapters:
    """Slots are as many as may be in use at once; one that is not in use keeps its adapter until another one needs it."""

    def __init__(self, slots: int, load_s: float) -> None:
        self._slots = slots
        self._load_s = load_s
        self._using: dict[str, int] = {}
        self._loaded: OrderedDict[str, None] = OrderedDict()

    def names(self, waiting: Iterable[str | None]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Those in use, and those among the ones that sequences wait for; in order, each once."""
        return tuple(sorted(self._using)), tuple(sorted({adapter for adapter in waiting if adapter is not None}))

    def bars(self, adapter: str | None) -> bool:
        """True if a sequence with this adapter would use one too many."""
        return adapter is not None and len(self._using) >= self._slots and adapter not in self._using

    def join(self, adapter: str) -> float:
        """Use it for one sequence more; returns the seconds that it takes to have it in a slot."""
        self._using[adapter] = self._using.get(adapter, 0) + 1
        if adapter in self._loaded:
            self._loaded.move_to_end(adapter)
            return 0.0
        if len(self._loaded) >= self._slots:
            del self._loaded[next(other for other in self._loaded if other not in self._using)]
        self._loaded[adapter] = None
        return self._load_s

    def leave(self, adapter: str) -> None:
        """Use it for one sequence less."""
        self._using[adapter] -= 1
        if not self._using[adapter]:
            del self._using[adapter]
