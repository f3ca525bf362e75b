"""How long to wait before an endpoint is asked again.

Fresh numbers are worth most while they move; asking costs the server (vLLM renders a page in 3.4 ms on the thread
that also serves requests). So an endpoint with work is asked every ``min_s`` and an idle one less and less often,
down to every ``max_s``: at the default of one second that is 0.34 % of such a server. A server that answers slowly is
starved, and asking more would starve it further. A server that fails is asked at doubling intervals, also up to
``max_s``: dead ones are noticed to be alive again within about a second.

Each endpoint is asked by one loop that waits for the answer first, hence never twice at a time. Jitter keeps the
loops apart.
"""

from msgspec import Struct

from shunter.snapshot import Health, LoadRow

__all__ = ["Cadence"]

# An endpoint that falls idle goes from 50 ms to 1 s in five scrapes, within 1.6 seconds.
STRETCH = 2.0
# We wait this many times as long as the last scrape took, so a starved server spends at most a fifth of its time on us.
SLOWNESS = 4.0
# Intervals vary by this part up and down: enough to drift apart within a few scrapes.
JITTER = 0.1


class Cadence(Struct, frozen=True):
    """The bounds within which intervals adapt. ``dice`` is a number from 0 to 1."""

    min_s: float = 0.05
    max_s: float = 1.0

    def first_s(self, dice: float) -> float:
        """Return the wait before the first scrape: endpoints that appear together are spread over one interval."""
        return self.min_s * dice

    def next_s(self, last_s: float, before: LoadRow, after: LoadRow, took_s: float) -> float:
        """Return the interval after a scrape that turned ``before`` into ``after``; ``last_s`` is the one before it."""
        busy = after.health is Health.FRESH and (after.waiting or after.running or _values(before) != _values(after))
        interval_s = self.min_s if busy else last_s * STRETCH
        return min(self.max_s, max(self.min_s, SLOWNESS * took_s, interval_s))

    def jittered(self, interval_s: float, dice: float) -> float:
        """Return the wait that makes this interval, a little early or late."""
        return interval_s * (1 - JITTER + 2 * JITTER * dice)


def _values(row: LoadRow) -> tuple[float | None, ...]:
    return row.waiting, row.running, row.kv_usage
