"""A route that is divided among pools becomes several, one for each pool, that part requests by their ID.

Gateways turn a picker on for a route; when a request is divided after that, by the weights of a route's backends, it is asked
of all their pickers or of the wrong one. Envoy gives each request an ID before it looks for its route, and the ID begins with
random hexadecimal digits: a pattern for them is a weight that any gateway with an Envoy in it understands.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise

import msgspec

from shunter.envoyconf.core.intent import Intent, Route, Share

__all__ = ["EVERY_ID", "REQUEST_ID", "Part", "divided", "id_patterns", "parts"]

REQUEST_ID = "x-request-id"
EVERY_ID = ".*"

# A weight is kept to a 4096th. A UUID of version 4 has 8 random digits at its beginning.
DIGITS = 3
STEPS = 16**DIGITS
HEX = "0123456789abcdef"


class Part(msgspec.Struct, frozen=True):
    """What of a route becomes a route of its own: for these pools, the requests with such an ID; all if there is no pattern."""

    shares: tuple[Share, ...]
    suffix: str = ""  # of its name
    pattern: str | None = None


def divided(intent: Intent, route: Route) -> bool:
    """Whether a route has to be parted: it has several pools and their pickers are asked."""
    return intent.profile_of(route).asks and sum(share.weight > 0 for share in route.shares) > 1


def parts(intent: Intent, index: int) -> tuple[Part, ...]:
    """Return the parts of the intent's route with that index, only one unless its pickers must be kept apart.

    To Gateway API a route for a model and a part of a route for all models are as specific as each other, one header each;
    so where there are both, the former gets a pattern too, which every ID fits.
    """
    route = intent.effective_routes[index]
    shares = tuple(share for share in route.shares if share.weight)
    if divided(intent, route):
        patterns = id_patterns([share.weight for share in shares])
        return tuple(Part((share,), f"-{share.name}", pattern) for share, pattern in zip(shares, patterns, strict=True))
    beside_a_part = route.by_model and any(divided(intent, each) and not each.by_model for each in intent.effective_routes)
    return (Part(shares, pattern=EVERY_ID if beside_a_part else None),)


def id_patterns(weights: Sequence[int]) -> list[str]:
    """Return a regular expression for each weight: together they fit every ID, and each as many as its weight says.

    What does not begin as a UUID is for the last.
    """
    sums, count = list(accumulate(weights)), len(weights)
    ends = [round(STEPS * each / sums[-1]) for each in sums]
    if len({0, *ends}) <= count:  # one would get nothing: give each a step first
        ends = [place + round((STEPS - count) * each / sums[-1]) for place, each in enumerate(sums, 1)]
    patterns = ["|".join(_prefixes(start, end)) for start, end in pairwise([0, *ends])]
    foreign = f"|.{{0,{DIGITS - 1}}}[^{HEX}]).*|.{{0,{DIGITS - 1}}}"
    return [f"(?:{pattern}).*" for pattern in patterns[:-1]] + [f"(?:{patterns[-1]}{foreign}"]


def _prefixes(start: int, end: int) -> Iterator[str]:
    """Yield patterns of the beginnings of three-digit numbers from start to before end, which are not all there are."""
    while start < end:
        # The widest step that begins here and does not pass the end, and as many more of it as differ in the last digit only.
        power = next(each for each in reversed(range(DIGITS)) if start % 16**each == 0 and start + 16**each <= end)
        first = start >> 4 * power
        last = min((end >> 4 * power) - 1, first | 15)
        head, digits = f"{first:0{DIGITS - power}x}"[:-1], HEX[first % 16 : last % 16 + 1]
        yield head + (f"[{digits}]" if len(digits) > 1 else digits)
        start = (last + 1) << 4 * power
