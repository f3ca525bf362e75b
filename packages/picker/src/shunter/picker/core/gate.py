"""The gate before the scheduler: who may go on now, who waits for room, who waits in vain, who is turned away.

Nobody waits while the pool is less saturated than the ceiling of the request's priority and nobody of the same priority or a
higher one waits already. All others take their place in the line of their band, if the bounds allow it (of all bodies, of all
requests, of the band's bodies, of the band's requests, asked in this order), and ``take`` lets one after the other go on: the
highest band first, and none of a lower band while one of a higher waits (strict head of line, as the reference).

While the pool has no endpoints all wait, for as long as that is allowed: a pool that was scaled to zero finds its first
requests still there. When the pool becomes empty, or is so no longer, the time that everybody may wait begins anew, within
the longer of both. When it is so no longer, nobody goes on for ``ARRIVAL_S``: the gateway must have heard of the endpoint, too.

Workers have a gate each. What waits before the others is known from their claims, so that bounds hold for all of them together
and no lower band is served while a higher one waits elsewhere; what they cannot know is what the others did while they decided.
A claim is believed for ``CLAIM_S`` only: whoever makes it may be dead.
"""

import math
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from shunter.picker.core.flow import BandSettings, FlowSettings, Waiter
from shunter.picker.core.judgement import DropReason, Parked, Refusal

__all__ = ["ARRIVAL_S", "CLAIM_S", "Band", "Claim", "Gate", "Room"]

# Fifty looks at what waits: a worker that is only busy renews its claim in time.
CLAIM_S = 0.25

# A gateway hears of the first endpoint on a way of its own, and answers 503 itself to who is sent there before. An Envoy with
# our configuration needs up to 0.1 s, a control plane that gathers changes before it pushes them some tenths more.
ARRIVAL_S = 1.0

# A line is freed of those that left it when they are more than this, and more than those that are left.
GONE = 64

FULL = Refusal(429, "ResourceExhausted", "the queue of this priority is full", DropReason.SATURATED)
NOBODY = Refusal(503, "ServiceUnavailable", "the pool has no endpoints, and its queue is full", DropReason.NO_ENDPOINTS)
EXPIRED = Refusal(429, "ResourceExhausted", "no capacity became free in time", DropReason.TTL_EXPIRED)
DESERTED = Refusal(503, "ServiceUnavailable", "no endpoint came up in time", DropReason.NO_ENDPOINTS)


class Room(msgspec.Struct, frozen=True):
    """How it looks behind the gate."""

    saturation: float  # of the pool; 1: full
    empty: bool = False  # it has no endpoints


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """What waits before another worker's gate."""

    life: int  # whose
    at_s: float  # monotonic
    bands: Sequence[tuple[int, int, int]] = ()  # priority, requests, bytes


class Band:
    """One priority's line and how much stands in it."""

    def __init__(self, settings: BandSettings) -> None:
        self.settings = settings
        self.line = settings.fairness.line()
        self.waiting: dict[int, Waiter] = {}  # by ticket, in the order of arrival
        self.size_bytes = 0
        self.gone = 0  # still in the line, though they have left

    @property
    def requests(self) -> int:
        """How many wait."""
        return len(self.waiting)

    def count(self, waiter: Waiter, sign: int) -> None:
        """Follow a request that came (+1) or went (-1)."""
        if sign > 0:
            self.waiting[waiter.ticket] = waiter
        else:
            del self.waiting[waiter.ticket]
        self.size_bytes += sign * waiter.size_bytes


