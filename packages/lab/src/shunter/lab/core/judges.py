"""The picker's own judgement as a chooser: the production `FleetJudge`, asked as a worker asks it.

It gets what a worker gets: complete requests as bytes of JSON, snapshots when they are scraped, and of every answer what the
profile shows. In `lean` that is the end of the stream when it comes, and the record with its times a little later; in `usage`
the record has token counts too; in `full` the worker sees times and counts itself, and knows them at the end.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from shunter.lab.core.arrivals import Arrival, Finished
from shunter.lab.core.fleet import Fleet
from shunter.lab.core.simulation import BEGINNING_S, PARKED, Choice, Parked, Refused, Split, clock_ns
from shunter.picker.core.judge import FleetJudge, Policy
from shunter.picker.core.judgement import Ask, Outcome, Pick, Refusal
from shunter.picker.core.judgement import Parked as ParkedTicket
from shunter.picker.core.schedule import Dice
from shunter.snapshot import Endpoint, Load, LoadRow, Objective, Pool, Topology, View

__all__ = ["JudgeChooser", "Knowledge", "body_of"]

Knowledge = Literal["lean", "usage", "full"]
"""The profile of the gateway."""
POOL = "lab"
NO_LABELS: Mapping[str, str] = {}

PATH = "/v1/chat/completions"
# The header in which a picker tells the decoder's sidecar who computes the prompt: llm-d-router's.
PREFILLER = "x-prefiller-host-port"
UNIT = b"%07d "
TOKENS_PER_UNIT = 2
"""Of four bytes each, which is what the picker expects of English text."""


def body_of(arrival: Arrival) -> bytes:
    """The JSON body of a request: a message for each segment, four bytes for each token; equal segments are equal text."""
    limit = b"" if arrival.max_tokens is None else b'"max_tokens":%d,' % arrival.max_tokens
    parts = [b'{"model":"', (arrival.adapter or arrival.model).encode(), b'","stream":true,', limit, b'"messages":[']
    role = b'{"role":"system","content":"'
    for segment in arrival.prompt:
        parts += (role, UNIT % segment.id * -(-segment.tokens // TOKENS_PER_UNIT), b'"}')
        role = b',{"role":"user","content":"'
    parts.append(b"]}")
    return b"".join(parts)


class JudgeChooser:
    """Asks a FleetJudge. Its dice are the caller's, so that a run can be repeated; it remembers the last ``keep`` decisions."""

    def __init__(self, policy: Policy, fleet: Fleet, dice: Dice, knowledge: Knowledge = "lean", *, keep: int = 0) -> None:
        self._record_s, self._knowledge = fleet.record_s, knowledge
        self._endpoints = tuple(
            Endpoint(
                slot=slot,
                incarnation=1,
                name=f"engine-{slot}",
                address=f"10.{slot >> 16}.{slot >> 8 & 255}.{slot & 255}",
                port=8000,
                pools=(0,),
                labels=dict(labels),
            )
            for slot, labels in enumerate(fleet.labels or [NO_LABELS] * len(fleet.engines))
        )
        self._authorities = [endpoint.authority for endpoint in self._endpoints]
        self._slots = {authority: slot for slot, authority in enumerate(self._authorities)}
        self._objectives: dict[int, Objective] = {}
        self._rows: Sequence[LoadRow] = ()
        self._published_ns = 0
        self._topology = self._build_topology()
        self._view: View | None = None
        self.judge = FleetJudge(policy, lambda _: self._view, dice, keep=keep)
        self._picks: dict[int, tuple[int, list[int]]] = {}
        """Ticket and endpoints, best first, of every request that has not ended; the first is who is asked now."""
        self._parked: dict[int, int] = {}
        """Index of every parked request by its ticket."""
        self._records: deque[tuple[float, int, Outcome]] = deque()

    def choose(self, arrival: Arrival, index: int, now_s: float) -> Choice | Parked:
        again = self._picks.get(index)
        if again is not None:
            return self._fall_back(*again)
        self._read_records(now_s)
        headers = {":path": PATH, "x-request-id": str(index), **dict(arrival.headers)}
        if arrival.priority:
            headers["x-gateway-inference-objective"] = self._objective(arrival.priority)
        told = self.judge.decide(Ask(headers, body_of(arrival)), now_s + BEGINNING_S)
        if isinstance(told, ParkedTicket):
            self._parked[told.ticket] = index
            return PARKED
        return self._understand(index, told)

    @property
    def complaints(self) -> tuple[str, ...]:
        """What plugins did wrong first, or could not do, a sentence for each."""
        raised = self.judge.unlogged  # nobody logs here
        return tuple(
            f"{name} raised {words}; requests were decided without it" if name in raised else f"{name}: {words}"
            for name, words in self.judge.complaints.items()
        )

    def dispatch(self, now_s: float) -> Sequence[tuple[int, Choice]]:
        self._read_records(now_s)
        told = self.judge.dispatch(now_s + BEGINNING_S)
        return [(index, self._understand(index, what)) for ticket, what in told for index in (self._parked.pop(ticket),)]

    def scraped(self, rows: Sequence[LoadRow], now_s: float) -> None:
        self._rows, self._published_ns = rows, clock_ns(now_s)
        self._publish()
        self.judge.catch_up(now_s + BEGINNING_S)  # as a worker does ten times a second

    def first_token(self, index: int, now_s: float) -> None:
        """Nobody tells a worker: in `full` it is noted and told with the end."""

    def ended(self, index: int, finished: Finished, now_s: float) -> None:
        ticket, _ = self._picks.pop(index, (None, ()))
        if ticket is None:
            return
        answered = finished.output_tokens > 0 or finished.first_s < finished.ended_s
        outcome = Outcome(
            complete=not finished.failed,
            status=finished.refused or (200 if answered else 503),
            served=self._authorities[finished.endpoint] if finished.endpoint >= 0 else None,
            first_token_s=finished.ttft_s if answered else None,
            duration_s=finished.ended_s - finished.arrived_s,
        )
        if self._knowledge != "lean":
            outcome = msgspec.structs.replace(
                outcome,
                prompt_tokens=finished.prompt_tokens,
                completion_tokens=finished.output_tokens,
                cached_tokens=finished.cached_tokens,
            )
        if self._knowledge == "full":
            self.judge.release(ticket, outcome, now_s + BEGINNING_S)
        else:
            self.judge.release(ticket, Outcome(complete=outcome.complete), now_s + BEGINNING_S)
            self._records.append((now_s + self._record_s, ticket, outcome))

    def _understand(self, index: int, told: Pick | Refusal) -> Choice:
        if isinstance(told, Refusal):
            return Refused(told.status)
        endpoints = [self._slots[authority] for authority in told.endpoints]
        self._picks[index] = told.ticket, endpoints
        for name, value in told.set_headers:
            if name == PREFILLER:  # of several the sidecar takes the first
                return Split(self._slots[value.split(",", 1)[0].strip()], endpoints[0])
        return endpoints[0]

    def _fall_back(self, ticket: int, endpoints: list[int]) -> Choice:
        """The gateway tries the next one by itself; the picker learns of it from who answers."""
        endpoints.pop(0)
        if not endpoints:
            return Refused(503)
        self.judge.served(ticket, self._authorities[endpoints[0]])
        return endpoints[0]

    def _read_records(self, now_s: float) -> None:
        while self._records and self._records[0][0] <= now_s:
            _, ticket, outcome = self._records.popleft()
            self.judge.measured(ticket, outcome, now_s + BEGINNING_S)

    def _objective(self, priority: int) -> str:
        if priority not in self._objectives:
            self._objectives[priority] = Objective(name=f"priority-{priority}", pool=POOL, priority=priority)
            self._topology = self._build_topology()
            self._publish()
        return self._objectives[priority].name

    def _build_topology(self) -> Topology:
        return Topology(
            epoch=1,
            generation=1 + len(self._objectives),
            pools=(Pool(name=POOL),),
            endpoints=self._endpoints,
            objectives=tuple(self._objectives.values()),
        )

    def _publish(self) -> None:
        load = Load.of(self._rows, epoch=1, topology_generation=self._topology.generation, published_ns=self._published_ns)
        self._view = View(self._topology, load)
