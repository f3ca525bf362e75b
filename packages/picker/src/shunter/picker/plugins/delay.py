"""The scorer of the default configuration: where does a request cost everybody the least time?

Whatever is known of a candidate is turned into seconds, so that nothing has to be weighed against anything by hand::

    wait     until its prompts in flight are computed, and this one's uncached part       what its own user waits
    stall    that part of the prompt × the requests there, this one among them             all of them pause meanwhile
    room     that part, as far as the cache is in use already                             what it pushes out is computed again
    others   that part × those who come there until it is computed                       each of them begins later
    answer   the time of its own answer there, and by how much it slows theirs            the batch is one larger
    queue    until those have room who wait there, if the cache is full                   so long does it wait, too

A fleet that is bound by prompts has long waits, and the request goes where they are short and much of it is cached; one that is
bound by answers has none to speak of, and the request goes where the batch is small. Which of the two a fleet is needs no
switch: the larger seconds win. The speeds that turn tokens into seconds are learnt (``core.speeds``).

Cached beginnings keep a request where they are for reasons that the terms hold: computing them again is a wait for itself and,
more so, for others. That is the valve: the queue at the warm endpoint has to cost more than all of that.

What several that are in flight begin with, others will begin with, too, and a further copy of it serves them all. So its stall
and its room count the less, the more of them there are; but not where the requests that run fill the cache: a copy that they
read takes the memory that others wait for. A conversation has one request in flight at a time, and stays where it is.

How many come while a prompt is computed follows from how many are there and how long they stay (Little). Whoever of them waits
lets others wait in turn: all of that grows without bound as the endpoints' time fills with prompts (M/G/1).

Where a prompt begins that nobody has cached, others that begin like it will follow. Seconds do not know of them; so such
prompts go round: who got one lately counts as dearer, the more so the more prompts are reused at all.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from typing import ClassVar, TypeAlias

from shunter.picker.core.fleet import Fleet
from shunter.picker.core.judgement import Outcome
from shunter.picker.core.kinds import Header, Scores, Setting, Verdict
from shunter.picker.core.ledger import attended
from shunter.picker.core.prefix import Match
from shunter.picker.core.request import Request
from shunter.picker.core.speeds import FEWEST_TOKENS, Quantile, Speeds, crowding
from shunter.picker.core.starts import Starts
from shunter.picker.plugins.catalogue import Kind, Plugin, register

__all__ = ["DELAY_SCORER", "Delay", "ExpectedDelay"]

DELAY_SCORER = "expected-delay-scorer"

# What a second counts. One before the first token counts whole: somebody looks at an empty screen. One that is spread over the
# answers in flight is a hundred pauses too short to notice. Between half and twice as much, results change by a few percent
# (docs/decisions/014).
STALL = 0.15
ANSWER = 0.02

# A copy that there is no room for takes the memory that others wait for. How likely that is before they end grows with a high
# power of what is in use; squares do about as much, while in proportion half empty caches would get fewer copies, too.
FULL = 4

# Who waits where the cache is full waits for memory, until one of those who run has ended; elsewhere, for the next step. A
# prompt that leaves takes its beginning along, which is then read in two places: that helps as far as there is room for it, and
# where so much of a cache is in use there is none. So far that wait counts, and so much dearer an answer is where the cache is
# full: who goes there waits next. Of a prompt that nobody has cached a part of the wait counts in any case.
ROOM = 0.8
PRESSED = 3.0
QUEUE = 0.1

# What part of their time endpoints compute prompts is at most taken to be this: what follows is ten times as dear then.
MOST_BUSY = 0.9

# Tokens of a prompt that are computed even if all of it is cached: about one block.
LEAST_TOKENS = 16

# Of a larger fleet not everybody is asked, but so many in turn and those that have a part of the prompt; if these are many,
# so many that have most of it, equals in turn. The least loaded of 32 is hardly more so than that of a thousand, and costs the
# thirtieth part.
MOST_ASKED = 48
ASKED_IN_TURN = 32

# A prompt of which everybody lacks more than half is new. Who got a new one last counts as up to twice as dear for the next;
# how much of prompts is cached somewhere is a running mean over so many.
NEW = 0.5
REMEMBERED = 64

# What loading an adapter takes where there is room for it: engines load from their host's memory in some 10 to 100 ms.
LOAD_S = 0.1

# Adapter names remembered; a model that is none costs nothing anywhere.
MOST_ADAPTERS = 4096

# Requests in flight whose beginnings are remembered; a worker has fewer.
MOST_BEGINNINGS = 16_384

NOTHING: tuple[Sequence[Header], Sequence[Header]] = (), ()

Delays: TypeAlias = list[float] | dict[int, float]
"""By position, in ns."""


@register(DELAY_SCORER, Kind.SCORER)
class ExpectedDelay(Plugin, frozen=True):
    """Least expected delay for the request and for those beside it: the least delay of all divided by the candidate's.

    Delay in seconds = wait + 0.15 · stall + room + others + 0.02 · (1 + 3 · r · k⁴) · answer + (r + q) · queue, with B the
    time until the prompts in flight are computed, U that of this one's u uncached tokens of p, n the requests and c the
    tokens in flight (of prompts, or in the KV cache if that is more), k the part of that which is in use, R the endpoint's
    learnt rate, A the time of an answer there, T the learnt one of an answer alone, b the part of their time that endpoints
    compute prompts: U = u · (1 + (p - u / 2) / 32,000) / R; wait = B + U; stall = (n + 1) · U; room = k · U; others = n / A
    · U · (B + U / 2) / (1 - b); answer = A = T · (1 + 0.018 · n + 0.0000075 · c); queue = k⁴ · w / (n + 1) · A for w who
    wait in the engine, r = 1 - (k / 0.8)⁴ with the least k of all, or 0, and q = 0.1 if more than half of the prompt is
    cached nowhere, else 0. Of tokens cached elsewhere, with which h others in flight begin, 1 - (1 - k⁴) · h / (1 + h)
    counts in stall and room. An adapter that is not loaded adds 0.1 s, or T where there is no room for it; one whose
    answers begin late though there is nothing to compute, by as much. Rates and times are learnt: nothing is to be
    calibrated.
    """

    reads_prefix: ClassVar[bool] = True

    def start(self, setting: Setting) -> "Delay":
        """Begin to learn."""
        del setting
        return Delay()


class Delay:
    """The scorer at work."""

    def __init__(self) -> None:
        self.speeds = Speeds()
        self._starts = Starts()
        self._met: tuple[Fleet, Costs] | None = None  # who was scored last
        self._next = 0  # whose turn it is in a large fleet
        self._adapters: set[str] = set()  # names that were seen to be adapters
        self._reuse = 0.0  # what part of a prompt is cached somewhere
        self._new = 0  # the ticket of the last prompt that was not
        self._began: dict[int, int] = {}  # who got such a one last, slot → ticket
        self._beginnings = Beginnings()
        self._busy = 0.0  # which part of their time endpoints compute prompts, of late
        self._prompts = 0.5  # which part of the expected delay is prompts, of late

    def score(self, request: Request, fleet: Fleet) -> Scores:
        """Score those who are asked."""
        costs = self._look(fleet)
        total = len(fleet.endpoints)
        prompt, share, now_ns = request.prompt_tokens, request.prefix.share, request.at_ns
        whole, cached = attended(prompt + LEAST_TOKENS, prompt), max(share.values(), default=0.0)
        at = fleet.index[costs.turns[request.ticket % total]]
        self._busy += ((fleet.busy_until_ns[at] > now_ns) - self._busy) / REMEMBERED
        saved, knock = 0.0, 1.0 / (1.0 - min(MOST_BUSY, self._busy))
        if cached and (others := self._beginnings.count(request.prefix)):
            saved = attended(prompt * cached, prompt * cached) * others / (1 + others)
        begin, rows = 0, costs.rows
        if total > MOST_ASKED:
            begin, end = self._next, min(total, self._next + ASKED_IN_TURN)
            self._next, rows = end % total, rows[begin:end]
        delays: Delays = [
            (wait := (until - now_ns if until > now_ns else 0))
            + (own := whole * token) * (1.0 + stall + coming * knock * (wait + own / 2.0))
            - saved * spared
            + answer
            for until, token, stall, spared, coming, answer in rows
        ]
        asked: Collection[int] = range(begin, begin + len(delays))
        if total > MOST_ASKED:
            asked = delays = dict(zip(asked, delays, strict=True))
        if share:
            self._favour(request, fleet, costs, knock, delays)
        if self._starts.slow:
            for slot, late_ns in self._starts.late_ns(map(fleet.keys.__getitem__, asked), now_ns).items():
                delays[fleet.index[slot]] += late_ns
        self._reuse += (cached - self._reuse) / REMEMBERED
        if cached < NEW:
            for at, queue_ns in costs.queues.items():
                if at in asked:
                    delays[at] += QUEUE * queue_ns
            self._go_round(request, fleet, [*asked], delays)
        if self._adapters and request.target_model in self._adapters:
            for at in asked:
                delays[at] += _loading_ns(at, fleet, costs, request.target_model)
        if isinstance(delays, dict):
            least = min(delays.values())
            return {at: least / delay for at, delay in delays.items()}
        return list(map(min(delays).__truediv__, delays))

    def waits_s(self, request: Request, fleet: Fleet) -> list[float]:
        """Return the time to first token that is to be expected of every candidate."""
        token_ns = self._look(fleet).token
        prompt, share, now_ns = request.prompt_tokens, request.prefix.share, request.at_ns
        late_ns = self._starts.late_ns(fleet.keys, now_ns)
        found = list[float]()
        for endpoint, until, token in zip(fleet.endpoints, fleet.busy_until_ns, token_ns, strict=True):
            own = attended(prompt * (1.0 - share.get(endpoint.slot, 0.0)) + LEAST_TOKENS, prompt)
            found.append((max(0, until - now_ns) + own * token + late_ns.get(endpoint.slot, 0.0)) / 1e9)
        return found

    def picked(self, request: Request, verdict: Verdict) -> tuple[Sequence[Header], Sequence[Header]]:
        """Remember what the request meets, to learn from it."""
        chosen = verdict.decision.candidates[verdict.decision.chosen[0]]
        self._beginnings.add(request.ticket, request.prefix)
        if self._new == request.ticket:
            self._began[chosen.slot] = request.ticket
        if self._met is None:
            return NOTHING
        fleet, costs = self._met
        at = fleet.index.get(chosen.slot)
        if at is not None and fleet.endpoints[at] is chosen:
            key, token = (chosen.slot, chosen.incarnation), costs.token[at]
            cached = request.prefix.share.get(chosen.slot, 0.0)
            waiting = max(0, fleet.busy_until_ns[at] - request.at_ns) / token
            waiting += attended(request.prompt_tokens * (1.0 - cached), request.prompt_tokens)
            crowd = crowding(fleet.in_flight[at] + 1, costs.held_tokens(fleet, at))
            self.speeds.began(request.ticket, key, waiting, crowd)
            if waiting < FEWEST_TOKENS and not fleet.reported_waiting[at]:
                self._starts.began(request.ticket, key, request.at_ns)
            prompts, answer = waiting * token, costs.alone[at] / ANSWER * (crowd - 1.0)
            self._prompts += (prompts / max(1.0, prompts + answer) - self._prompts) / REMEMBERED
            fleet.ledger.pace(key, self.speeds.prefill_per_s(key))
        return NOTHING

    def observe(self, ticket: int, outcome: Outcome, now_s: float) -> None:
        """Learn from how a request went."""
        del now_s
        self._beginnings.remove(ticket)
        if outcome.first_token_s is None:
            return
        self._starts.observe(ticket, outcome)
        key = self.speeds.observe(ticket, outcome)
        if key is not None and self._met is not None:
            fleet, costs = self._met
            at = fleet.index.get(key[0])
            if at is not None:
                costs.learn(at, *self.speeds.pace(key))

    def report(self) -> str:
        """Say what binds the fleet, and how fast it was found to be."""
        fleet = self.speeds.fleet
        bound = "prompts" if self._prompts > 0.5 else "answers"
        waiting = f"{100 * self._prompts:.0f} % of what requests lose is waiting for prompts, the rest is slower answers"
        prompts = f"{fleet.prefill_per_s.value:,.0f} prompt tokens/s{_yet(fleet.prefill_per_s)}"
        answer = f"{fleet.answer_s.value:.2f} s{_yet(fleet.answer_s)}"
        return f"bound by {bound} ({waiting}); an endpoint computes {prompts}, and an answer alone takes {answer}"

    def _look(self, fleet: Fleet) -> "Costs":
        """Return what the candidates cost at this moment."""
        if self._met is not None and self._met[0] is fleet:
            costs = self._met[1]
        else:
            costs = self._meet(fleet)
            self._met = fleet, costs
        if costs.touched:
            costs.refresh(fleet)
        return costs

    def _meet(self, fleet: Fleet) -> "Costs":
        """Look up everybody's speed, and the adapters there are; of a fleet that lasts, once."""
        kept = fleet.keepers.get(self)
        if isinstance(kept, Costs):
            return kept
        for names in (*fleet.running_adapters, *fleet.waiting_adapters):
            if names and len(self._adapters) < MOST_ADAPTERS:
                self._adapters.update(names)
        costs = Costs(fleet, self.speeds)
        if fleet.lasting:
            fleet.keepers[self] = costs
        return costs

    def _favour(self, request: Request, fleet: Fleet, costs: "Costs", knock: float, delays: Delays) -> None:
        """Enter the delays of those that have a part of the prompt cached."""
        find, rows, now_ns, prompt = fleet.index.get, costs.rows, request.at_ns, request.prompt_tokens
        share = request.prefix.share
        last, work = -1.0, 0.0
        holders = _foremost(request, fleet, delays) if isinstance(delays, dict) and len(share) > MOST_ASKED else share
        for slot in holders:
            at = find(slot)
            if at is not None:
                until, token, stall, _, coming, answer = rows[at]
                if (part := share[slot]) != last:  # mostly they have the same
                    last, work = part, attended(prompt * (1.0 - part) + LEAST_TOKENS, prompt)
                wait = until - now_ns if until > now_ns else 0
                own = work * token
                delays[at] = wait + own * (1.0 + stall + coming * knock * (wait + own / 2.0)) + answer

    def _go_round(self, request: Request, fleet: Fleet, asked: list[int], delays: Delays) -> None:
        """Make it dearer for those who got a new prompt lately."""
        self._new, began, endpoints = request.ticket, self._began, fleet.endpoints
        asked.sort(key=lambda at: (began.get(endpoints[at].slot, 0), endpoints[at].slot))
        more = self._reuse / max(1, len(asked) - 1)
        for rank, at in enumerate(asked):
            delays[at] *= 1.0 + more * rank


