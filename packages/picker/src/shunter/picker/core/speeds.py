"""How fast endpoints are, learnt from what the requests that went there were seen to take.

Two numbers are kept of the fleet, and of each endpoint how many times as much its own are:

* the rate at which it gets through prompts, in tokens per second: of every request the tokens that waited before its first
  token (its own and those ahead of it, caches considered), divided by the time that took;
* the time an answer takes after its first token, as it would be for one alone: the time seen, divided by how much those beside
  it slowed it (``crowding``).

Both follow quantiles, by a step up for each observation above and a step down for each below: a request that had to wait for
memory may take a thousand times what is usual and still counts once. The rate is a little above the median, since whatever
else an engine does makes it look slower than it is. An endpoint of which nothing is known is taken for an average one.

Multiples are kept since most of what changes is common to all: what the fleet is taken for at first, the length of answers, a
burst. A number of its own would be one of the moment when the endpoint was seen last, and equals that are seldom seen, because
they have nearly all prompts cached, would differ by that alone.
"""

import math
from collections import OrderedDict

import msgspec

from shunter.picker.core.judgement import Outcome
from shunter.picker.core.ledger import PREFILL_PER_S, Key
from shunter.picker.core.tenants import Tenants

__all__ = ["FEWEST_TOKENS", "REQUEST_SHARE", "TOKEN_SHARE", "Pace", "Quantile", "Speeds", "crowding"]

# By what share of the time of a step one more request in a decoding batch slows it, and one more token of context. Reading
# the keys and values of 1,000 tokens takes from 0.2 % (70 thousand million parameters on four cards) to 1.6 % (eight on a
# small one) of what reading the weights takes.
REQUEST_SHARE = 0.018
TOKEN_SHARE = 0.0000075

RATE_QUANTILE = 0.6
ANSWER_S = 4.0  # before anything is known: some hundred tokens

# Steps of a logarithm. Small enough in the end to be steady, large enough to follow an engine that has become three times as
# slow within some dozen requests; larger at first, less so for an endpoint, since what the fleet does is a good guess.
FLEET_STEP, ENDPOINT_STEP, LAST_STEP = 0.5, 0.1, 0.04
STEP_FALLS = 0.97

# Endpoints of one kind are found to differ by so much, and it is noise: the one that seems the fastest would get all requests
# of an idle fleet. Nor is an endpoint ever taken to be slower or faster than the fleet by more than the second.
NOISE = 1.2
FARTHEST = 8.0

# Less says more about the time of a step and of the network (``core.starts``) than about the rate.
FEWEST_TOKENS = 256

# Requests whose outcome is waited for; the oldest are given up. A worker has fewer in flight at once, and where no outcome is
# ever told (lean without a collector) they must not cost much: this is 4 MB.
MOST_OPEN = 16_384


class Quantile:
    """A quantile of positive numbers that come one by one, and slowly change."""

    __slots__ = ("_log", "_p", "_step", "value")

    def __init__(self, value: float, p: float, step: float) -> None:
        """Begin at ``value``, with a step of the logarithm that falls to LAST_STEP."""
        self.value = value
        self._log = math.log(value)
        self._p = p
        self._step = step

    @property
    def settled(self) -> bool:
        """Whether enough was observed for the value to say nothing any more of where it began."""
        return self._step <= LAST_STEP

    def add(self, value: float) -> None:
        """Take an observation."""
        self._log += self._step * (self._p if value > self.value else self._p - 1.0)
        self._step = max(LAST_STEP, self._step * STEP_FALLS)
        self.value = math.exp(self._log)


class Pace(msgspec.Struct):
    """One endpoint: how many times the fleet's its own are."""

    prefill_per_s: Quantile
    answer_s: Quantile


class Open(msgspec.Struct, gc=False):
    """A request on its way."""

    key: Key
    waiting_tokens: float  # at the choice, its own included
    crowding: float


class Speeds:
    """What is known of all endpoints."""

    def __init__(self) -> None:
        """Know nothing."""
        self.fleet = _pace(PREFILL_PER_S, ANSWER_S, FLEET_STEP)
        self._paces = Tenants[Pace]()
        self._last: Key | None = None  # who was observed last
        self._open: OrderedDict[int, Open] = OrderedDict()

    def prefill_per_s(self, key: Key) -> float:
        """Tokens of prompts that the endpoint gets through in a second."""
        own = self._paces.get(key)
        return self.fleet.prefill_per_s.value * (_times(own.prefill_per_s) if own else 1.0)

    def answer_s(self, key: Key) -> float:
        """What an answer of usual length takes after its first token when nobody else is there."""
        own = self._paces.get(key)
        return self.fleet.answer_s.value * (_times(own.answer_s) if own else 1.0)

    def pace(self, key: Key) -> tuple[float, float]:
        """Return both, in ns for a token and in ns: of all endpoints of a fleet they are asked at once."""
        own = self._paces.get(key)
        token_ns, answer_ns = 1e9 / self.fleet.prefill_per_s.value, 1e9 * self.fleet.answer_s.value
        if own is None:
            return token_ns, answer_ns
        return token_ns / _times(own.prefill_per_s), answer_ns * _times(own.answer_s)

    def began(self, ticket: int, key: Key, waiting_tokens: float, crowd: float) -> None:
        """Note what a request meets where it is sent, itself included; ``crowd`` is their ``crowding``."""
        self._open[ticket] = Open(key, waiting_tokens, crowd)
        if len(self._open) > MOST_OPEN:
            self._open.popitem(last=False)

    def observe(self, ticket: int, outcome: Outcome) -> Key | None:
        """Learn from how a request went, once its times are told; return whose speed is known better now."""
        first_s, duration_s = outcome.first_token_s, outcome.duration_s
        if first_s is None or duration_s is None or not first_s > 0.0:
            return None
        was = self._open.pop(ticket, None)
        if was is None or not outcome.complete:
            return None
        pace = self._paces.get(was.key)
        if pace is None:
            pace = _pace(1.0, 1.0, ENDPOINT_STEP)
            self._paces.put(was.key, pace)
        again = was.key == self._last and len(self._paces) > 1
        self._last = was.key
        if was.waiting_tokens >= FEWEST_TOKENS:
            _learn(was.waiting_tokens / first_s, pace.prefill_per_s, self.fleet.prefill_per_s, again=again)
        if duration_s > first_s:
            _learn((duration_s - first_s) / was.crowding, pace.answer_s, self.fleet.answer_s, again=again)
        return was.key


def crowding(requests: float, tokens: float) -> float:
    """Return how many times as long a step takes with so many requests in flight, whose prompts have so many tokens."""
    return 1.0 + REQUEST_SHARE * requests + TOKEN_SHARE * tokens


def _learn(value: float, times: Quantile, fleet: Quantile, *, again: bool) -> None:
    """Take an observation, which may be of the same one of several ``again``."""
    # Nobody speaks for a fleet that is known twice in a row: who gets everything and becomes slow is compared with what the
    # others did before.
    if not (again and fleet.settled):
        fleet.add(value)
    times.add(value / fleet.value)


def _times(own: Quantile) -> float:
    """Return how many times the fleet's is to be believed: as far as the difference is no noise, and likely."""
    # In this order, since nearly always it is noise.
    if (less := own.value / NOISE) > 1.0:
        return min(less, FARTHEST)
    if (more := own.value * NOISE) < 1.0:
        return max(more, 1.0 / FARTHEST)
    return 1.0


def _pace(prefill_per_s: float, answer_s: float, step: float) -> Pace:
    return Pace(Quantile(prefill_per_s, RATE_QUANTILE, step), Quantile(answer_s, 0.5, step))