class Gate:
    """One worker's. A ticket names a request; the clock is monotonic."""

    def __init__(self, settings: FlowSettings) -> None:
        """Begin with nobody waiting."""
        self.settings = settings
        self.changed = False
        """Has what waits changed since ``claim`` was asked?"""
        self.bands: dict[int, Band] = {}
        """By priority, descending. What the settings list is always there."""
        self.blocked: int | None = None
        """The priority of whoever ``take`` found to wait for endpoints without room; None if it was nobody."""
        self._waiting: dict[int, Waiter] = {}  # by ticket, in the order of arrival
        self._size_bytes = 0  # of these
        self._claims: dict[int, Claim] = {}  # by life
        self._tick = 0
        self._empty: bool = False
        self._turned_s = -math.inf  # when the pool became empty, or was so no longer
        self.retain(())

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def retain(self, priorities: Iterable[int]) -> None:
        """Know the priorities that there are besides those of the settings; forget others before whose line nobody waits."""
        known = {0, *self.settings.bands, *priorities, *(each for each, band in self.bands.items() if band.requests)}
        self.bands = {each: self.bands.get(each) or Band(self.settings.band(each)) for each in sorted(known, reverse=True)}

    def admit(self, waiter: Waiter, room: Room) -> Parked | Refusal | None:
        """Let the request go on (None), wait or go. It has just arrived."""
        now_s = waiter.arrived_s
        self._look(room, now_s)
        if waiter.priority not in self.bands:
            self.retain((*self.bands, waiter.priority))
        band = self.bands[waiter.priority]
        known = not room.empty and now_s >= self._turned_s + ARRIVAL_S
        if known and not self._behind(waiter.priority) and self._open(waiter.priority, room.saturation):
            band.line.charge(waiter.flow, waiter.tokens, now_s)
            return None
        if self._full(waiter, band):
            return NOBODY if room.empty else FULL
        waiter.order = band.settings.ordering.order(waiter)
        band.line.add(waiter)
        band.count(waiter, +1)
        self._waiting[waiter.ticket] = waiter
        self._size_bytes += waiter.size_bytes
        self.changed = True
        return Parked(waiter.ticket, now_s + self.settings.longest_of(band.settings))

    def take(self, room: Room, now_s: float) -> Waiter | None:
        """Return who may go on now, which is no longer waiting then; None if nobody may."""
        self.blocked = None
        self._look(room, now_s)
        priority = next((each for each, band in self.bands.items() if band.requests), None)
        if room.empty or now_s < self._turned_s + ARRIVAL_S or priority is None:
            return None
        open_ = self._open(priority, room.saturation)
        self.blocked = None if open_ else priority
        if not open_ or self._claimed() > priority:
            return None
        band = self.bands[priority]
        waiter = band.line.take(now_s)
        if waiter is not None:
            band.line.charge(waiter.flow, waiter.tokens, now_s)  # of a policy that raises here it waits until it expires
            self._strike(waiter, band)
        return waiter

    def expire(self, room: Room, now_s: float) -> Iterator[tuple[Waiter, Refusal]]:
        """Yield those who have waited too long, with what to tell them."""
        self._look(room, now_s)
        for band in self.bands.values():
            ttl_s = self.settings.ttl_s(band.settings, empty=room.empty)
            longest_s = self.settings.longest_of(band.settings)
            while band.waiting:
                waiter = next(iter(band.waiting.values()))
                until_s = min(max(waiter.arrived_s, self._turned_s) + ttl_s, waiter.arrived_s + longest_s)
                if now_s < until_s:
                    break
                self.leave(waiter.ticket)
                yield waiter, DESERTED if room.empty else EXPIRED

    def leave(self, ticket: int) -> Waiter | None:
        """Strike a request out that waits no longer, and return it; None if it did not."""
        waiter = self._waiting.get(ticket)
        if waiter is None:
            return None
        band = self.bands[waiter.priority]
        waiter.gone = True
        band.gone += 1
        self._strike(waiter, band)
        return waiter

    def prune(self) -> None:
        """Free the lines of those who have left them, when they are many."""
        for band in self.bands.values():
            if band.gone > max(GONE, band.requests):
                band.gone = 0  # also of a policy that raises here
                band.line.prune()

    def claim(self, life: int, now_s: float) -> Claim:
        """Tell what waits here, for the other workers' gates."""
        self.changed = False
        waits = [(priority, band.requests, band.size_bytes) for priority, band in self.bands.items() if band.requests]
        return Claim(life, now_s, waits)

    def hear(self, claim: Claim) -> None:
        """Take notice of what waits before another gate."""
        if claim.bands:
            self._claims[claim.life] = claim
        else:
            self._claims.pop(claim.life, None)

    def _look(self, room: Room, now_s: float) -> None:
        """Notice whether the pool has become empty, or is so no longer; and who has fallen silent."""
        if room.empty != self._empty:
            self._empty, self._turned_s = room.empty, now_s
        if self._claims:
            self._claims = {life: each for life, each in self._claims.items() if now_s < each.at_s + CLAIM_S}

    def _claimed(self) -> float:
        """The highest priority that waits before another gate."""
        return max((priority for claim in self._claims.values() for priority, _, _ in claim.bands), default=-math.inf)

    def _behind(self, priority: int) -> bool:
        """Whether somebody of this priority or a higher one waits, here or elsewhere."""
        if self._claims and self._claimed() >= priority:
            return True
        return bool(self._waiting) and any(band.requests for each, band in self.bands.items() if each >= priority)

    def _open(self, priority: int, saturation: float) -> bool:
        """Whether the pool has room for this priority."""
        self._tick += 1
        priorities = tuple(self.bands)
        return saturation < self.settings.limits.ceilings(priorities, saturation, self._tick)[priorities.index(priority)]

    def _full(self, waiter: Waiter, band: Band) -> bool:
        """Whether one more would be too much, here and elsewhere together."""
        requests, size_bytes = len(self._waiting) + 1, self._size_bytes + waiter.size_bytes
        in_band, band_bytes = band.requests + 1, band.size_bytes + waiter.size_bytes
        for claim in self._claims.values():
            for priority, count, total_bytes in claim.bands:
                requests, size_bytes = requests + count, size_bytes + total_bytes
                if priority == waiter.priority:
                    in_band, band_bytes = in_band + count, band_bytes + total_bytes
        settings = self.settings
        return (
            0 < settings.max_bytes < size_bytes
            or 0 < settings.max_requests < requests
            or band.settings.max_bytes < band_bytes
            or band.settings.max_requests < in_band
        )

    def _strike(self, waiter: Waiter, band: Band) -> None:
        del self._waiting[waiter.ticket]
        self._size_bytes -= waiter.size_bytes
        band.count(waiter, -1)
        self.changed = True
