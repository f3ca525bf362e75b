"""The witness that keeps the account of one worker's requests, by class.

A request is counted when it is picked, when it has ended, and when somebody has *told* how it went, which may be the same
moment (the picker sees the response) or later (Envoy's record). Each of its figures is counted once, however often it is told.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import msgspec

from shunter.picker.core.account_book import AccountBook
from shunter.picker.core.decisions import Ended, Entry
from shunter.picker.core.judgement import Outcome
from shunter.picker.core.service_levels import Level, tpot_s

__all__ = ["Accounts"]

# Of which nobody has told yet a request is given up when so many others have ended: Envoy's record comes within a quarter of a
# second, which is a thousand requests of a busy worker. Where no record ever comes they must not cost much: this is a megabyte.
MOST_UNTOLD = 4096

SERVER_ERROR = "ModelServerError"  # the reference's word for a response with an error status


class _Open(msgspec.Struct, gc=False):
    row: int
    stream: bool
    levels: tuple[tuple[Level, int], ...]
    ended: bool = False
    timed: bool = False  # its duration is counted


class Accounts:
    """A Witness that keeps the account of one worker's requests."""

    name = "metrics by class"

    def __init__(
        self, book: AccountBook, known: Callable[[], Collection[str]], stages: Mapping[str, int] | None = None
    ) -> None:
        """``known`` returns the models' names that resources have; ``stages`` are PREFILLED or ENCODED by a profile's name."""
        self._book = book
        self._stages = stages
        self._known = known
        self._open: dict[int, _Open] = {}  # by ticket: running, or ended and not told of
        self._untold: deque[int] = deque()  # tickets of those that ended untold; of some it was told since

    def follow(self, decided: Sequence[Entry], ended: Sequence[Ended]) -> None:
        """Count requests that were picked or refused, and how others went, as far as it is known by now."""
        self._begin(decided)
        self._end(ended)

    def _begin(self, entries: Sequence[Entry]) -> None:
        book, picked = self._book, defaultdict[int, list[Entry]](list)
        for entry in entries:
            at = book.row((entry.model or "", entry.target_model or "", entry.fairness_id, entry.priority), self._known)
            levels = book.levels.find(entry)
            if entry.decision is not None:
                picked[at].append(entry)
                self._open[entry.ticket] = _Open(at, entry.stream, levels)
            elif entry.refusal is not None:
                book.err(at, entry.refusal.code)
                book.levels.refuse(levels, entry.refusal.status, stream=entry.stream)
        for at, several in picked.items():
            book.begin_requests(at, len(several))
            for name, values in _decided(several):
                book.distribute(at, name, values)
            if self._stages is not None:
                for entry in several:
                    book.stage(at, sum({self._stages.get(name, 0) for name, each in entry.others.items() if each.chosen}))

    def _end(self, outcomes: Sequence[Ended]) -> None:
        """Count how requests went; nothing of another worker's, or of one that was told of."""
        ended, durations = Counter[int](), defaultdict[int, list[float]](list)
        told = defaultdict[tuple[int, bool], list[Outcome]](list)
        for ticket, outcome, _ in outcomes:
            request = self._open.get(ticket)
            if request is None:
                continue
            at, again, request.ended = request.row, request.ended, True
            if not again:
                ended[at] += 1
            if not request.timed and outcome.duration_s is not None:
                request.timed = True
                durations[at].append(outcome.duration_s)
            if outcome.sent_bytes is None:
                if not again:
                    self._wait(ticket)
                continue
            del self._open[ticket]
            told[at, request.stream].append(outcome)
            if request.levels:
                self._book.levels.settle(request.levels, outcome, stream=request.stream)
        for at, count in ended.items():
            self._book.end_requests(at, count)
        for at, values in durations.items():
            self._book.distribute(at, "duration", values)
        for (at, stream), several in told.items():
            for outcome in several:
                if (outcome.status or 0) >= 400:
                    self._book.err(at, SERVER_ERROR)
            for name, values in _told(several, stream=stream):
                self._book.distribute(at, name, values)

    def _wait(self, ticket: int) -> None:
        """Wait for somebody to tell of a request that ended, but not for ever."""
        self._untold.append(ticket)
        if len(self._untold) > MOST_UNTOLD and self._open.pop(self._untold.popleft(), None) is not None:
            self._book.give_up()


def _decided(entries: Sequence[Entry]) -> Iterator[tuple[str, list[float]]]:
    """Yield what is known of requests when they are picked, by figure."""
    yield "request_bytes", [each.size_bytes for each in entries]
    yield "processing", [each.at_s - each.began_s for each in entries if each.began_s is not None]
    yield "scheduler", [each.took_s for each in entries if each.took_s is not None]
    yield "hit_ratio", [each.cached_share for each in entries if each.prefix.hashes]


def _told(outcomes: Sequence[Outcome], *, stream: bool) -> Iterator[tuple[str, list[float]]]:
    """Yield what else is known when somebody has told of them."""
    yield "response_bytes", [each.sent_bytes for each in outcomes if each.sent_bytes is not None]
    yield "ttft" if stream else "first_byte", [each.first_byte_s for each in outcomes if each.first_byte_s is not None]
    yield "input_tokens", [each.prompt_tokens for each in outcomes if each.prompt_tokens]
    yield "cached_tokens", [each.cached_tokens for each in outcomes if each.cached_tokens is not None]
    yield "output_tokens", [each.completion_tokens for each in outcomes if each.completion_tokens]
    timed = [(each.duration_s, each.completion_tokens) for each in outcomes if each.duration_s is not None]
    yield "ntpot", [duration_s / tokens for duration_s, tokens in timed if tokens]
    if stream:
        yield "tpot", [pace_s for each in outcomes if (pace_s := tpot_s(each)) is not None]