class Costs:
    """What candidates of one Fleet take, in ns, with what is there now: a Keeper, so most is known from the request before."""

    __slots__ = ("_cached", "_foreign", "_usage", "alone", "queues", "room", "rows", "token", "touched", "turns")

    def __init__(self, fleet: Fleet, speeds: Speeds) -> None:
        """Look up everybody's speed."""
        self.touched = set(range(len(fleet)))
        paces = list(map(speeds.pace, fleet.keys))
        self.token = [token_ns for token_ns, _ in paces]  # of a prompt
        self.alone = [ANSWER * answer_ns for _, answer_ns in paces]  # an answer with nobody beside it, as far as it counts
        self.turns = sorted(fleet.index)  # by slot: in which order they are looked at
        self.queues: dict[int, float] = {}
        """How long a request waits in the queues of engines, in ns, by position; only of those that have one."""
        self._usage = [min(1.0, usage) for usage in fleet.kv_usage]
        self.room = max(0.0, 1.0 - (min(self._usage, default=1.0) / ROOM) ** FULL)
        """How much room the emptiest cache has for what leaves a full one."""
        sizes = zip(self._usage, fleet.cache_tokens, strict=True)
        self._cached = [usage * (size or 0) for usage, size in sizes]  # tokens of those who run, with their answers until now
        # What the engine says beyond what we sent. Of one that does not say it is the worst that is known of any: see Fleet.
        engines = zip(fleet.running, fleet.reported_waiting, fleet.in_flight, strict=True)
        self._foreign = [max(0.0, running + waiting - ours) for running, waiting, ours in engines]
        self.rows: list[tuple[int, float, float, float, float, float]] = [(0, 0.0, 0.0, 0.0, 0.0, 0.0)] * len(fleet)
        """When the prompts there are computed; what a token of a prompt takes; what each ns of that counts for others, who
        pause and lose some of the cache; the same for a token that others begin with, too, as far as there is room for it;
        how many of them come in a ns; an answer beside them as far as it counts, with the queue before it."""

    def refresh(self, fleet: Fleet) -> None:
        """Follow the bookings. It is always the same Fleet."""
        for at in self.touched:
            n = fleet.in_flight[at] + self._foreign[at]
            answer = self.alone[at] * crowding(n, self.held_tokens(fleet, at))
            usage, token = self._usage[at], self.token[at]
            full = usage**FULL
            counted = answer * (1.0 + PRESSED * self.room * full)
            if queue := fleet.reported_waiting[at]:
                self.queues[at] = answer / ANSWER * full * queue / (n + 1.0)
                counted += self.room * self.queues[at]
            stall = STALL * (n + 1.0) + usage
            spared = (1.0 - full) * stall * token
            self.rows[at] = fleet.busy_until_ns[at], token, stall, spared, n * ANSWER / answer, counted
        self.touched.clear()

    def held_tokens(self, fleet: Fleet, at: int) -> float:
        """Return how many tokens the batch reads in each step.

        There are more than either says: of one no answers are known, of the other no beginnings that several share.
        """
        return max(fleet.tokens_in_flight[at], self._cached[at])

    def learn(self, at: int, token_ns: float, answer_ns: float) -> None:
        """Take a speed that is known better now."""
        self.token[at], self.alone[at] = token_ns, ANSWER * answer_ns
        self.touched.add(at)


