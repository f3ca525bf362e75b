"""When a worker looks for what only refers to itself: Python's own look at everything keeps all requests waiting meanwhile.

Python looks as soon as what is new and lasts is a quarter of all, and each open stream costs such a look 6 µs: at 2,000
requests a second of half a minute each that was a third of a second, every few seconds, and at 180,000 streams so long that the
supervisor took the worker for dead. A stream that ends leaves nothing that only refers to itself (3,000 exchanges left no
object), so there is little to find and no hurry: the young are looked at as ever, everything only here.
"""

import gc
from collections.abc import Callable

__all__ = ["Garbage", "look_at_the_young_only"]

# A look at so many streams is over within 25 ms.
FEW_STREAMS = 4_000
OFTEN_S = 60.0

# While there are more it is put off, but not for good: whatever a plugin leaves behind is bounded by so much time.
SELDOM_S = 600.0

# For ``gc.set_threshold``: never by itself.
NEVER = 1 << 30


class Garbage:
    """What there may be of it. ``collect`` looks at everything."""

    def __init__(self, now_s: float, collect: Callable[[], object] = gc.collect) -> None:
        """Have just looked."""
        self._looked_s = now_s
        self._collect = collect

    def look(self, now_s: float, streams: int) -> None:
        """Look at everything if it is time, with so many streams open."""
        if now_s - self._looked_s >= (OFTEN_S if streams <= FEW_STREAMS else SELDOM_S):
            self._looked_s = now_s
            self._collect()


def look_at_the_young_only() -> None:
    """Keep Python from looking at everything by itself, in this process."""
    young, middle, _ = gc.get_threshold()
    gc.set_threshold(young, middle, NEVER)
