"""How fast each endpoint is, learnt from what requests that went there were seen to take.

Two lines are fitted for the whole fleet, and for each endpoint by how much it is slower or faster than they say::

    time to first token  =  a + b · (tokens of prompts that wait there, its own among them, caches considered)
    time per token       =  c + d · (requests in flight there)

1/b is the rate at which an engine gets through prompts when it has nothing to wait for, d/c says how much a decoding batch
minds one more. An endpoint of which little is known is taken for an average one; one that is slow, be it by its hardware or
because it is ill, becomes expensive within a dozen requests and cheap again as quickly.

The fit is least squares over observations that fade. Whatever is far off what was expected counts as not quite as far: a
request that had to wait for memory says little of the speed of arithmetic.
"""

import math
from collections import OrderedDict

import msgspec

from shunter.picker.core.judgement import Outcome
from shunter.picker.core.ledger import PREFILL_PER_S, Key

__all__ = ["Line", "Speeds"]

# How many observations a line remembers, and how many an endpoint's own factor does: a fleet changes with its deployment, an
# endpoint may fall ill at any time.
LINE_REMEMBERS = 256
FACTOR_REMEMBERS = 16

# Beyond so many times what was expected, or below, an observation counts as this.
SURPRISE = 4.0
# An endpoint is never taken to be slower or faster than the fleet by more.
FARTHEST = 16.0

# What is taken for true before anything was seen: the worth of so many observations.
PRIOR = 4.0
FIRST_TOKEN_S = 0.05
TOKEN_S = 0.02
TOKEN_PER_REQUEST_S = 0.0002
TYPICAL_TOKENS = 4_000.0
TYPICAL_REQUESTS = 32.0

# Requests in flight whose outcome is waited for; the oldest are given up. More than any worker has at once.
MOST_OPEN = 65_536

# An answer of fewer tokens says nothing of the time per token.
FEWEST_TOKENS = 8


class Line:
    """y = a + b · x with a and b not negative, over observations that fade."""

    __slots__ = ("_fade", "n", "x", "xx", "xy", "y")

    def __init__(self, a: float, b: float, typical_x: float, remembers: float = LINE_REMEMBERS) -> None:
        """Take a, b for true at 0 and at twice ``typical_x``, as if each had been seen PRIOR / 2 times."""
        self._fade = 1.0 - 1.0 / remembers
        weight, far = PRIOR / 2, 2 * typical_x
        self.n = 2 * weight
        self.x = weight * far
        self.y = weight * (2 * a + b * far)
        self.xx = weight * far * far
        self.xy = weight * far * (a + b * far)

    def add(self, x: float, y: float) -> None:
        """Take an observation."""
        fade = self._fade
        self.n = self.n * fade + 1.0
        self.x = self.x * fade + x
        self.y = self.y * fade + y
        self.xx = self.xx * fade + x * x
        self.xy = self.xy * fade + x * y

    def fit(self) -> tuple[float, float]:
        """Return a and b."""
        n, mean_x, mean_y = self.n, self.x / self.n, self.y / self.n
        spread = self.xx / n - mean_x * mean_x
        b = max(0.0, (self.xy / n - mean_x * mean_y) / spread) if spread > 1e-9 * (1.0 + mean_x * mean_x) else 0.0
        a = mean_y - b * mean_x
        if a < 0.0:  # through the origin then
            return 0.0, self.xy / self.xx if self.xx > 0 else 0.0
        return a, b


class Pace(msgspec.Struct):
    """One endpoint, as a factor on what the lines say: above 1 it is slower."""

    first: float = 1.0
    token: float = 1.0
    seen: int = 0


class Open(msgspec.Struct, gc=False):
    """A request on its way: what was expected of it."""

    key: Key
    waiting_tokens: float  # at the choice, its own included
    in_flight: float  # likewise
    decode_tokens: int  # expected


class Speeds:
    """What is known of all endpoints."""

    def __init__(self) -> None:
        """Know nothing but the priors."""
        self._first = Line(FIRST_TOKEN_S, 1.0 / PREFILL_PER_S, TYPICAL_TOKENS)
        self._token = Line(TOKEN_S, TOKEN_PER_REQUEST_S, TYPICAL_REQUESTS)
        self._paces: dict[Key, Pace] = {}
        self._open: OrderedDict[int, Open] = OrderedDict()
        self.first_s, self.prefill_token_s = self._first.fit()
        """Time to first token: what every request takes, and each token of prompt."""
        self.token_s, self.request_s = self._token.fit()
        """Time per token of an answer: for one alone, and what each further request adds."""

    def pace(self, key: Key) -> Pace:
        """Return an endpoint's factors."""
        return self._paces.get(key) or AVERAGE

    def prefill_per_s(self, key: Key) -> float:
        """Tokens of prompt that the endpoint gets through."""
        return 1.0 / max(self.prefill_token_s * self.pace(key).first, 1e-9)

    def began(self, ticket: int, key: Key, waiting_tokens: float, in_flight: float, decode_tokens: int) -> None:
        """Note what a request met where it was sent."""
        self._open[ticket] = Open(key, waiting_tokens, in_flight, decode_tokens)
        if len(self._open) > MOST_OPEN:
            self._open.popitem(last=False)

    def observe(self, ticket: int, outcome: Outcome) -> Key | None:
        """Learn from how a request went, once its time to first token is told; return where that was."""
        if outcome.first_token_s is None:
            return None
        was = self._open.pop(ticket, None)
        if was is None or not outcome.complete or outcome.first_token_s <= 0.0:
            return None
        pace = self._paces.setdefault(was.key, Pace())
        pace.seen += 1
        expected_s = self.first_s + self.prefill_token_s * was.waiting_tokens
        pace.first = _follow(self._first, was.waiting_tokens, outcome.first_token_s, expected_s, pace.first)
        self.first_s, self.prefill_token_s = self._first.fit()
        tokens = (outcome.completion_tokens or was.decode_tokens) - 1
        if outcome.duration_s is not None and tokens >= FEWEST_TOKENS:
            took_s = max(0.0, outcome.duration_s - outcome.first_token_s) / tokens
            expected_s = self.token_s + self.request_s * was.in_flight
            pace.token = _follow(self._token, was.in_flight, took_s, expected_s, pace.token)
            self.token_s, self.request_s = self._token.fit()
        return was.key

    def retain(self, live: set[Key]) -> None:
        """Forget the endpoints that are gone."""
        for key in self._paces.keys() - live:
            del self._paces[key]


AVERAGE = Pace()


def _follow(line: Line, x: float, y: float, expected: float, factor: float) -> float:
    """Let the line and an endpoint's factor follow one observation; return the new factor."""
    likely = max(expected * factor, 1e-6)
    y = min(max(y, likely / SURPRISE), likely * SURPRISE)
    line.add(x, y / factor)
    step = math.log(max(y, 1e-6) / likely) / FACTOR_REMEMBERS
    return min(max(factor * math.exp(step), 1.0 / FARTHEST), FARTHEST)
