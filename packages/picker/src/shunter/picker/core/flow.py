"""What flow control is made of: its settings, one waiting request, and the protocols of the policies that order them.

A *flow* is what one fairness id sends at one priority; a *band* is all flows of one priority. The band's fairness policy says
whose turn it is, its ordering policy which request of that flow goes first. Whether anybody goes at all is for the saturation
of the pool and the usage limit policy, which gives each priority a ceiling.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import msgspec

__all__ = [
    "BAND_BYTES", "BAND_REQUESTS", "REQUEST_TTL_S", "BandSettings", "FairnessPolicy", "FlowSettings", "Line", "OrderingPolicy",
    "UsageLimitPolicy", "Waiter",
]  # fmt: skip

# Of one band, as the reference has it: a band always has bounds.
BAND_BYTES = 1_000_000_000
BAND_REQUESTS = 5_000

# How long a request waits for capacity, as the reference has it: longer than a burst, shorter than most clients' patience.
REQUEST_TTL_S = 60.0


class Waiter(msgspec.Struct, gc=False, eq=False):
    """One request that waits."""

    ticket: int
    priority: int
    flow: str  # its fairness id
    size_bytes: int  # of its body
    tokens: int  # what it will cost: those of its prompt, and twice those expected of its answer
    arrived_s: float  # monotonic
    deadline_s: float  # until when it may wait while the pool has endpoints; infinity: for ever
    ttft_slo_ms: float | None = None  # what the client asks for: x-llm-d-slo-ttft-ms
    order: float = 0.0  # what the ordering policy made of it: the least goes first
    gone: bool = False  # it waits no longer, though it may still stand in its line
    content: object = None  # whatever its owner wants back


class Line(Protocol):
    """The requests of one band, in the order that a fairness policy gives them. Whoever is ``gone`` is passed over."""

    def add(self, waiter: Waiter) -> None:
        """Take one more; ``waiter.order`` is set."""
        ...

    def take(self, now_s: float) -> Waiter | None:
        """Remove and return whose turn it is."""
        ...

    def charge(self, flow: str, tokens: float, now_s: float) -> None:
        """Take notice of the tokens of a request that goes on, whether it had to wait or not."""
        ...

    def prune(self) -> None:
        """Drop those that are gone."""
        ...


class FairnessPolicy(Protocol):
    """Says whose turn it is among the flows of a band."""

    def line(self) -> Line:
        """Return an empty line for one band."""
        ...


class OrderingPolicy(Protocol):
    """Says in which order the requests of a flow go."""

    def order(self, waiter: Waiter) -> float:
        """Return where the request stands: the least goes first, of equals the one that came first."""
        ...


class UsageLimitPolicy(Protocol):
    """Says up to which saturation each priority may still send."""

    def ceilings(self, priorities: Sequence[int], saturation: float, tick: int) -> Sequence[float]:
        """Return one ceiling for each of the priorities, which are descending; ``tick`` counts the times this was asked."""
        ...


class BandSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One priority's bounds and policies."""

    fairness: FairnessPolicy
    ordering: OrderingPolicy
    max_bytes: int = BAND_BYTES
    max_requests: int = BAND_REQUESTS
    request_ttl_s: float | None = None  # while the pool has endpoints; 0: for ever; None: as all others


class FlowSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What ``flowControl`` of a configuration comes down to; a bound of 0 is none.

    ``default`` is for priorities that ``bands`` does not list, ``negative`` for those below zero among them (None: as
    ``default``).
    """

    default: BandSettings
    limits: UsageLimitPolicy
    negative: BandSettings | None = None
    bands: dict[int, BandSettings] = {}  # by priority
    max_bytes: int = 0  # of all bands together
    max_requests: int = 0
    request_ttl_s: float = REQUEST_TTL_S  # while the pool has endpoints; 0: for ever
    no_endpoint_ttl_s: float | None = None  # while it has none; None: as request_ttl_s
    eviction: bool = False  # may requests in flight of negative priority be evicted for others that wait?

    def ttl_s(self, band: BandSettings, *, empty: bool) -> float:
        """Return how long a request of a band may wait, by whether the pool is ``empty``; infinity: for ever."""
        ttl_s = self.request_ttl_s if band.request_ttl_s is None else band.request_ttl_s
        if empty and self.no_endpoint_ttl_s is not None:
            ttl_s = self.no_endpoint_ttl_s
        return ttl_s or math.inf

    def longest_of(self, band: BandSettings) -> float:
        """Return the longest that a request of a band is kept waiting; infinity: for ever."""
        return max(self.ttl_s(band, empty=False), self.ttl_s(band, empty=True))

    @property
    def longest_s(self) -> float:
        """Return the longest that any request is kept waiting; infinity: for ever."""
        return max(map(self.longest_of, (self.default, self.negative or self.default, *self.bands.values())))

    def band(self, priority: int) -> BandSettings:
        """Return the settings of a priority."""
        listed = self.bands.get(priority)
        if listed is not None:
            return listed
        return self.negative if priority < 0 and self.negative is not None else self.default
