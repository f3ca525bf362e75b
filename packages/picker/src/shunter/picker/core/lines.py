"""The lines in which a band's requests wait: one for all, or one for each flow, by turns, by service or by depth.

Whoever leaves before its turn is marked as gone and passed over later, which costs nothing when it leaves; ``prune`` is for
whoever sees that most of a line is gone.
"""

import math
from collections import deque
from heapq import heapify, heappop, heappush, nlargest
from itertools import islice

from shunter.picker.core.flow import Waiter
from shunter.picker.core.request import DEFAULT_FLOW

__all__ = ["MOST_COMPARED", "MOST_FLOWS", "AttainedService", "DeepestSession", "SingleLine", "Turns"]

# Flows whose service is remembered: clients choose their names, so there may be one for each request. Of more than these the
# half that got least is forgotten, which is what is nearest to having got nothing.
MOST_FLOWS = 10_000

# Flows that are compared to find whose turn it is, which takes half a microsecond each: those whose last turn is longest ago.
MOST_COMPARED = 128


class Heap:
    """Requests by their order; equals by who came first."""

    def __init__(self) -> None:
        self._entries: list[tuple[float, int, Waiter]] = []
        self._arrivals = 0

    def add(self, waiter: Waiter) -> None:
        """Take one more."""
        self._arrivals += 1
        heappush(self._entries, (waiter.order, self._arrivals, waiter))

    def head(self) -> Waiter | None:
        """Return the first that is not gone; drop those before it."""
        entries = self._entries
        while entries:
            waiter = entries[0][2]
            if not waiter.gone:
                return waiter
            heappop(entries)
        return None

    def take(self) -> Waiter | None:
        """Remove and return the first."""
        waiter = self.head()
        if waiter is not None:
            heappop(self._entries)
        return waiter

    def prune(self) -> None:
        """Drop those that are gone."""
        self._entries = [entry for entry in self._entries if not entry[2].gone]
        heapify(self._entries)


class SingleLine:
    """All flows in one line."""

    def __init__(self) -> None:
        self._heap = Heap()

    def add(self, waiter: Waiter) -> None:
        """Take one more."""
        self._heap.add(waiter)

    def take(self, now_s: float) -> Waiter | None:
        """Remove and return whose turn it is."""
        del now_s
        return self._heap.take()

    def charge(self, flow: str, tokens: float, now_s: float) -> None:
        """What a flow got does not matter."""

    def prune(self) -> None:
        """Drop those that are gone."""
        self._heap.prune()


class Turns:
    """One request of each flow that waits, then the next round. A flow is forgotten with its last request."""

    def __init__(self) -> None:
        self._heaps: dict[str, Heap] = {}
        self._round: deque[str] = deque()  # the flows in _heaps

    def add(self, waiter: Waiter) -> None:
        """Take one more; a new flow is last in the round."""
        heap = self._heaps.get(waiter.flow)
        if heap is None:
            heap = self._heaps[waiter.flow] = Heap()
            self._round.append(waiter.flow)
        heap.add(waiter)

    def take(self, now_s: float) -> Waiter | None:
        """Remove and return whose turn it is; then it is the next flow's."""
        del now_s
        while self._round:
            waiter = self._heaps[self._round[0]].take()
            if waiter is not None:
                self._round.rotate(-1)
                return waiter
            del self._heaps[self._round.popleft()]
        return None

    def charge(self, flow: str, tokens: float, now_s: float) -> None:
        """What a flow got does not matter."""

    def prune(self) -> None:
        """Drop those that are gone."""
        for heap in self._heaps.values():
            heap.prune()
        self._round = deque(flow for flow in self._round if self._heaps[flow].head() is not None)
        self._heaps = {flow: self._heaps[flow] for flow in self._round}


class Flows:
    """A line of its own for each flow that waits."""

    def __init__(self) -> None:
        self._heaps: dict[str, Heap] = {}

    def add(self, waiter: Waiter) -> None:
        """Take one more."""
        heap = self._heaps.get(waiter.flow)
        if heap is None:
            heap = self._heaps[waiter.flow] = Heap()
        heap.add(waiter)

    def prune(self) -> None:
        """Drop those that are gone."""
        for heap in self._heaps.values():
            heap.prune()
        self._heaps = {flow: heap for flow, heap in self._heaps.items() if heap.head() is not None}

    def heads(self) -> list[Waiter]:
        """Return the first of each flow, of MOST_COMPARED at most."""
        found: list[Waiter] = []
        while self._heaps and not found:
            for flow, heap in [*islice(self._heaps.items(), MOST_COMPARED)]:
                head = heap.head()
                if head is None:
                    del self._heaps[flow]
                else:
                    found.append(head)
        return found

    def take_of(self, flow: str) -> Waiter | None:
        """Remove and return the first of a flow."""
        heap = self._heaps.pop(flow)
        self._heaps[flow] = heap  # behind those who have not had a turn since
        return heap.take()


