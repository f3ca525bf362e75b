"""What an engine says of itself, which may be older than what it is: engines refresh their gauges when it suits them."""

import msgspec

from shunter.lab.core.gauges import Gauges
from shunter.lab.core.tally import Tally

__all__ = ["Refresh", "Reporting"]


class Refresh(msgspec.Struct, frozen=True, kw_only=True):
    """When gauges are made anew: every so many seconds, or steps.

    With `steps` above 1 they are also new when prompts have been computed, but for their requests: these are in no gauge
    until the next time. When nothing runs any more only the counts of requests are right; the cache gauge stays what it was
    for `idle_s`.
    """

    steps: int = 1
    seconds: float = 0.0
    idle_s: float = 0.0


class Reporting:
    """The gauges of one engine as its page has them; to be asked whenever a prompt has been computed, too."""

    def __init__(self, refresh: Refresh) -> None:
        self._refresh = refresh
        self._said: Gauges | None = None
        self._mark = 0, 0
        self._at_s = self._busy_s = 0.0

    def report(self, truth: Gauges, tally: Tally, now_s: float) -> Gauges:
        """Return what the page says now."""
        refresh, said = self._refresh, self._said
        if said is None or (refresh.steps == 1 and now_s - self._at_s >= refresh.seconds):
            return self._say(truth, now_s)
        if refresh.steps == 1:
            return said
        if truth.running:
            self._busy_s = now_s
            before = self._mark
            self._mark = tally.iteration_tokens_total.count // refresh.steps, tally.time_to_first_token_seconds.count
            if self._mark == before:
                return said
            new = self._mark[1] - before[1]
            return self._say(msgspec.structs.replace(truth, running=max(0, truth.running - new)), now_s)
        idle = now_s - self._busy_s >= refresh.idle_s
        return self._say(truth if idle else msgspec.structs.replace(truth, kv_usage=said.kv_usage), now_s)

    def _say(self, gauges: Gauges, now_s: float) -> Gauges:
        self._said, self._at_s = gauges, now_s
        return gauges
