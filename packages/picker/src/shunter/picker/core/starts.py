"""How late endpoints begin to answer, learnt from requests that meet no queue and have next to nothing to compute.

The first token of such a request comes after a step or two, whatever the prompt; rates (``core.speeds``) say nothing of that
time. An endpoint behind a bad link, or with a sick host, can need a second for it, and would keep all whose beginnings it has
cached: they find nothing to compute there, so they seem to wait for nothing.

Kept is the median of an endpoint's last few: three in a row make it late, or well again, and one that had bad luck does not.
It is late if that is a multiple of what the quickest of its fellows needs. Of whom nothing is known nothing bad is assumed, or
those who are all late would keep what they have. Who is late gets less, so less is learnt of it: now and then one request is
let through as if it were not.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable
from statistics import median

import msgspec

from shunter.picker.core.judgement import Outcome
from shunter.picker.core.ledger import Key
from shunter.picker.core.tenants import Tenants

__all__ = ["PARDON_NS", "REMEMBERED", "Starts"]

REMEMBERED = 5

# How many times what the quickest needs is late, and what is never: a step takes from 10 to 100 ms, the more the larger the
# batch is, and a request comes when one has just begun.
LATE = 3.0
LATE_S = 0.3

# After so long who is late is tried again.
PARDON_NS = 30_000_000_000

# Requests whose outcome is waited for; the oldest are given up.
MOST_OPEN = 4096


class Start(msgspec.Struct):
    """One endpoint."""

    lasts_s: deque[float]
    usual_s: float = 0.0  # 0 until it is known
    tried_ns: int = 0  # when a request that teaches was sent there last


class Starts:
    """What is known of all endpoints."""

    def __init__(self) -> None:
        """Know nothing."""
        self._starts = Tenants[Start]()
        self._open: OrderedDict[int, Key] = OrderedDict()
        self.slow: set[int] = set()
        """Slots whose endpoint is late if others are not; without any nobody is."""

    def began(self, ticket: int, key: Key, now_ns: int) -> None:
        """Note where a request is sent that teaches: it meets no queue and has next to nothing to compute."""
        start = self._starts.get(key)
        if start is not None:
            start.tried_ns = now_ns
        self._open[ticket] = key
        if len(self._open) > MOST_OPEN:
            self._open.popitem(last=False)

    def observe(self, ticket: int, outcome: Outcome) -> None:
        """Learn from how a request went, once its time is told."""
        first_s = outcome.first_token_s
        if first_s is None or not first_s > 0.0:
            return
        key = self._open.pop(ticket, None)
        if key is None or not outcome.complete:
            return
        start = self._starts.get(key)
        if start is None:
            start = Start(deque(maxlen=REMEMBERED))
            self._starts.put(key, start)
        start.lasts_s.append(first_s)
        if len(start.lasts_s) == REMEMBERED:
            start.usual_s = median(start.lasts_s)
            if start.usual_s > LATE_S:
                self.slow.add(key[0])
            else:
                self.slow.discard(key[0])

    def late_ns(self, keys: Iterable[Key], now_ns: int) -> dict[int, float]:
        """Return by slot who of these is late, and by how much; not who may be tried again."""
        if not self.slow:
            return {}
        starts = [(key[0], self._starts.get(key)) for key in keys]
        least_s = min([start.usual_s if start else 0.0 for _, start in starts], default=0.0)
        return {
            slot: (start.usual_s - least_s) * 1e9
            for slot, start in starts
            if start and start.usual_s > max(LATE_S, LATE * least_s) and now_ns - start.tried_ns < PARDON_NS
        }