class Service:
    """What one flow got; it fades."""

    __slots__ = ("at_s", "tokens")

    def __init__(self, at_s: float) -> None:
        self.tokens = 0.0  # as of at_s
        self.at_s = at_s


class AttainedService(Flows):
    """The flow that got the least lately goes first, waiting considered; see ``program-aware-fairness``."""

    def __init__(
        self,
        *,
        service_weight: float,
        wait_weight: float,
        half_life_s: float,
        forget_after_s: float,
        sweep_s: float,
    ) -> None:
        super().__init__()
        self._service_weight = service_weight
        self._wait_weight = wait_weight
        self._decay_per_s = math.log(2) / half_life_s if half_life_s else 0.0
        self._forget_after_s = forget_after_s
        self._sweep_s = sweep_s
        self._swept_s = -math.inf
        self._services: dict[str, Service] = {}

    def take(self, now_s: float) -> Waiter | None:
        """Remove and return whose turn it is."""
        heads = self.heads()
        if not heads:
            return None
        got = [self._attained(head.flow, now_s) for head in heads]
        waited = [now_s - head.arrived_s for head in heads]
        per_token = self._service_weight / max(*got, 1.0)
        per_s = self._wait_weight / max(*waited, 1e-9)
        scores = [per_s * wait_s - per_token * tokens for wait_s, tokens in zip(waited, got, strict=True)]
        return self.take_of(heads[scores.index(max(scores))].flow)

    def charge(self, flow: str, tokens: float, now_s: float) -> None:
        """Count tokens that a flow got."""
        if now_s - self._swept_s >= self._sweep_s:
            self._swept_s = now_s
            old_s = now_s - self._forget_after_s
            self._services = {name: each for name, each in self._services.items() if each.at_s >= old_s}
        service = self._services.get(flow)
        if service is None:
            service = self._services[flow] = Service(now_s)
        service.tokens = self._attained(flow, now_s) + tokens
        service.at_s = now_s
        if len(self._services) > MOST_FLOWS:
            most = nlargest(MOST_FLOWS // 2, self._services, key=lambda name: self._attained(name, now_s))
            self._services = {name: self._services[name] for name in most}

    def _attained(self, flow: str, now_s: float) -> float:
        service = self._services.get(flow)
        return 0.0 if service is None else service.tokens * math.exp((service.at_s - now_s) * self._decay_per_s)


class Session:
    """How deep one flow is."""

    __slots__ = ("at_s", "turns")

    def __init__(self) -> None:
        self.turns = 0  # requests that went on
        self.at_s = -math.inf  # when the last one did


class DeepestSession(Flows):
    """The flow that has had most turns goes first, waiting considered; see ``program-aware-fairness``."""

    def __init__(self, *, wait_weight: float, idle_s: float, forget_after_s: float, sweep_s: float) -> None:
        super().__init__()
        self._wait_weight = wait_weight
        self._idle_s = idle_s or math.inf
        self._forget_after_s = forget_after_s
        self._sweep_s = sweep_s
        self._swept_s = -math.inf
        self._sessions: dict[str, Session] = {}

    def take(self, now_s: float) -> Waiter | None:
        """Remove and return whose turn it is."""
        heads = self.heads()
        if not heads:
            return None
        scores = [(self._depth(head) + self._wait_weight * (now_s - head.arrived_s), now_s - head.arrived_s) for head in heads]
        return self.take_of(heads[scores.index(max(scores))].flow)

    def charge(self, flow: str, tokens: float, now_s: float) -> None:
        """Count a turn."""
        del tokens
        if now_s - self._swept_s >= self._sweep_s:
            self._swept_s = now_s
            old_s = now_s - self._forget_after_s
            self._sessions = {name: each for name, each in self._sessions.items() if each.at_s >= old_s}
        session = self._sessions.setdefault(flow, Session())
        session.turns += 1
        session.at_s = now_s
        if len(self._sessions) > MOST_FLOWS:
            latest = nlargest(MOST_FLOWS // 2, self._sessions, key=lambda name: self._sessions[name].at_s)
            self._sessions = {name: self._sessions[name] for name in latest}

    def _depth(self, head: Waiter) -> int:
        """Which turn of its session a request is; the first one after a pause, and where a flow is no session."""
        session = self._sessions.get(head.flow)
        if session is None or head.flow == DEFAULT_FLOW or head.arrived_s - session.at_s > self._idle_s:
            return 1
        return session.turns + 1
