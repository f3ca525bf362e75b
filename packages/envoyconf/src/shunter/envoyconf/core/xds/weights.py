"""How much of the traffic each endpoint is to get without a picker, from its queue, its KV cache and its speed.

A weight is a step on a ladder, and each step is a third or so above the last. An endpoint leaves its step only when what it
deserves has been clearly nearer to another for a while, and moves one step at a time: consistent hashing sends a share of the
sessions elsewhere with every change, where their prefixes are not cached, and gains nothing by following noise.

What is deserved is relative to the pool: when all wait alike, nobody's weight moves. What is unknown counts as usual.
"""

from collections.abc import Hashable, Mapping
from statistics import median

import msgspec

__all__ = ["LADDER", "USUAL_WEIGHT", "Reading", "Weights"]

# The usual endpoint's weight is in the middle. The best gets four times as much, the worst a quarter: an engine whose queue
# is long empties it in seconds, and one that got nothing would never be known to have recovered.
LADDER = (4, 5, 7, 9, 12, 16, 21, 28, 37, 49, 64)
USUAL_WEIGHT = 16
USUAL = LADDER.index(USUAL_WEIGHT)

# Between changes of one endpoint. Engines' gauges are read up to 20 times a second, and requests last for seconds.
HOLD_S = 1.0

# Averages forget within this time. Queues of a second are what a picker would avoid and weights cannot.
MEMORY_S = 2.0

# Above this share of its KV cache in use an engine is about to preempt requests.
FULL = 0.9
NEARLY_FULL = 0.7

# More than any engine's queue beside its batch: what a broken gauge says is no more than this, and never no number.
LONGEST_QUEUE = 1e6

# How much more than a step it must be: at less, a value in the middle between two steps would go to and fro.
RELUCTANCE = 1.25

STEP = (LADDER[-1] / LADDER[0]) ** (1 / (len(LADDER) - 1))


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an endpoint now; None: nothing."""

    waiting: float | None = None  # requests
    running: float | None = None  # requests
    kv_usage: float | None = None  # 0 to 1
    speed: float | None = None  # tokens per second, or any measure of which more is better


class Memory(msgspec.Struct):
    """One endpoint."""

    deserved: float  # 1: as much as the usual one
    step: int
    updated_s: float
    moved_s: float


class Weights:
    """The weights of one pool's endpoints."""

    def __init__(self) -> None:
        self._known: dict[Hashable, Memory] = {}

    def update(self, readings: Mapping[Hashable, Reading], now_s: float) -> dict[Hashable, int]:
        """Return a weight for each endpoint. A new one begins where the usual one is; one that is not named is forgotten."""
        deserved = _relative(readings)
        known: dict[Hashable, Memory] = {}
        for key, value in deserved.items():
            memory = self._known.get(key) or Memory(1.0, USUAL, now_s, now_s)
            part = min((now_s - memory.updated_s) / MEMORY_S, 1.0)
            memory.deserved += (value - memory.deserved) * part
            memory.updated_s = now_s
            if now_s - memory.moved_s >= HOLD_S and (direction := _direction(memory)):
                memory.step += direction
                memory.moved_s = now_s
            known[key] = memory
        self._known = known
        return {key: LADDER[memory.step] for key, memory in known.items()}


def _relative(readings: Mapping[Hashable, Reading]) -> dict[Hashable, float]:
    """Return what each endpoint deserves, beside the usual one."""
    speeds = [each.speed for each in readings.values() if each.speed]
    speed = median(speeds) if speeds else 1.0
    ease = {key: _ease(each) for key, each in readings.items()}
    usual = median([value for value in ease.values() if value is not None] or [1.0])
    return {
        key: (1.0 if (own := ease[key]) is None else own / usual) * ((each.speed or speed) / speed)
        for key, each in readings.items()
    }


def _ease(reading: Reading) -> float | None:
    """Return how easily an endpoint takes one more request, from 0 (not at all) to 1; None if nothing is known of it."""
    if reading.waiting is None and reading.kv_usage is None:
        return None
    # A queue as long as the batch halves it: a request waits as long as it would take.
    queue = min(LONGEST_QUEUE, (reading.waiting or 0.0) / (1.0 + (reading.running or 0.0)))
    crowd = min(max((reading.kv_usage or 0.0) - NEARLY_FULL, 0.0) / (FULL - NEARLY_FULL), 1.0)
    return (1.0 - 0.75 * crowd) / (1.0 + queue)


def _direction(memory: Memory) -> int:
    """Return whether to go up or down, if what is deserved is far enough from the step."""
    ratio = memory.deserved * LADDER[USUAL] / LADDER[memory.step]
    margin = STEP**0.5 * RELUCTANCE
    if ratio > margin and memory.step < len(LADDER) - 1:
        return 1
    if ratio < 1 / margin and memory.step > 0:
        return -1
    return 0
