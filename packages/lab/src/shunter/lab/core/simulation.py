"""A fleet in virtual time: arrivals go where a chooser says, engines answer, and nobody waits for a clock.

Events happen in order of time; at the same instant engines come before failures, failures before scrapes and arrivals last.
Nothing here is left to chance: the same arrivals, fleet and chooser give the same run on every machine, to the last bit.
"""

from collections.abc import Sequence
from heapq import heapify, heappop, heappush
from math import inf
from typing import Protocol

import msgspec

from shunter.lab.core.arrivals import Arrival, Finished, Segment
from shunter.lab.core.engine import Engine
from shunter.lab.core.fleet import Crash, Fleet
from shunter.lab.core.requests import SegmentRequest
from shunter.lab.errors import LabError, QueueFullError, TooLongError
from shunter.snapshot import Health, LoadRow

__all__ = [
    "BEGINNING_S", "NOWHERE", "PARKED", "Choice", "Chooser", "Parked", "Refused", "Run", "Sample", "Split", "clock_ns",
    "simulate",
]  # fmt: skip

NOWHERE = -1
"""The endpoint of a request that none has served."""

# When a simulation begins by the clock of snapshots, for which a time of 0 means never.
BEGINNING_S = 1_000.0

# As Envoy is told to by the generated configuration: the first attempt and two retries on endpoints that refuse connections.
ATTEMPTS = 3

# While requests are parked, the picker looks after them that often.
TICK_S = 0.01

_ENGINE, _FAILURE, _SAMPLE, _SCRAPE, _TICK = range(5)


class Refused(msgspec.Struct, frozen=True):
    """Nobody gets the request; the client sees this HTTP status."""

    status: int


class Parked(msgspec.Struct, frozen=True):
    """The request waits at the picker; `dispatch` will tell when it goes on."""


class Split(msgspec.Struct, frozen=True):
    """One endpoint computes the prompt, another one fetches its keys and values and answers."""

    prefill: int
    decode: int


PARKED = Parked()
Choice = int | Split | Refused
"""An endpoint's number, two, or nobody."""


class Chooser(Protocol):
    """Whoever decides where requests go. Told of everything that it could know in a real system, and when."""

    def choose(self, arrival: Arrival, index: int, now_s: float) -> Choice | Parked:
        """Choose for the index-th arrival. Asked again for the same one if the endpoint it named accepts no connections."""
        ...

    def dispatch(self, now_s: float) -> Sequence[tuple[int, Choice]]:
        """Choose for those parked requests, by index, whose time has come."""
        ...

    def scraped(self, rows: Sequence[LoadRow], now_s: float) -> None:
        """Take notice of all endpoints' load; slot numbers are endpoint numbers."""
        ...

    def first_token(self, index: int, now_s: float) -> None:
        """Take notice of the first byte of an answer."""
        ...

    def ended(self, index: int, finished: Finished, now_s: float) -> None:
        """Take notice that a request is over, however it ended."""
        ...


class Sample(msgspec.Struct, frozen=True):
    """Every endpoint's state at one instant."""

    at_s: float
    running: tuple[int, ...]
    waiting: tuple[int, ...]
    kv_usage: tuple[float, ...]


class Run(msgspec.Struct, frozen=True):
    """What happened."""

    finished: list[Finished]
    """In the order of the arrivals."""
    samples: list[Sample]


def clock_ns(now_s: float) -> int:
    """What the clock of snapshots shows at a time of the simulation."""
    return int((now_s + BEGINNING_S) * 1e9)


def simulate(arrivals: Sequence[Arrival], fleet: Fleet, chooser: Chooser) -> Run:
    """Send all arrivals and wait until each has ended."""
    return _Simulation(arrivals, fleet, chooser).run()


