"""Outlier ejection: endpoints that are Ready and fail are left out for a while, and come back little by little."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Annotated, TypeAlias

import msgspec
from msgspec import Meta

from shunter.picker.core.fleet import Fleet
from shunter.picker.core.judgement import Outcome
from shunter.picker.core.kinds import Header, Setting, Verdict
from shunter.picker.core.ledger import Key
from shunter.picker.core.request import Request
from shunter.picker.core.tenants import Tenants
from shunter.picker.plugins.catalogue import Kind, Plugin, register
from shunter.picker.plugins.durations import duration_ns
from shunter.snapshot import Endpoint

__all__ = ["Ejection", "OutlierEjection"]

Fraction = Annotated[float, Meta(gt=0, le=1)]
Positive = Annotated[int, Meta(ge=1)]

# Outcomes that the running share of failures remembers.
REMEMBERED = 8

# An endpoint that fails again and again is left out for longer each time, up to this many times baseEjectionTime.
LONGEST = 30

# Requests in flight whose outcome is waited for; the oldest are given up.
MOST_OPEN = 16_384

Ejected: TypeAlias = tuple[int, int, int, int]  # slot, incarnation, until (monotonic ns), for the how many-th time
_decoder = msgspec.msgpack.Decoder(Ejected)


@register("outlier-ejection-filter", Kind.FILTER)
class OutlierEjection(Plugin, frozen=True):
    """Leaves out who fails: more than failureThreshold of the last outcomes, of at least minRequests.

    A failure is a status of 500 and above, or an answer by another endpoint than the one chosen. Who is left out stays so for
    baseEjectionTime times the number of ejections in a row, up to 30; then it gets a growing share of its requests, all of them
    after returnTime. Never more than maxEjectionPercent of the candidates are left out: if more fail, the fault is elsewhere,
    and all stay. Workers tell each other. What happened is told by the response in profile full and by the record elsewhere.
    """

    failure_threshold: Fraction = 0.5
    min_requests: Positive = 5
    base_ejection_time: str = "10s"
    return_time: str = "30s"
    max_ejection_percent: Annotated[int, Meta(ge=0, le=100)] = 50

    def __post_init__(self) -> None:
        """Refuse what is not a duration."""
        duration_ns(self.base_ejection_time)
        duration_ns(self.return_time)

    def start(self, setting: Setting) -> "Ejection":
        """Begin to watch."""
        return Ejection(self, setting)


class Conduct(msgspec.Struct):
    """How an endpoint behaved."""

    seen: int = 0
    failing: float = 0.0  # share of the last outcomes
    until_ns: int = 0  # left out until then; 0: never was
    times: int = 0  # in a row


class Ejection:
    """The filter at work."""

    def __init__(self, parameters: OutlierEjection, setting: Setting) -> None:
        self._parameters = parameters
        self._base_ns, self._return_ns = duration_ns(parameters.base_ejection_time), duration_ns(parameters.return_time)
        self._setting = setting
        self._conduct = Tenants[Conduct]()
        self._open: OrderedDict[int, Endpoint] = OrderedDict()
        self._all_back_ns = 0  # from when on nobody is left out or on the way back

    def keep(self, request: Request, fleet: Fleet) -> Sequence[int]:
        """Return the positions that stay."""
        everybody, now_ns = range(len(fleet.endpoints)), request.at_ns
        if now_ns >= self._all_back_ns:
            return everybody
        left = [at for at in everybody if not self._leaves_out(fleet.key(at), now_ns)]
        most = len(fleet) * self._parameters.max_ejection_percent // 100
        return left if left and len(fleet) - len(left) <= most else everybody

    def picked(self, request: Request, verdict: Verdict) -> tuple[Sequence[Header], Sequence[Header]]:
        """Remember who is to answer."""
        chosen = verdict.decision.candidates[verdict.decision.chosen[0]]
        self._open[request.ticket] = chosen
        if len(self._open) > MOST_OPEN:
            self._open.popitem(last=False)
        return (), ()

    def observe(self, ticket: int, outcome: Outcome, now_s: float) -> None:
        """Take notice of how a request went; without a status nothing is known of it."""
        if outcome.status is None or ticket not in self._open:
            return
        chosen = self._open.pop(ticket)
        elsewhere = bool(outcome.served and outcome.served != chosen.authority)
        if not outcome.status and not elsewhere:  # the client left before there was an answer: it might have come
            return
        key, now_ns = (chosen.slot, chosen.incarnation), int(now_s * 1e9)
        conduct = self._conduct.get(key)
        if conduct is None:
            conduct = Conduct()
            self._conduct.put(key, conduct)
        if now_ns < conduct.until_ns:  # it was sent before, and tells nothing that is not known
            return
        failed = elsewhere or outcome.status >= 500
        conduct.seen += 1
        conduct.failing += (failed - conduct.failing) / min(conduct.seen, REMEMBERED)
        if conduct.seen >= self._parameters.min_requests and conduct.failing > self._parameters.failure_threshold:
            well_since_ns = now_ns - conduct.until_ns - self._return_ns
            times = 1 if well_since_ns > 0 else min(conduct.times + 1, LONGEST)
            until_ns = now_ns + times * self._base_ns
            self._eject(key, until_ns, times)
            self._setting.tell(msgspec.msgpack.encode((*key, until_ns, times)))

    def hear(self, data: bytes) -> None:
        """Leave out whom another worker leaves out."""
        slot, incarnation, until_ns, times = _decoder.decode(data)
        self._eject((slot, incarnation), until_ns, times)

    def _eject(self, key: Key, until_ns: int, times: int) -> None:
        self._conduct.put(key, Conduct(until_ns=until_ns, times=times))
        self._all_back_ns = max(self._all_back_ns, until_ns + self._return_ns)

    def _leaves_out(self, key: Key, now_ns: int) -> bool:
        conduct = self._conduct.get(key)
        back_ns = now_ns - conduct.until_ns if conduct is not None else self._return_ns
        return back_ns < 0 or (back_ns < self._return_ns and self._setting.dice.random() * self._return_ns >= back_ns)
