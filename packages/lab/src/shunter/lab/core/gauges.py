"""What an engine says of itself: how many requests it runs and how many wait, and how full it is."""

import msgspec

__all__ = ["Gauges"]


class Gauges(msgspec.Struct, frozen=True, gc=False):
    """The state of an engine at some instant."""

    running: int
    waiting_capacity: int
    waiting_deferred: int
    kv_usage: float
    running_adapters: tuple[str, ...]
    waiting_adapters: tuple[str, ...]

    @property
    def waiting(self) -> int:
        return self.waiting_capacity + self.waiting_deferred
