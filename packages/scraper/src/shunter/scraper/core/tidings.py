"""What the log says of endpoints that fail and answer again: of one that flaps seldom, and of many at once how many.

The log has room for few lines of a kind (`shunter.snapshot.stderr`). One endpoint must not use it up, and what it has no room
for is summed up.
"""

from collections import Counter
from collections.abc import Collection

from shunter.snapshot import LoadRow

__all__ = ["SILENCE_NS", "Tidings", "tally"]

# After it has been said that an endpoint answers again. One that flaps has two lines in this time, however often it does.
SILENCE_NS = 10_000_000_000
# Reasons that a tally names; when hundreds fail at once it is for one or two.
REASONS = 3


class Tidings:
    """Those of one endpoint."""

    def __init__(self) -> None:
        self.failing = False
        """What was said last."""
        self._untold = 0  # times that it began to fail since then
        self._silent_until_ns = 0

    def hear(self, before: LoadRow, after: LoadRow, now_ns: int) -> str:
        """Take a scrape that turned ``before`` into ``after``; returns what is to be said now, mostly nothing."""
        if after.failures and not before.failures:
            self._untold += 1
        if bool(after.failures) is self.failing or now_ns < self._silent_until_ns:
            return ""
        self.failing = not self.failing
        often = self._untold - self.failing
        self._untold = 0
        if self.failing:
            return f"scrape failed: {after.reason}{f' (and {_times(often)} before, shortly)' if often > 0 else ''}"
        self._silent_until_ns = now_ns + SILENCE_NS
        return f"answers again after {_times(before.failures, 'failure')}" if before.failures else "answers again"


def tally(rows: Collection[LoadRow]) -> str:
    """Return how many endpoints fail, and why most of them do."""
    reasons = Counter(row.reason for row in rows if row.failures)
    if not reasons:
        return f"none of {len(rows)} endpoints fails"
    most = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common(REASONS))
    more = f", {len(reasons) - REASONS} more reasons" if len(reasons) > REASONS else ""
    return f"{reasons.total()} of {len(rows)} endpoints fail: {most}{more}"


def _times(count: int, what: str = "time") -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
