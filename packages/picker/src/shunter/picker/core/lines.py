"""The lines in which a band's requests wait: one for all, one for each flow in turn, one for each by the service it got.

Whoever leaves before its turn is marked as gone and passed over later, which costs nothing when it leaves; ``prune`` is for
whoever sees that most of a line is gone.
"""

import math
from collections import deque
from heapq import heapify, heappop, heappush

from shunter.picker.core.flow import Waiter

__all__ = ["AttainedService", "SingleLine", "Turns"]


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


class Service:
    """What one flow got; it fades."""

    __slots__ = ("at_s", "tokens")

    def __init__(self, at_s: float) -> None:
        self.tokens = 0.0  # as of at_s
        self.at_s = at_s


class AttainedService:
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
        self._service_weight = service_weight
        self._wait_weight = wait_weight
        self._decay_per_s = math.log(2) / half_life_s
        self._forget_after_s = forget_after_s
        self._sweep_s = sweep_s
        self._swept_s = -math.inf
        self._heaps: dict[str, Heap] = {}
        self._services: dict[str, Service] = {}

    def add(self, waiter: Waiter) -> None:
        """Take one more."""
        heap = self._heaps.get(waiter.flow)
        if heap is None:
            heap = self._heaps[waiter.flow] = Heap()
        heap.add(waiter)

    def take(self, now_s: float) -> Waiter | None:
        """Remove and return whose turn it is."""
        heads: list[Waiter] = []
        for flow, heap in [*self._heaps.items()]:
            head = heap.head()
            if head is None:
                del self._heaps[flow]
            else:
                heads.append(head)
        if not heads:
            return None
        got = [self._attained(head.flow, now_s) for head in heads]
        waited = [now_s - head.arrived_s for head in heads]
        per_token = self._service_weight / max(*got, 1.0)
        per_s = self._wait_weight / max(*waited, 1e-9)
        scores = [per_s * wait_s - per_token * tokens for wait_s, tokens in zip(waited, got, strict=True)]
        return self._heaps[heads[scores.index(max(scores))].flow].take()

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

    def prune(self) -> None:
        """Drop those that are gone."""
        for heap in self._heaps.values():
            heap.prune()
        self._heaps = {flow: heap for flow, heap in self._heaps.items() if heap.head() is not None}

    def _attained(self, flow: str, now_s: float) -> float:
        service = self._services.get(flow)
        return 0.0 if service is None else service.tokens * math.exp((service.at_s - now_s) * self._decay_per_s)
