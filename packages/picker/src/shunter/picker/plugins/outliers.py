"""Outlier ejection: endpoints that are Ready and fail or hang are left out for a while, and come back little by little."""

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
from shunter.picker.core.speeds import Quantile
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

# If clients left here as they do elsewhere, a row of so many who leave before an answer would come with this probability:
# beyond it the endpoint is taken to hang. Where nobody leaves elsewhere five in a row will do, where half of them do, twenty.
CHANCE = 1e-6

# Who leaves sooner than this share of answers begin was impatient, as who types on, and tells nothing of the endpoint.
PATIENT = 0.9
BEGINS_S, BEGINS_STEP = 1.0, 0.5  # until it is known

# Requests in flight whose outcome is waited for; the oldest are given up.
MOST_OPEN = 16_384

Ejected: TypeAlias = tuple[int, int, int, int]  # slot, incarnation, until (monotonic ns), for the how many-th time
_decoder = msgspec.msgpack.Decoder(Ejected)


@register("outlier-ejection-filter", Kind.FILTER)
class OutlierEjection(Plugin, frozen=True):
    """Leaves out who fails: more than failureThreshold of the last outcomes, of at least minRequests; and who hangs.

    A failure is a status of 500 and above, or an answer by another endpoint than the one chosen. An endpoint hangs if for
    baseEjectionTime it has answered nobody, and at least minRequests clients in a row have waited long and left, far more than
    elsewhere; afterwards the next one to leave will do, until it answers. Who is left out stays so for baseEjectionTime times
    the number of ejections in a row, up to 30; then it gets a growing share of its requests, all of them after returnTime.
    Never more than maxEjectionPercent of the candidates are left out: if more fail, the fault is elsewhere, and all stay.
    Workers tell each other. What happened is told by the response in profile full and by the record elsewhere.
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
    silent: int = 0  # requests in a row that it has not answered until their clients left
    heard_ns: int = 0  # when it was heard of last: who was sent before is not of the row
    since_ns: int = 0  # when the first of the row was sent
    answered: int = 0  # everybody's when it left, and likewise below
    left: int = 0
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
        self._answered = self._left = 0  # requests of all endpoints, and those whose clients left after a long wait
        self._begins_s = Quantile(BEGINS_S, PATIENT, BEGINS_STEP)
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
        key, now_ns = (chosen.slot, chosen.incarnation), int(now_s * 1e9)
        conduct = self._conduct.get(key)
        if conduct is None:
            conduct = Conduct()
            self._conduct.put(key, conduct)
        if now_ns < conduct.until_ns:  # it was sent before, and tells nothing that is not known
            return
        if not elsewhere and _left_unanswered(outcome):
            if self._hangs(conduct, outcome, now_ns):
                self._leave_out(key, conduct, now_ns)
            return
        failed = elsewhere or outcome.status >= 500
        if outcome.complete and not failed and outcome.status < 300:  # who refuses may hang behind its door
            self._answer(conduct, outcome, now_ns)
        conduct.seen += 1
        conduct.failing += (failed - conduct.failing) / min(conduct.seen, REMEMBERED)
        if conduct.seen >= self._parameters.min_requests and conduct.failing > self._parameters.failure_threshold:
            self._leave_out(key, conduct, now_ns)

    def hear(self, data: bytes) -> None:
        """Leave out whom another worker leaves out."""
        slot, incarnation, until_ns, times = _decoder.decode(data)
        self._eject((slot, incarnation), until_ns, times)

    def _answer(self, conduct: Conduct, outcome: Outcome, now_ns: int) -> None:
        self._answered += 1
        conduct.silent, conduct.heard_ns = 0, now_ns
        begins_s = outcome.first_token_s if outcome.first_byte_s is None else outcome.first_byte_s
        if begins_s is not None and begins_s > 0:
            self._begins_s.add(begins_s)

    def _hangs(self, conduct: Conduct, outcome: Outcome, now_ns: int) -> bool:
        """Count a client who left, and tell whether it takes an endpoint that hangs for so many to have done so."""
        waited_s = outcome.duration_s
        if waited_s is None or waited_s < self._begins_s.value:
            return False
        self._left += 1
        sent_ns = now_ns - int(waited_s * 1e9)
        if sent_ns < conduct.heard_ns:
            return False
        if not conduct.silent:
            conduct.since_ns, conduct.answered, conduct.left = sent_ns, self._answered, self._left - 1
        conduct.silent += 1
        # Elsewhere, since the first of them left: where all leave at once, as of one client that ends, nothing is known yet.
        answered, left = self._answered - conduct.answered, self._left - conduct.left - conduct.silent
        return (
            now_ns - conduct.since_ns >= self._base_ns
            and answered >= conduct.silent >= self._parameters.min_requests
            and ((left + 1) / (left + answered + 2)) ** conduct.silent < CHANCE
        )

    def _leave_out(self, key: Key, conduct: Conduct, now_ns: int) -> None:
        """Do so, for longer if it was left out until a while ago, and tell the others."""
        well_since_ns = now_ns - conduct.until_ns - self._return_ns
        times = 1 if well_since_ns > 0 else min(conduct.times + 1, LONGEST)
        until_ns = now_ns + times * self._base_ns
        self._eject(key, until_ns, times)
        self._setting.tell(msgspec.msgpack.encode((*key, until_ns, times)))

    def _eject(self, key: Key, until_ns: int, times: int) -> None:
        before = self._conduct.get(key) or Conduct()  # whoever hung is left out again unless it answers
        after = msgspec.structs.replace(before, seen=0, failing=0.0, until_ns=until_ns, times=times, heard_ns=until_ns)
        self._conduct.put(key, after)
        self._all_back_ns = max(self._all_back_ns, until_ns + self._return_ns)

    def _leaves_out(self, key: Key, now_ns: int) -> bool:
        conduct = self._conduct.get(key)
        back_ns = now_ns - conduct.until_ns if conduct is not None else self._return_ns
        return back_ns < 0 or (back_ns < self._return_ns and self._setting.dice.random() * self._return_ns >= back_ns)


def _left_unanswered(outcome: Outcome) -> bool:
    """Whether the client left before a byte of an answer: it might have come. Some engines send the status first."""
    status = outcome.status or 0
    return not status or (not outcome.complete and status < 300 and outcome.sent_bytes == 0)
