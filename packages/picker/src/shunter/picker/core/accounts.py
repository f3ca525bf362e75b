"""The witness that keeps the account of one worker's requests, by class.

A request is counted when it is picked, when it has ended, and when somebody has *told* how it went, which may be the same
moment (the picker sees the response) or later (Envoy's record). Each of its figures is counted once, however often it is told.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Any

import msgspec

from shunter.picker.core.account_book import FIGURES, REQUESTS_AT, RUNNING_AT, STAGES_AT, AccountBook
from shunter.picker.core.decisions import Entry
from shunter.picker.core.judgement import Outcome
from shunter.picker.core.service_levels import Level, tpot_s

__all__ = ["Accounts"]

# Requests that ended and of which nobody has told yet: Envoy's record comes within a quarter of a second, which is a thousand
# requests of a busy worker. Where no record ever comes they must not cost much: this is a megabyte.
MOST_UNTOLD = 4096

# Requests whose figures are entered together: a fifth of a millisecond of work. A worker that is killed takes those with it
# that wait, a tenth of a second's at most; requests and errors it has counted.
BATCH = 64

SERVER_ERROR = "ModelServerError"  # the reference's word for a response with an error status


class _Open(msgspec.Struct, gc=False):
    row: int
    stream: bool
    levels: tuple[tuple[Level, int], ...]
    timed: bool = False  # its duration is counted


class _Waiting:
    """Values of one row that are yet to be entered, by figure."""

    __slots__ = tuple(FIGURES)

    def __init__(self) -> None:
        for name in FIGURES:
            setattr(self, name, [])


class Accounts:
    """A Witness that keeps the account of one worker's requests.

    Requests and errors are counted at once. Figures are entered some dozen requests at a time, at the latest when ``flush`` is
    called: one by one, with all that a pick does in between, they were measured to cost twice as much.
    """

    def __init__(
        self, book: AccountBook, known: Callable[[], Collection[str]], stages: Mapping[str, int] | None = None
    ) -> None:
        """``known`` returns the models' names that resources have; ``stages`` are PREFILLED or ENCODED by a profile's name."""
        self._book = book
        self._stages = stages
        self._known = known
        self._running: dict[int, _Open] = {}  # by ticket
        self._untold: OrderedDict[int, _Open] = OrderedDict()  # have ended; of these nobody has told yet
        self._waiting: defaultdict[int, Any] = defaultdict(_Waiting)  # by row
        self._waits = 0

    def add(self, entry: Entry) -> None:
        """Count a request that was picked or refused."""
        book, decision = self._book, entry.decision
        at = book.row((entry.model or "", entry.target_model or "", entry.fairness_id, entry.priority), self._known)
        levels = book.levels.find(entry)
        if decision is None:
            if entry.refusal is not None:
                book.err(at, entry.refusal.code)
                book.levels.refuse(levels, entry.refusal.status, stream=entry.stream)
            return
        words = book.words
        words[at + REQUESTS_AT] += 1
        words[at + RUNNING_AT] += 1
        if self._stages is not None:
            others, bits = entry.others, self._stages
            words[at + STAGES_AT + sum([bits.get(name, 0) for name, each in others.items() if each.chosen])] += 1
        self._running[entry.ticket] = _Open(at, entry.stream, levels)
        waiting, prefix = self._waiting[at], entry.prefix
        waiting.request_bytes.append(entry.size_bytes)
        if entry.began_s is not None:
            waiting.processing.append(entry.at_s - entry.began_s)
        if entry.took_s is not None:
            waiting.scheduler.append(entry.took_s)
        if prefix.hashes:
            waiting.hit_ratio.append(prefix.share.get(decision.candidates[decision.chosen[0]].slot, 0.0))
        self._waits += 1
        if self._waits >= BATCH:
            self.flush()

    def close(self, ticket: int, outcome: Outcome) -> None:
        """Count how a request went, as far as it is known by now; nothing of another worker's, or of one that was told of."""
        request = self._running.pop(ticket, None)
        if request is not None:
            self._book.words[request.row + RUNNING_AT] -= 1
        else:
            request = self._untold.pop(ticket, None)
            if request is None:
                return
        if outcome.duration_s is not None and not request.timed:
            request.timed = True
            self._waiting[request.row].duration.append(outcome.duration_s)
        if outcome.sent_bytes is not None:
            self._tell(request, outcome, outcome.sent_bytes)
            return
        self._untold[ticket] = request
        if len(self._untold) > MOST_UNTOLD:
            self._untold.popitem(last=False)

    def _tell(self, request: _Open, outcome: Outcome, sent_bytes: int) -> None:
        if (outcome.status or 0) >= 400:
            self._book.err(request.row, SERVER_ERROR)
        if request.levels:
            self._book.levels.settle(request.levels, outcome, stream=request.stream)
        waiting, tokens, duration_s = self._waiting[request.row], outcome.completion_tokens, outcome.duration_s
        waiting.response_bytes.append(sent_bytes)
        if outcome.first_byte_s is not None:
            (waiting.ttft if request.stream else waiting.first_byte).append(outcome.first_byte_s)
        if outcome.prompt_tokens:
            waiting.input_tokens.append(outcome.prompt_tokens)
        if outcome.cached_tokens is not None:
            waiting.cached_tokens.append(outcome.cached_tokens)
        if tokens:
            waiting.output_tokens.append(tokens)
            if duration_s is not None:
                waiting.ntpot.append(duration_s / tokens)
            if request.stream and (pace_s := tpot_s(outcome)) is not None:
                waiting.tpot.append(pace_s)

    def flush(self) -> None:
        """Enter the figures that wait."""
        self._waits = 0
        for at, waiting in self._waiting.items():
            for name, figure in FIGURES.items():
                if values := getattr(waiting, name):
                    self._book.add(at, figure, values)
                    values.clear()