class _Simulation:
    def __init__(self, arrivals: Sequence[Arrival], fleet: Fleet, chooser: Chooser) -> None:
        self._arrivals, self._fleet, self._chooser = arrivals, fleet, chooser
        self._engines = [Engine(params, every_token=False) for params in fleet.engines]
        self._due_s: list[float | None] = [None] * len(self._engines)
        self._rows = [LoadRow(slot=slot, incarnation=1) for slot in range(len(self._engines))]
        self._down = [False] * len(self._engines)
        self._followers: dict[int, list[int]] = {}
        """Arrivals that come after the end of another one, by that one."""
        self._arriving: list[tuple[float, int]] = []
        lengths: dict[int, int] = {}
        for index, arrival in enumerate(arrivals):
            for segment in (*arrival.prompt, arrival.output):
                if lengths.setdefault(segment.id, segment.tokens) != segment.tokens:
                    raise LabError(
                        f"arrival {index}: segment {segment.id} has {segment.tokens} tokens here and "
                        f"{lengths[segment.id]} elsewhere; other tokens need another id"
                    )
            if arrival.after is None:
                self._arriving.append((arrival.at_s, index))
            elif arrival.after < index:
                self._followers.setdefault(arrival.after, []).append(index)
            else:
                raise LabError(f"arrival {index} comes after arrival {arrival.after}, which is no earlier one")
        heapify(self._arriving)
        self._soonest_s = min((arrival.think_s for arrival in arrivals if arrival.after is not None), default=inf)
        """After the end of a request the next one of its session comes no sooner."""
        self._events: list[tuple[float, int, int]] = [(0.0, _SCRAPE, 0), (0.0, _SAMPLE, 0)]
        self._failures: list[tuple[int, float | None]] = []
        """What is to happen to whom: a new speed factor; 0: it dies; None: it is there again."""
        for failure in fleet.failures:
            if isinstance(failure, Crash):
                self._plan_failure(failure.at_s, failure.endpoint, 0.0)
                self._plan_failure(failure.at_s + failure.restart_s, failure.endpoint, None)
            else:
                self._plan_failure(failure.from_s, failure.endpoint, failure.factor)
                self._plan_failure(failure.to_s, failure.endpoint, 1.0)
        heapify(self._events)
        self._arrived_s = [0.0] * len(arrivals)
        self._first_s: list[float | None] = [None] * len(arrivals)
        self._endpoint = [NOWHERE] * len(arrivals)
        self._prefilled: dict[int, tuple[int, int]] = {}
        """Who computes or has computed a prompt for somebody else, and how much of it was cached there."""
        self._parked = 0
        self._ticking = False
        self._finished: list[Finished | None] = [None] * len(arrivals)
        self._left = len(arrivals)
        self._samples: list[Sample] = []

    def run(self) -> Run:
        events, arriving = self._events, self._arriving
        while self._left:
            if arriving and arriving[0][0] < events[0][0]:
                at_s, index = heappop(arriving)
                self._arrived_s[index] = at_s
                self._route(index, self._chooser.choose(self._arrivals[index], index, at_s), at_s)
                continue
            at_s, kind, number = heappop(events)
            if kind == _ENGINE:
                if self._due_s[number] == at_s:
                    self._due_s[number] = None
                    self._advance(number, at_s)
            elif kind == _SCRAPE:
                self._scrape(at_s)
            elif kind == _SAMPLE:
                self._sample(at_s)
            elif kind == _FAILURE:
                self._fail(*self._failures[number], at_s)
            else:
                self._ticking = False
            if self._parked:
                self._dispatch(at_s)
        return Run([finished for finished in self._finished if finished is not None], self._samples)

    # Requests.

    def _route(self, index: int, choice: Choice | Parked, now_s: float) -> None:
        arrival = self._arrivals[index]
        for _ in range(ATTEMPTS):
            if isinstance(choice, Refused):
                return self._finish(index, now_s, refused=choice.status)
            if isinstance(choice, Parked):
                self._parked += 1
                return self._tick(now_s)
            decoder = choice.decode if isinstance(choice, Split) else choice
            if not self._down[decoder]:
                self._endpoint[index] = decoder
                if isinstance(choice, Split):
                    return self._prefill(index, choice.prefill, now_s)
                return self._send(index, now_s)
            choice = self._chooser.choose(arrival, index, now_s)
        return self._finish(index, now_s, failed=True)

    def _prefill(self, index: int, endpoint: int, now_s: float) -> None:
        """Have a prompt computed, for which an engine is asked for one token; where that fails, its decoder does it all."""
        arrival = self._arrivals[index]
        one = Segment(~arrival.output.id, 1)
        request = SegmentRequest(id=~index, prompt=arrival.prompt, output=one, adapter=arrival.adapter, max_tokens=1)
        try:
            if self._down[endpoint]:
                return self._send(index, now_s)
            self._engines[endpoint].submit(request, now_s)
        except (QueueFullError, TooLongError):
            return self._send(index, now_s)
        self._prefilled[index] = endpoint, 0
        return self._watch(endpoint)

    def _send(self, index: int, now_s: float, *, remote: bool = False) -> None:
        arrival, endpoint = self._arrivals[index], self._endpoint[index]
        if self._down[endpoint]:  # it was there when it was chosen
            return self._finish(index, now_s, failed=True)
        request = SegmentRequest(
            id=index,
            prompt=arrival.prompt,
            output=arrival.output,
            adapter=arrival.adapter,
            max_tokens=arrival.max_tokens,
            remote=remote,
        )
        try:
            self._engines[endpoint].submit(request, now_s)
        except QueueFullError:
            self._finish(index, now_s, refused=503)
        except TooLongError:
            self._finish(index, now_s, refused=400)
        return self._watch(endpoint)

    def _advance(self, endpoint: int, now_s: float) -> None:
        """Tell what an engine has done."""
        for token in self._engines[endpoint].advance(now_s):
            index = token.id
            assert isinstance(index, int)  # noqa: S101  requests are named by their arrival
            if index < 0:
                self._prefilled[~index] = endpoint, token.cached_tokens
                self._send(~index, token.at_s, remote=True)
                continue
            if token.index == 0:
                self._first_s[index] = token.at_s
                self._chooser.first_token(index, token.at_s)
            if token.finish is not None:
                self._finish(index, token.at_s, output_tokens=token.index + 1, cached_tokens=token.cached_tokens)
        self._watch(endpoint)

    def _watch(self, endpoint: int) -> None:
        """Have the engine looked at when something will have happened there."""
        next_s = self._engines[endpoint].next_event_s()
        if next_s is not None and next_s != self._due_s[endpoint]:
            heappush(self._events, (next_s, _ENGINE, endpoint))
        self._due_s[endpoint] = next_s

    def _finish(
        self,
        index: int,
        now_s: float,
        *,
        output_tokens: int = 0,
        cached_tokens: int = 0,
        refused: int | None = None,
        failed: bool = False,
    ) -> None:
        first_s = self._first_s[index]
        prefilled_by, cached_tokens = self._prefilled.pop(index, (NOWHERE, cached_tokens))
        finished = self._finished[index] = Finished(
            index=index,
            endpoint=self._endpoint[index],
            arrived_s=self._arrived_s[index],
            first_s=now_s if first_s is None else first_s,
            ended_s=now_s,
            prompt_tokens=self._arrivals[index].prompt_tokens,
            prefilled_by=prefilled_by,
            cached_tokens=cached_tokens,
            output_tokens=output_tokens,
            refused=refused,
            failed=failed,
        )
        self._left -= 1
        self._chooser.ended(index, finished, now_s)
        for follower in self._followers.pop(index, ()):
            heappush(self._arriving, (now_s + self._arrivals[follower].think_s, follower))

    def _dispatch(self, now_s: float) -> None:
        for index, choice in self._chooser.dispatch(now_s):
            self._parked -= 1
            self._route(index, choice, now_s)
        if self._parked:
            self._tick(now_s)

    def _tick(self, now_s: float) -> None:
        if not self._ticking:
            self._ticking = True
            heappush(self._events, (now_s + TICK_S, _TICK, 0))

    # The fleet.

    def _scrape(self, now_s: float) -> None:
        next_s = now_s + self._fleet.scrape_s
        heappush(self._events, (next_s, _SCRAPE, 0))
        # Nobody sees a scrape that is followed by another one before anything has to be decided; only failures are counted.
        arrives = self._arriving and self._arriving[0][0] < next_s
        follows = self._followers and self._soonest_s < self._fleet.scrape_s
        if not (arrives or follows or self._parked or any(self._down)):
            return
        sampled_ns = clock_ns(now_s)
        for endpoint, engine in enumerate(self._engines):
            self._rows[endpoint] = self._row(endpoint, engine, now_s, sampled_ns)
        self._chooser.scraped(self._rows.copy(), now_s)

    def _row(self, endpoint: int, engine: Engine, now_s: float, sampled_ns: int) -> LoadRow:
        row = self._rows[endpoint]
        if self._down[endpoint]:
            failures, reason = row.failures + 1, "connection refused"
            return msgspec.structs.replace(row, health=Health.UNREACHABLE, failures=failures, reason=reason)
        engine.advance(now_s)  # events come before scrapes: there is nothing to be told
        gauges, params = engine.reported(), engine.params
        return LoadRow(
            slot=endpoint,
            incarnation=1,
            health=Health.FRESH,
            sampled_ns=sampled_ns,
            waiting=float(gauges.waiting),
            running=float(gauges.running),
            kv_usage=gauges.kv_usage,
            block_size=params.block_size,
            num_blocks=params.num_blocks,
            max_adapters=params.max_loras,
            running_adapters=gauges.running_adapters,
            waiting_adapters=gauges.waiting_adapters,
        )

    def _sample(self, now_s: float) -> None:
        heappush(self._events, (now_s + self._fleet.sample_s, _SAMPLE, 0))
        for engine in self._engines:
            engine.advance(now_s)
        gauges = [engine.gauges() for engine in self._engines]
        self._samples.append(
            Sample(
                at_s=now_s,
                running=tuple([each.running for each in gauges]),
                waiting=tuple([each.waiting for each in gauges]),
                kv_usage=tuple([each.kv_usage for each in gauges]),
            )
        )

    def _plan_failure(self, at_s: float, endpoint: int, factor: float | None) -> None:
        self._events.append((at_s, _FAILURE, len(self._failures)))
        self._failures.append((endpoint, factor))

    def _fail(self, endpoint: int, factor: float | None, now_s: float) -> None:
        self._advance(endpoint, now_s)
        engine = self._engines[endpoint]
        if factor is None:
            self._down[endpoint] = False
        elif factor:
            engine.slow(factor, now_s)
        else:
            self._down[endpoint] = True
            for index in engine.crash(now_s):
                assert isinstance(index, int)  # noqa: S101  as above
                if index >= 0:
                    self._finish(index, now_s, failed=True)
                else:
                    del self._prefilled[~index]
                    self._send(~index, now_s)
        self._watch(endpoint)
