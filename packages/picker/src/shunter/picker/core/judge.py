"""The judge: one complete request in, endpoint or refusal out, and the account of what was given to whom.

The order is that of the reference: read the request → model and priority → candidates (ready, in the gateway's subset) →
shed if the pool is saturated → schedule → book. It differs where the reference is known to be wrong: an empty pool is 503
before anything else can make it 429 or 500, and a request without a body is scheduled like any other instead of sent to a
random endpoint.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import attrgetter
from typing import cast

import msgspec

from shunter.picker.core.adoption import Leases
from shunter.picker.core.decisions import KEEP, DecisionLog, enter
from shunter.picker.core.eviction import EVICTED
from shunter.picker.core.features import Features, note
from shunter.picker.core.fleet import STALE_AFTER_NS, Fleet
from shunter.picker.core.journal import NOTHING, Journal, News, Peers
from shunter.picker.core.judgement import Ask, DropReason, Outcome, Parked, Pick, Refusal
from shunter.picker.core.kinds import Dice, Verdict
from shunter.picker.core.ledger import Booking, Ledger, first_ticket, next_ticket
from shunter.picker.core.listing import answer
from shunter.picker.core.lobby import Lobby
from shunter.picker.core.models import REWRITE, Rulebook, known_names
from shunter.picker.core.policy import Policy
from shunter.picker.core.pools import Ward, Wards
from shunter.picker.core.precise import Precise
from shunter.picker.core.prefix import NO_MATCH, PrefixIndex, tune
from shunter.picker.core.refusals import BROKEN, FILTERED, GONE, NO_CANDIDATES, SHED, TOO_DEEP, unknown_pool, unread
from shunter.picker.core.request import Request, read
from shunter.picker.core.request_ids import new_request_id
from shunter.picker.core.schedule import Scheduler
from shunter.picker.core.shadow import Shadow
from shunter.picker.core.splice import rewrite_model
from shunter.picker.core.stages import book
from shunter.picker.core.tables import COUNTERS_BYTES, Counters
from shunter.picker.core.withdrawals import WITHDRAWN, Withdrawals, failed
from shunter.snapshot import Batch, Topology, View

__all__ = ["FleetJudge"]

# How a request ends whose stream ended before it: by its record, or for want of one.
TOLD = Outcome(complete=True)
UNTOLD = LEFT = Outcome(complete=False)

# Of the response: how long the request waited, in milliseconds; only with flow control, as the reference has it.
QUEUE_DURATION = "x-llm-d-flow-queue-duration-ms"

# Whose mistakes are its policies'.
FLOW_CONTROL = "flow control"

# Under this name lobbies tell each other what waits; no plugin's begins with that character.
LOBBY = "\0flowControl"

# Of a plugin that waits for what it is never shown.
UNSHOWN = "it needs to see responses, and the gateway does not show them; use profile full, or do without it"

# What an answer is expected to have before any was seen (profiles that do not show them never learn better): between the 200
# of chat and the several hundred of code, as published traces have it.
ANSWER_TOKENS = 256.0
ANSWERS_REMEMBERED = 32  # the running mean follows a change of traffic within some hundred answers

_authority = attrgetter("authority")


class FleetJudge:
    """A Judge over the newest snapshot. Synchronous; for one event loop."""

    def __init__(
        self,
        policy: Policy,
        view: Callable[[int], View | None],
        dice: Dice,
        *,
        pool: str | None = None,
        stale_after_ns: int = STALE_AFTER_NS,
        keep: int = KEEP,
        life: int = 1,
        counters: Counters | None = None,
        journal: Journal | None = None,
        peers: Peers | None = None,
        blocks: Callable[[int], Batch | None] | None = None,
        serve_models: bool = False,
        shadow: Shadow | None = None,
        stopwatch: Callable[[], float] | None = None,
    ) -> None:
        """``view`` returns the newest snapshot at a time in ns; ``pool`` as in Roster; ``keep`` decisions are remembered.

        One of several workers has a ``life`` that no other ever had, ``counters`` begun with it, a ``journal`` for the others
        and theirs as ``peers``. ``blocks`` returns what is new in the scraper's log of who holds what, at a time in ns. With
        ``serve_models`` it says itself what models there are. A ``shadow`` decides a sample too, without a say. With
        a ``stopwatch``, in seconds, it notes how long choices take.
        """
        self._remembers = keep > 0 or shadow is not None
        self.shadow = shadow
        self._stopwatch = stopwatch
        self.ledger = Ledger()
        if counters is None:
            counters = Counters(bytearray(COUNTERS_BYTES))
            counters.begin(life, pid=0, now_ns=0)
        self.counters = counters
        self._journal = journal
        self._peers = peers
        self._policy = policy
        self._view = view
        self._dice = dice
        self._life = life
        self._serves_models = serve_models
        self._scheduler = Scheduler(policy, dice, self._tell)
        self.complaints = self._scheduler.complaints.words
        """What plugins and witnesses did wrong first, by name."""
        self.unlogged = self._scheduler.complaints.unlogged
        """The errors among them that nobody has logged yet, by name; to be taken out by who does."""
        self.decisions = DecisionLog(self._scheduler.complaints.raised, keep)
        self._needy = [each.name for each in policy.plugins() if getattr(each.plugin, "needs", ())]  # until it is known better
        remembered = policy.prefixes or (shadow.prefixes if shadow is not None else {})
        self._prefixes = {name: PrefixIndex(settings) for name, settings in remembered.items()}
        self._prefix = next(iter(self._prefixes.values()), None)  # the one that hashes, for all of them
        self._withdrawals = Withdrawals(self._prefixes.values(), partial(self._tell, WITHDRAWN), self._scheduler.prefill)
        self.precise: Precise | None = None
        """What is known of the engines' caches, if the policy asks for it."""
        if policy.precise is not None and self._prefix is not None:
            self.precise = Precise(policy.precise, self._prefix, partial(self._tell, policy.precise.producer))
        self._blocks = blocks if self.precise is not None else None
        self._lobbies: dict[str, Lobby] = {}
        if policy.flow is not None:
            counters.queue.begin(policy.flow)
        self._wards = Wards(self.ledger, pool, stale_after_ns, self._make_lobby)
        self._topology: Topology | None = None
        self.models: frozenset[str] = frozenset()
        """All models that resources or engines have a name for."""
        self._now_ns = 0  # when it was looked around last
        self._live: dict[int, int] = {}  # all endpoints there are, ready or not: slot → incarnation
        self._ticket = first_ticket(life)
        self._answer_tokens = ANSWER_TOKENS
        self._leases = Leases()
        self._broken = 0  # what the scheduler's errors were when they were counted last

    def needs(self) -> Sequence[str]:
        """What the configured plugins need from the response."""
        return self._policy.needs

    def fleet(self, now_s: float, *, wanted: bool = True) -> Fleet:
        """Return the pool's ready endpoints as the next request would meet them; unless ``wanted``, their load may be older."""
        self._now_ns = now_ns = int(now_s * 1e9)
        view = self._view(now_ns)
        topology = view.topology if view else None
        if topology is not self._topology:
            self._adopt(topology)
        wards = self._wards
        for slot, _ in wards.look(view, now_ns, wanted=wanted):  # an engine that starts again has nothing cached
            for index in self._prefixes.values():
                index.forget(slot)
        if self._blocks is not None and self.precise is not None and (batch := self._blocks(now_ns)) is not None:
            if batch.lost:
                self.precise.holders.forget_all()
            self.precise.holders.read(batch.records)
        if self._peers is not None and self._live:  # before the first snapshot nothing is known that could be learnt about
            news = self._peers.catch_up(self.ledger, wards, self._hear_of, self._live)
            if news is not NOTHING:
                self._learn(news, now_s)
        return wards.default.roster.current

    def _learn(self, news: News, now_s: float) -> None:
        """Take what the other workers and the collector say."""
        for _ in range(news.laps):
            self.counters.lapped()
        for ticket, host in news.lasting:
            if self.ledger.get(ticket) is not None:
                self._leases.renew(ticket, now_s)
                self.served(ticket, host)
        for ticket, complete in news.ended:
            self._leases.end(ticket)
            self.release(ticket, TOLD if complete else UNTOLD, now_s)
        for name, data in news.told:
            if self.precise is not None and name == self.precise.producer:
                self.precise.hear(data)
            elif name == WITHDRAWN:
                self._withdrawals.hear(data)
            elif not name.startswith(LOBBY):
                self._scheduler.hear(name, data)
            elif name in self._lobbies:  # else it is of a pool that nobody has asked for here
                self._lobbies[name].hear(data)
        for ticket, outcome in news.measured:
            self.measured(ticket, outcome, now_s)

    def catch_up(self, now_s: float) -> None:
        """Follow the snapshot and the other workers; a judge that is not asked for long must do it now and then."""
        self.fleet(now_s, wanted=bool(self._lobbies))
        tune(self._prefixes.values(), self._view(self._now_ns))
        for ticket in self._leases.overdue(now_s):
            self.release(ticket, UNTOLD, now_s)
        if self._lobbies:  # how full they were when somebody was let in last says nothing of now
            rooms = [ward.lobby.room(ward.fleet, now_s) for ward in self._wards if ward.lobby is not None]
            self.counters.queue.read(max(room.saturation for room in rooms))

    def decide(self, ask: Ask, now_s: float) -> Pick | Refusal | Parked:
        """Choose for one request and book it on the chosen endpoint at once."""
        self._ticket = next_ticket(self._ticket)
        self.fleet(now_s)
        ward = self._wards.default if ask.pool is None else self._wards.find(ask.pool)
        if ward is None:
            refusal = unknown_pool(ask.pool or "", self._topology, self._wards.default.name)
            return self._refuse(refusal, unread(ask, self._ticket), now_s)
        if self._serves_models and not ask.has_body and (listed := answer(ask.headers, ward.names)) is not None:
            return listed
        request = read(
            ask.headers, ask.body, has_body=ask.has_body, formats=self._policy.formats, passthrough=self._policy.passthrough
        )
        if isinstance(request, Refusal):
            return self._refuse(request, unread(ask, self._ticket), now_s)
        request = self._complete(ask, self._scheduler.identify(request), ward, self._ticket, self._now_ns)
        if ward.lobby is not None:
            held = ward.lobby.admit(ask, request, self._expect_tokens(request), ward.fleet, now_s)
            if isinstance(held, Parked):
                return held
            if held is not None:
                return self._refuse(held, request, now_s)
        return self._settle(ask, request, ward, now_s)

    def dispatch(self, now_s: float) -> Sequence[tuple[int, Pick | Refusal]]:
        """Return, by ticket, what becomes of parked requests whose time has come."""
        told: list[tuple[int, Pick | Refusal]] = []
        for ward in [*self._wards]:  # one may go meanwhile
            if ward.lobby is not None and len(ward.lobby):
                try:
                    told += self._turn(ward, ward.lobby, now_s)
                except Exception as error:  # noqa: BLE001  who has been decided about is booked, and must be told
                    self._scheduler.complaints.raised(FLOW_CONTROL, error)
        return told

    def _turn(self, ward: Ward, lobby: Lobby, now_s: float) -> Iterator[tuple[int, Pick | Refusal]]:
        def look() -> Fleet:
            self.fleet(now_s)
            return ward.fleet

        for waiter, refusal in lobby.turn(look, now_s):
            ask, request = cast("tuple[Ask, Request]", waiter.content)
            request = msgspec.structs.replace(request, waited_s=now_s - waiter.arrived_s)
            if refusal is not None:
                verdict = self._refuse(refusal, request, now_s)
            else:
                try:
                    request = self._complete(ask, request, ward, waiter.ticket, int(now_s * 1e9))  # caches have changed
                    verdict = self._settle(ask, request, ward, now_s)
                except Exception as error:  # noqa: BLE001  it has left its line: nobody else would ever tell it
                    self._scheduler.complaints.raised(FLOW_CONTROL, error)
                    self.release(waiter.ticket, LEFT, now_s)
                    verdict = self._refuse(BROKEN, request, now_s)
            yield waiter.ticket, verdict
        for ticket in lobby.evict(now_s):
            self.counters.refused(DropReason.EVICTED.value)
            yield ticket, EVICTED

    def leave(self, ticket: int, now_s: float, refusal: Refusal | None = None) -> None:
        """Forget a parked request, for that ``refusal`` or because its client is gone; release one just dispatched."""
        refused = refusal is not None
        told = (lobby.leave(ticket, now_s, refused=refused) for lobby in self._lobbies.values())
        waiter = next(filter(None, told), None)
        if waiter is None:
            self.release(ticket, LEFT, now_s)
        else:
            _, request = cast("tuple[Ask, Request]", waiter.content)
            waiter.content = None  # it may stand in its line for a while
            request = msgspec.structs.replace(request, waited_s=now_s - waiter.arrived_s)
            self._refuse(refusal or GONE, request, now_s)

    def _settle(self, ask: Ask, request: Request, ward: Ward, now_s: float) -> Pick | Refusal:
        """Schedule and book one request."""
        began_s = self._stopwatch() if self._stopwatch is not None else 0.0
        verdict = self._judge(ask, request, ward)
        took_s = self._stopwatch() - began_s if self._stopwatch is not None else None
        if isinstance(verdict, Refusal):
            return self._refuse(verdict, request, now_s)
        rewritten = request.target_model if request.target_model != request.model else None
        try:
            body = rewrite_model(ask.body, rewritten, ask.headers.get("content-type", "")) if rewritten else None
        except RecursionError:
            return self._refuse(TOO_DEEP, request, now_s)
        features = note(ward.roster.current) if self._remembers else None
        self._log(request, now_s, verdict, features, took_s)
        if self.shadow is not None and features is not None:
            self.shadow.decide(request, features, verdict)
        self._book(request, verdict)
        if body is not None:
            self.counters.rewrote()
        if request.rule is not None:
            self._count_rule(request, ward.rules)
        candidates = verdict.decision.candidates
        evictor = ward.lobby.evictor if ward.lobby is not None and request.priority < 0 else None
        if evictor is not None:
            evictor.begin(request.ticket, request.priority)
        response_headers = tuple(verdict.response_headers)
        if ward.lobby is not None:
            response_headers += ((QUEUE_DURATION, str(int(1e3 * (request.waited_s or 0.0)))),)
        return Pick(
            endpoints=tuple(map(_authority, map(candidates.__getitem__, verdict.decision.chosen))),
            ticket=request.ticket,
            request_id=request.request_id or "",
            model=request.model,
            target_model=rewritten,
            body=body,
            set_headers=tuple(verdict.set_headers),
            response_headers=response_headers,
            evictable=evictor is not None,
        )

    def _count_rule(self, request: Request, rules: Rulebook) -> None:
        """Count what a resource said; what a header says is the client's to know, and could be anything."""
        if request.rule and request.rule != REWRITE:
            self.counters.ruled(request.rule, rules.match(request.model or ""), request.target_model or "")

    def release(self, ticket: int, outcome: Outcome, now_s: float) -> None:
        """Undo the booking of ``ticket``, or wait for its record if it lasts; a second time does nothing."""
        self._scheduler.observe(ticket, outcome, now_s)
        if self._needy and outcome.status is None and (outcome.complete or outcome.lasts) and outcome is not TOLD:
            self.complaints.update(dict.fromkeys(self._needy, UNSHOWN))
            self._needy = []
        for lobby in self._lobbies.values():
            lobby.ended(ticket, now_s)
        if outcome.lasts:
            self._leases.begin(ticket, now_s)
            return
        if outcome.served is not None:
            self.served(ticket, outcome.served)
        booking = self.ledger.release(ticket)
        if booking is None:
            return
        self._wards.add(booking, -1)
        self.counters.unbooked(booking)
        self.counters.released(complete=outcome.complete)
        if self._journal is not None:
            self._journal.released(ticket)
        if outcome.completion_tokens is not None:
            self._answer_tokens += (outcome.completion_tokens - self._answer_tokens) / ANSWERS_REMEMBERED
        self._close(ticket, outcome, now_s, booking)

    def reports(self) -> dict[str, str]:
        """Return what plugins have to say of themselves, by name."""
        return self._scheduler.reports()

    def measured(self, ticket: int, outcome: Outcome, now_s: float) -> None:
        """Learn from how a request went, told by whoever saw it; it may have been released long ago."""
        self._scheduler.observe(ticket, outcome, now_s)
        self._close(ticket, outcome, now_s)

    def _close(self, ticket: int, outcome: Outcome, now_s: float, booking: Booking | None = None) -> None:
        if failed(outcome):
            self._withdrawals.follow(self.decisions.get(ticket), outcome, booking)
        self.decisions.close(ticket, outcome, now_s)
        if self.shadow is not None:
            self.shadow.close(ticket, outcome, now_s)

    def served(self, ticket: int, endpoint: str) -> None:
        """Move the booking, and what is remembered of the prompt, to who really serves it, if that is one of ours."""
        booking = self.ledger.get(ticket)
        key = self._wards.successor(booking, endpoint) if booking is not None else None
        if booking is None or key is None:
            return
        self.ledger.release(ticket)
        self._wards.add(booking, -1)
        self.counters.unbooked(booking)
        self._withdrawals.undo(booking)  # it answered nothing; who computes the prompt for it is entered once more below
        moved = msgspec.structs.replace(booking, slot=key[0], incarnation=key[1])
        self.counters.booked(moved)
        self._enter(ticket, moved)

    def note(self, ask: Ask, refusal: Refusal, now_s: float) -> None:
        """Count and remember a refusal of the session's own."""
        self._ticket = next_ticket(self._ticket)
        self._refuse(refusal, unread(ask, self._ticket), now_s)

    def _adopt(self, topology: Topology | None) -> None:
        """Index a new topology's rules and forget the endpoints that are gone."""
        self._topology = topology
        self.models = known_names(topology)
        self._wards.adopt(topology)
        kept = {id(ward.lobby) for ward in self._wards}
        self._lobbies = {name: lobby for name, lobby in self._lobbies.items() if id(lobby) in kept}
        self._live = {endpoint.slot: endpoint.incarnation for endpoint in topology.endpoints} if topology else {}
        for index in self._prefixes.values():
            index.retain(self._live)
        if self.precise is not None:
            self.precise.holders.retain(self._live)

    def _make_lobby(self, pool: str | None) -> Lobby | None:
        if self._policy.flow is None:
            return None
        name = LOBBY if pool is None else f"{LOBBY} of {pool}"
        saturation = partial(self._scheduler.saturation, sent=True)
        complain = partial(self._scheduler.complaints.raised, FLOW_CONTROL)
        lobby = Lobby(self._policy.flow, saturation, self._life, partial(self._tell, name), complain, self.counters.queue)
        self._lobbies[name] = lobby
        return lobby

    def _complete(self, ask: Ask, request: Request, ward: Ward, ticket: int, now_ns: int) -> Request:
        """Add what the pool's rules and the prefix indices say of it."""
        target, rule = ward.rules.target(request, self._dice)
        prefix = NO_MATCH
        facts: dict[str, object] = {}
        if self._prefix is not None and request.prompt:
            hashes = self._prefix.hash(request.prompt, f"{target}\0".encode() + request.seed)
            prefix = self._prefix.match(hashes)
            if len(self._prefixes) > 1:
                facts.update((name, index.match(hashes)) for name, index in self._prefixes.items())
            if self.precise is not None:
                # All that names no producer goes by the better knowledge.
                facts = dict.fromkeys(self._prefixes, prefix) | facts
                prefix = facts[self.precise.producer] = self.precise.match(request, target, prefix, now_ns)
        return msgspec.structs.replace(
            request,
            target_model=target,
            rule=rule,
            pool=ward.name,
            traceparent=ask.traceparent,
            began_s=ask.began_s,
            size_bytes=len(ask.body),
            priority=ward.rules.priority(request),
            prefix=prefix,
            request_id=request.request_id or new_request_id(self._dice),
            ticket=ticket,
            at_ns=now_ns,
            facts=facts,
        )

    def _judge(self, ask: Ask, request: Request, ward: Ward) -> Verdict | Refusal:
        fleet = ward.roster.current
        candidates = fleet if ask.subset is None else fleet.narrow(fleet.among(ask.subset))
        if not len(candidates):
            return NO_CANDIDATES
        if request.priority < 0 and ward.lobby is None and self._scheduler.saturation(fleet, request.at_ns, sent=False) >= 1:
            return SHED
        verdict = self._scheduler.run(request, candidates)
        if verdict is None:
            self.counters.left_over()
            return FILTERED
        return verdict

    def _book(self, request: Request, verdict: Verdict) -> None:
        """Enter the decision into every account there is."""
        booking = book(request, verdict, self._expect_tokens(request))
        prefix = request.prefix
        self.counters.picked(booking, len(prefix.hashes), prefix.blocks.get(booking.slot, 0))
        self._enter(request.ticket, booking)
        if self.precise is not None:
            for name in dict.fromkeys(("", verdict.prefill)):
                if (each := verdict.of(name)) is not None and each.chosen:
                    self.precise.booked(request, each.candidates[each.chosen[0]])

    def _expect_tokens(self, request: Request) -> int:
        """Return how long the answer will probably be."""
        answer, limit = int(self._answer_tokens), request.max_output_tokens
        return answer if limit is None or answer < limit else max(0, limit)

    def _enter(self, ticket: int, booking: Booking) -> None:
        """Book a request and remember its prompt, for this worker and the others."""
        self._wards.add(self.ledger.book(ticket, booking), +1)
        if self._journal is not None:
            self._journal.booked(ticket, booking)
        if booking.hashes:
            for each in booking.holders:
                self._remember(booking.hashes, each.slot, each.incarnation, self._wards.cache_size(each.slot))

    def _remember(self, hashes: Sequence[int], slot: int, incarnation: int, cache_tokens: int | None) -> None:
        """Remember that an endpoint was sent a prompt of these blocks."""
        for index in self._prefixes.values():
            index.insert(hashes, slot, incarnation, cache_tokens)

    def _hear_of(self, hashes: Sequence[int], slot: int, incarnation: int, cache_tokens: int | None) -> None:
        """Remember that another worker sent it there."""
        self._remember(hashes, slot, incarnation, cache_tokens)
        if self.precise is not None:
            self.precise.sent(hashes, slot, incarnation, self._now_ns)

    def _tell(self, name: str, data: bytes) -> None:
        """Carry what a plugin says to itself in the other workers."""
        if self._journal is not None:
            self._journal.told(name, data)

    def _refuse(self, refusal: Refusal, request: Request, now_s: float) -> Refusal:
        self.counters.refused(refusal.reason.value if refusal.reason else refusal.code)
        self._log(request, now_s, refusal)
        return refusal

    def _log(
        self,
        request: Request,
        now_s: float,
        fate: Verdict | Refusal,
        features: Features | None = None,
        took_s: float | None = None,
    ) -> None:
        if self._remembers or self.decisions.witnesses:
            self.decisions.add(enter(request, now_s, fate, features, took_s))
        while self._broken < self._scheduler.complaints.errors:
            self._broken += 1
            self.counters.broke()