class Beginnings:
    """How many requests in flight begin alike: what somebody has cached of them ends with the same block."""

    __slots__ = ("_by_ticket", "_counts")

    def __init__(self) -> None:
        self._by_ticket: OrderedDict[int, int] = OrderedDict()
        self._counts: dict[int, int] = {}

    def add(self, ticket: int, match: Match) -> None:
        """Remember a request that is sent; the oldest are forgotten if there are too many."""
        if (last := _last(match)) is not None:
            self._by_ticket[ticket] = last
            self._counts[last] = self._counts.get(last, 0) + 1
            if len(self._by_ticket) > MOST_BEGINNINGS:
                self.remove(next(iter(self._by_ticket)))

    def remove(self, ticket: int) -> None:
        """Forget one that has ended."""
        if (last := self._by_ticket.pop(ticket, None)) is not None:
            left = self._counts.pop(last) - 1
            if left:
                self._counts[last] = left

    def count(self, match: Match) -> int:
        """Return how many in flight begin like this prompt, of which somebody has a part."""
        last = _last(match)
        return 0 if last is None else self._counts.get(last, 0)


def _foremost(request: Request, fleet: Fleet, asked: Iterable[int]) -> list[int]:
    """Return the slots of those who have most of a prompt, equals in turn, and of those who are asked anyway and have some."""
    share = request.prefix.share
    slots = list(filter(fleet.index.__contains__, share))
    turn = request.ticket * ASKED_IN_TURN % max(1, len(slots))
    best = sorted(slots[turn:] + slots[:turn], key=share.__getitem__, reverse=True)[:ASKED_IN_TURN]
    return best + [slot for at in asked if (slot := fleet.endpoints[at].slot) in share]


def _loading_ns(at: int, fleet: Fleet, costs: Costs, adapter: str) -> float:
    running, waiting, room = fleet.running_adapters[at], fleet.waiting_adapters[at], fleet.max_adapters[at]
    if adapter in running or room is None:
        return 0.0
    fits = len(running) + len(waiting) < room or len({*running, *waiting}) < room  # what runs may be waited for, too
    return LOAD_S * 1e9 if fits else costs.alone[at] / ANSWER


def _yet(speed: Quantile) -> str:
    return "" if speed.settled else " (not learnt yet)"


def _last(match: Match) -> int | None:
    """Return the last block of a prompt that somebody has; None where nobody has any, or blocks have no hashes."""
    known = max(match.blocks.values(), default=0)
    return match.hashes[known - 1] if 0 < known <= len(match.hashes) else None
