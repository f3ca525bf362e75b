"""Where requests wait: the gate, what stands before it, and what the lobbies of other workers tell each other.

Nothing here waits in the sense of a program: a request is put down, and ``turn``, called every few milliseconds while somebody
waits, says whose time has come.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import msgspec

from shunter.picker.core.decisions import LONGEST_NAME
from shunter.picker.core.eviction import Evictor
from shunter.picker.core.fleet import Fleet
from shunter.picker.core.flow import FlowSettings, Waiter
from shunter.picker.core.gate import CLAIM_S, DESERTED, EXPIRED, FULL, NOBODY, Claim, Gate, Room
from shunter.picker.core.judgement import Ask, Parked, Refusal
from shunter.picker.core.queue_counters import QueueCounters
from shunter.picker.core.request import Request

__all__ = ["TURN_S", "Lobby"]

# How often somebody has to ask whose turn it is while anybody waits: what a request waits too long at most, when capacity
# became free in a way that nobody told (another worker's release, a scrape).
TURN_S = 0.005

# Of one turn: a choice costs tens of microseconds, a refusal less, and the event loop has others to serve.
MOST_PER_TURN = 32
MOST_REFUSED_PER_TURN = 128

RENEW_S = CLAIM_S / 3

# What the reference calls what becomes of a request.
OUTCOMES: dict[Refusal | None, str] = {
    None: "Dispatched",
    FULL: "RejectedCapacity",
    NOBODY: "RejectedNoEndpoints",
    EXPIRED: "EvictedTTL",
    DESERTED: "EvictedNoEndpoints",
}

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Claim).decode


class Lobby:
    """One worker's. ``saturation`` reads the pool's off a fleet at a time in ns; ``tell`` reaches the other lobbies.

    ``complain`` hears of policies that raise. All is counted in ``counters``.
    """

    def __init__(
        self,
        settings: FlowSettings,
        saturation: Callable[[Fleet, int], float],
        life: int,
        tell: Callable[[bytes], None],
        complain: Callable[[Exception], None],
        counters: QueueCounters,
    ) -> None:
        """Begin with nobody waiting."""
        self.gate = Gate(settings)
        self.evictor = Evictor() if settings.eviction else None
        self._complain = complain
        self._counters = counters
        self._counted: dict[int, tuple[int, int]] = {}  # priority → requests and bytes that the counters know of
        self._saturation = saturation
        self._life = life
        self._tell = tell
        self._claimed_s = 0.0  # when the others were told last

    def __len__(self) -> int:
        """How many wait."""
        return len(self.gate)

    def admit(self, ask: Ask, request: Request, answer_tokens: int, fleet: Fleet, now_s: float) -> Parked | Refusal | None:
        """Let a request go on (None), wait or go. Its answer is expected to have as many tokens."""
        settings = self.gate.settings
        waiter = Waiter(
            ticket=request.ticket,
            priority=request.priority,
            flow=request.fairness_id[:LONGEST_NAME],
            size_bytes=len(ask.body),
            tokens=request.prompt_tokens + 2 * answer_tokens,
            arrived_s=now_s,
            deadline_s=now_s + settings.ttl_s(settings.band(request.priority), empty=False),
            ttft_slo_ms=request.slo_ttft_ms,
            content=(ask, request),
        )
        try:
            verdict = self.gate.admit(waiter, self.room(fleet, now_s))
        except Exception as error:  # noqa: BLE001  a policy is foreign code, and the request must go somewhere
            self._complain(error)
            verdict = None
        if not isinstance(verdict, Parked):
            self._counters.end(waiter.priority, OUTCOMES[verdict], 0.0)
        self._announce(now_s)
        return verdict

    def turn(self, look: Callable[[], Fleet], now_s: float) -> Iterator[tuple[Waiter, Refusal | None]]:
        """Yield whose time has come: who has waited in vain, and who goes on, to be booked before the next one is asked for.

        ``look`` returns the fleet as it is at that moment.
        """
        gate = self.gate
        for waiter, refusal in islice(gate.expire(self.room(look(), now_s), now_s), MOST_REFUSED_PER_TURN):
            self._counters.end(waiter.priority, OUTCOMES[refusal], now_s - waiter.arrived_s)
            yield waiter, refusal
            waiter.content = None  # it may stand in its line for a while
        for _ in range(MOST_PER_TURN):
            waiter = self._take(look(), now_s)
            if waiter is None:
                break
            self._counters.end(waiter.priority, OUTCOMES[None], now_s - waiter.arrived_s)
            yield waiter, None
        self._tidy(now_s)

    def ended(self, ticket: int, now_s: float) -> None:
        """Take notice that a request is over."""
        if self.evictor is not None:
            self.evictor.end(ticket, now_s)

    def evict(self, now_s: float) -> Sequence[int]:
        """Return the tickets of requests in flight that have to make room for who still waits after a turn."""
        if self.evictor is None or self.gate.blocked is None:
            return ()
        return self.evictor.choose(self.gate.blocked, now_s)

    def leave(self, ticket: int, now_s: float, *, refused: bool = False) -> Waiter | None:
        """Strike a request out whose client is gone, or that was ``refused``, and return it; None if it did not wait."""
        waiter = self.gate.leave(ticket)
        if waiter is not None:
            outcome = "EvictedOther" if refused else "EvictedContextCancelled"
            self._counters.end(waiter.priority, outcome, now_s - waiter.arrived_s)
        self._tidy(now_s)
        return waiter

    def hear(self, data: bytes) -> None:
        """Take notice of what another lobby tells; what cannot be read is from another release of the picker."""
        try:
            self.gate.hear(_decode(data))
        except msgspec.MsgspecError:
            return

    def room(self, fleet: Fleet, now_s: float) -> Room:
        """See how it looks behind the gate, and take it down."""
        empty = not len(fleet)
        saturation = 1.0 if empty else max(0.0, self._saturation(fleet, int(now_s * 1e9)))  # in this order NaN is 0
        self._counters.read(saturation)
        return Room(saturation, empty)

    def _take(self, fleet: Fleet, now_s: float) -> Waiter | None:
        try:
            return self.gate.take(self.room(fleet, now_s), now_s)
        except Exception as error:  # noqa: BLE001  as above; who waits is told so when its time is over
            self._complain(error)
            return None

    def _tidy(self, now_s: float) -> None:
        """Do what follows when some have left."""
        try:
            self.gate.prune()
        except Exception as error:  # noqa: BLE001  as above; those who are gone stay in their line for now
            self._complain(error)
        self._announce(now_s)

    def _announce(self, now_s: float) -> None:
        """Tell the others what waits here, when that has changed and before they cease to believe it."""
        if self.gate.changed or (len(self.gate) and now_s - self._claimed_s >= RENEW_S):
            self._claimed_s = now_s
            self._count()
            self._tell(_encode(self.gate.claim(self._life, now_s)))

    def _count(self) -> None:
        """Tell the counters what has changed; they are those of other pools' lobbies too."""
        gate = self.gate
        for priority in gate.bands.keys() | self._counted.keys():  # a band may have gone since
            band, before = gate.bands.get(priority), self._counted.get(priority, (0, 0))
            now = (band.requests, band.size_bytes) if band is not None else (0, 0)
            if now != before:
                self._counted[priority] = now
                self._counters.wait(priority, now[0] - before[0], now[1] - before[1], gate.settings.band(priority))
