"""The engine: continuous batching over paged KV blocks, as a machine that is told what time it is.

It never looks at a clock. Whoever owns time (an event loop, a simulation) does three things::

    engine.submit(request, now_s)        a request joins the queue
    engine.abort(request_id, now_s)      its client went away
    engine.advance(now_s) -> [Token]     everything that happened up to now, in order, each with its own time

and sleeps until `next_event_s()`. Two runs with the same calls give the same answers to the last bit, however coarse the
caller's sleep: a step that ended in the past ended when it ended, and the next one began there.

*A step* is one forward pass. At its start the scheduler fills it, at its end every sequence whose prompt is computed has
one more token. The rules are vLLM's (V1 scheduler):

1. Running sequences first, in order of arrival; each needs its missing tokens, the step has `max_num_batched_tokens`.
2. A sequence that gets no block makes the youngest running one give up all its blocks and wait again at the head of the
   queue (recompute); no request joins in a step that had to preempt.
3. Then the queue, first come first served, while the batch has a seat and tokens, and blocks for the whole prompt. A request
   whose adapter would be one too many steps aside without blocking those behind it.
4. What the prefix cache knows is not computed again, but the last token always is: it has to be sampled from.
5. Media in a prompt are encoded first, which makes the step longer (`encoder`).
6. A sequence that ends frees its blocks at once; their contents stay known until they are reused.

*A leap* is many steps at once. From these rules follows that of the running sequences only the youngest can have a prompt
that is not computed yet, and that every other one, a *decoding* one, gets exactly one token in every step. So while no prompt
is computed nothing changes but the contexts, which grow by one token a sequence and step: the end of the n-th step from now
is a sum of an arithmetic series. A leap goes to the first step that is different: somebody ends, joins or leaves, or blocks
run out. It is planned at its beginning and cut short when a request arrives that may join; how often somebody looks at the
engine in between changes nothing.
"""

from collections import deque
from collections.abc import Hashable
from heapq import heappop, heappush
from itertools import count

from shunter.lab.core.adapters import Adapters
from shunter.lab.core.cache import KvCache, Path
from shunter.lab.core.encoder import Encoder
from shunter.lab.core.gauges import Gauges
from shunter.lab.core.needs import Needs
from shunter.lab.core.params import EngineParams
from shunter.lab.core.plan import Plan
from shunter.lab.core.requests import Work
from shunter.lab.core.sequence import Sequence, Token
from shunter.lab.core.tally import Tally
from shunter.lab.errors import LabError, QueueFullError, TooLongError

__all__ = ["Engine"]

_NOBODY, _EVERYBODY = -1, 1 << 62


class Engine:
    """One model server's engine. Without `every_token` only first and last tokens are told and no tally is kept."""

    def __init__(self, params: EngineParams, now_s: float = 0.0, *, every_token: bool = True) -> None:
        self.params = params
        self.tally = Tally(params.context_tokens)
        self.cache = KvCache(params.num_blocks, params.block_size, self._settle_path, caching=params.keeps_prefixes)
        self.encoder = Encoder(params, self.tally)
        self._every_token = every_token
        self._now_s = now_s
        self._factor = 1.0
        self._ranks = count()
        self._outbox: list[Token] = []
        self._has_adapters = False
        self._empty()
        self.tally.adapters_seen_s["", ""] = now_s

    def _empty(self) -> None:
        self._waiting: deque[Sequence] = deque()
        self._arriving: list[tuple[float, int, Sequence]] = []
        """Requests whose keys and values are on their way here, by the time of their arrival."""
        self._running: dict[int, Sequence] = {}
        """By rank, which is the order in which they joined."""
        self._prefilling: list[tuple[Sequence, int]] = []
        """Those whose prompt the current step computes, or a part of it; and how much of it was computed before."""
        self._adapters = Adapters(self.params.max_loras, self.params.lora_load_s)
        # What is known of all decoding sequences together.
        self._decoding = 0
        self._context = 0
        """Sum of the tokens whose keys and values are computed, when the current step began."""
        self._needs = Needs(self.params.block_size)
        self._ends: list[tuple[int, int, Sequence]] = []
        """A heap of (step after which it has its last token, rank, sequence); entries of those who left early are void."""
        self._lazy: dict[Path, Sequence] = {}
        """Sequences whose path in the cache nobody else follows: it is only moved when somebody looks."""
        self._fed = _NOBODY
        """Who of the decoding ones, by rank, has the block that the step in progress or about to begin needs: all below."""
        self._watched = 0
        """The other decoding ones; while there are any, every step is taken by itself."""
        self._steps = 0
        """Steps that have ended, as far as accounts are settled."""
        self._plan: Plan | None = None
        """From the step in progress on; None: nothing is in progress."""
        self._blocked = False
        """Does the head of the queue wait for blocks."""
        self._left = 0
        """How many went on waiting when the last step had been filled."""
        self._shown = (0, 0, 0)
        """Running, blocks in use and waiting when the last step ended."""

    # What the owner of time calls.

    def submit(self, request: Work, now_s: float) -> None:
        """Queue a request; its first step begins at once if the engine is idle, else when the current step ends."""
        prompt, output = request.prompt_tokens, request.output_tokens
        if not prompt or not output:
            raise LabError(f"request {request.id} needs at least one prompt token and one output token")
        if prompt + output > self.params.context_tokens:
            raise TooLongError(f"{prompt + output} tokens do not fit a context of {self.params.context_tokens}")
        self._run_until(now_s)
        limit = self.params.max_num_queued_reqs
        if limit is not None and len(self._waiting) >= limit:
            self.tally.admission_rejections += 1
            raise QueueFullError(f"{limit} requests are waiting already")
        path = self.cache.path(*request.pieces(self.params.block_size))
        sequence = Sequence(request, path, now_s, prompt, output, request.adapter)
        self._has_adapters |= sequence.adapter is not None
        if request.remote:
            self._interrupt()  # a look at the cache may end what was taken for granted
            missing = prompt - self.cache.match(path, prompt)
            ready_s = now_s + self.params.transfer_s + self.params.transfer_token_s * missing
            heappush(self._arriving, (ready_s, next(self._ranks), sequence))
        else:
            self._enqueue(sequence)

    def abort(self, request_id: Hashable, now_s: float) -> bool:
        """Forget a request and free what it holds; False if it is not here (any more)."""
        self._run_until(now_s)
        everybody = (*self._running.values(), *self._waiting, *(entry[2] for entry in self._arriving))
        sequence = next((each for each in everybody if each.request.id == request_id), None)
        if sequence is None:
            return False
        self._interrupt()
        if self._running.get(sequence.rank) is sequence:
            self._leave(sequence)
        elif sequence in self._waiting:
            self._waiting.remove(sequence)
        else:
            self._arriving = sorted(entry for entry in self._arriving if entry[2] is not sequence)
        self._note_adapters()
        self.tally.request_success["abort"] += 1
        return True

    def waits(self, request_id: Hashable) -> bool:
        """Say whether a request is in the queue."""
        return any(sequence.request.id == request_id for sequence in self._waiting)

    def advance(self, now_s: float) -> list[Token]:
        """Every token to be told that came into being up to now and was not told yet, in order of time."""
        self._run_until(now_s)
        tokens, self._outbox = self._outbox, []
        return tokens

    def next_event_s(self) -> float | None:
        """When to look again: nothing will be told before; None while there is nothing to do."""
        plan = self._plan
        next_s = None if plan is None else plan.ends_s(self._steps + 1) if self._every_token else plan.until_s
        if self._arriving and (next_s is None or self._arriving[0][0] < next_s):
            return self._arriving[0][0]
        return next_s

    def slow(self, factor: float, now_s: float) -> None:
        """From the next step on the engine is so many times as fast as its parameters say."""
        self._run_until(now_s)
        self._factor = factor
        self._interrupt()

    def crash(self, now_s: float) -> list[Hashable]:
        """Lose everything; return the names of the requests that were here."""
        self._run_until(now_s)
        lost = [*self._running.values(), *self._waiting, *(entry[2] for entry in self._arriving)]
        self.cache.clear()
        self.encoder.clear()
        self._empty()
        self._note_adapters()
        return [sequence.request.id for sequence in lost]

    def gauges(self) -> Gauges:
        """The truth of this instant."""
        self._settle()
        return self._state(*self._seen())

    def reported(self) -> Gauges:
        """What a scrape shows: vLLM makes its figures when a step ends, before it sees who has arrived and fills the next.

        Within a leap that is the present: its steps are short, and nobody joins or leaves.
        """
        self._settle()
        first = self._plan is not None and self._steps == self._plan.step
        return self._state(*(self._shown if first else self._seen()))

    def _seen(self) -> tuple[int, int, int]:
        return len(self._running), self.cache.used, len(self._waiting)

    def _state(self, running: int, used: int, waiting: int) -> Gauges:
        deferred, running_adapters, waiting_adapters = 0, (), ()
        if self._has_adapters:
            adapters = [each.adapter for each in self._waiting]
            deferred = min(waiting, sum(map(self._adapters.bars, adapters)))
            running_adapters, waiting_adapters = self._adapters.names(adapters)
        kv_usage = used / self.cache.capacity
        return Gauges(running, waiting - deferred, deferred, kv_usage, running_adapters, waiting_adapters)

    # Time.

    def _run_until(self, now_s: float) -> None:
        if now_s < self._now_s:
            raise LabError(f"time went backwards: {now_s} after {self._now_s}")
        while True:
            plan, arriving = self._plan, self._arriving
            if arriving and arriving[0][0] <= now_s and (plan is None or arriving[0][0] < plan.until_s):
                self._now_s, _, sequence = heappop(arriving)
                self._enqueue(sequence)
            elif plan is not None and plan.until_s <= now_s:
                self._now_s = plan.until_s
                self._end_plan(plan)
                self._begin_step()
            else:
                break
        self._now_s = now_s
        if self._every_token:
            self._settle()

    def _settle(self) -> None:
        """Bring the accounts up to the present."""
        plan = self._plan
        if plan is not None and plan.until - self._steps > 1:
            self._glide(plan, plan.ended(self._now_s))

    def _interrupt(self) -> None:
        """End the plan with the step in progress."""
        self._settle()
        if self._plan is not None:
            self._plan.cut(self._steps + 1)

    def _glide(self, plan: Plan, step: int) -> None:
        """Account for the end of all steps up to this one, and for the beginning of the next if the plan goes on."""
        first = self._steps + 1
        begun = min(step + 1, plan.until) - first
        if begun > 0 and (blocks := self._needs.of(first, begun)):
            self.cache.take(blocks)
        if self._every_token:
            self._tell_steps(plan, first, step)
        self._context += self._decoding * (step + 1 - first)
        self._steps = step

    def _tell_steps(self, plan: Plan, first: int, last: int) -> None:
        tally, decoding = self.tally, [sequence for sequence in self._running.values() if sequence.decoding]
        for step in range(first, last + 1):
            at_s = plan.ends_s(step)
            for sequence in decoding:
                self._outbox.append(sequence.token(step - sequence.born, at_s))
                tally.inter_token_latency_seconds.observe(at_s - sequence.last_s)
                sequence.last_s = at_s
            if step < plan.until:
                tally.iteration_tokens_total.observe(len(decoding))
        tally.generation_tokens += len(decoding) * (last + 1 - first)

    # Steps.

    def _enqueue(self, sequence: Sequence) -> None:
        self._waiting.append(sequence)
        if self._plan is None:
            self._begin_step()
        elif not self._blocked and len(self._running) < self.params.max_num_seqs:
            self._interrupt()
        self._note_adapters()

    def _begin_step(self) -> None:
        """Fill the step that begins now, and plan how far it is from here to the next one that is different."""
        params = self.params
        self._shown = len(self._running), self.cache.used, self._left
        self._prefilling.clear()
        self._blocked = False
        preempted = self._feed_decoding() or self._feed_youngest()
        before_s = self._admit_waiting() if self._waiting and not preempted else 0.0
        self._left = len(self._waiting)
        self._note_adapters()
        if not self._running:
            return
        tokens, context, completing, pairs = 0, self._context, 0, 0.0
        for sequence, computed in self._prefilling:
            chunk = sequence.path.tokens - computed
            tokens += chunk
            context += computed
            if sequence.request.media:
                before_s += self.encoder.encode(sequence, computed)
            pairs += chunk * (computed + chunk / 2)
            # The last token of a prompt costs no more than one that is decoded.
            completing += sequence.path.tokens == sequence.prompt + sequence.generated
        decoding = self._decoding
        pace_s = params.pass_s(tokens - completing, decoding + len(self._prefilling), context, pairs)
        # The step after one that had to preempt may let somebody join.
        single = self._prefilling or self._watched or preempted
        self._plan = Plan(
            begins_s=self._now_s,
            step=self._steps,
            until=self._steps + (1 if single else self._longest_leap()),
            pace_s=(pace_s + before_s / params.speed) / self._factor,
            bend_s=params.context_token_s * decoding / params.speed / self._factor,
        )
        if self._every_token:
            self.tally.iteration_tokens_total.observe(decoding + tokens)

    def _longest_leap(self) -> int:
        """Steps until somebody ends or there is no block for somebody, with the one that has just been filled."""
        ends = self._ends
        while not (ends[0][2].decoding and ends[0][2].rank == ends[0][1]):
            heappop(ends)
        return self._needs.met(self._steps, ends[0][0] - self._steps, self.cache.free)

    def _feed_decoding(self) -> bool:
        """Rules 1 and 2 for those who decode: a block for whoever needs one. True if somebody had to go."""
        needed = self._needs.at(self._steps)
        if not self._watched and needed <= self.cache.free:
            if needed:
                self.cache.take(needed)
            self._fed = _EVERYBODY
            return False
        preempted = False
        for sequence in list(self._running.values()):
            if not sequence.decoding:  # the youngest, or one that had to go
                break
            while not self._feed(sequence):
                preempted = True
                if self._preempt_youngest() is sequence:
                    break
            else:
                self._fed = sequence.rank + 1
        self._fed = _EVERYBODY
        return preempted

    def _feed(self, sequence: Sequence) -> bool:
        tokens = sequence.prompt + self._steps - sequence.born
        if not sequence.path.lazy:
            return self.cache.extend(sequence.path, tokens)
        if (tokens - 1) % self.params.block_size == 0:
            if not self.cache.free:
                return False
            self.cache.take(1)
        return True

    def _feed_youngest(self) -> bool:
        """The same for the one whose prompt is being computed, if there is one."""
        sequence = next(reversed(self._running.values()), None)
        if sequence is None or sequence.decoding:
            return False
        computed = sequence.path.tokens
        wanted = sequence.prompt + sequence.generated - computed
        if not self.cache.extend(sequence.path, computed + min(wanted, self.params.max_num_batched_tokens - self._decoding)):
            self._preempt_youngest()
            return True
        self._prefilling.append((sequence, computed))
        return False

    def _admit_waiting(self) -> float:
        """Rules 3 and 4. Returns the seconds that it takes to load the adapters of those who join."""
        params, waiting, loading_s = self.params, self._waiting, 0.0
        budget = params.max_num_batched_tokens - self._decoding
        for sequence, computed in self._prefilling:
            budget -= sequence.path.tokens - computed
        aside: list[Sequence] = []
        while waiting and budget > 0 and len(self._running) < params.max_num_seqs:
            sequence = waiting[0]
            if self._adapters.bars(sequence.adapter):
                aside.append(waiting.popleft())
                continue
            length = sequence.prompt + sequence.generated
            here = sequence.request.remote and sequence.admitted_s is None
            cached = length - 1 if here else self.cache.match(sequence.path, length - 1)
            wanted = min(length - cached, budget)
            path = sequence.path
            part = cached + wanted < length
            if (part and not self.cache.fits(path, length)) or not self.cache.extend(path, cached + wanted):
                self._blocked = True
                break
            waiting.popleft()
            budget -= wanted
            sequence.rank = next(self._ranks)
            self._running[sequence.rank] = sequence
            self._prefilling.append((sequence, cached))
            if sequence.admitted_s is None:
                sequence.admitted_s = self._now_s
                sequence.cached = cached
                # A preempted request looks its prefix up again, but is not counted twice.
                self.tally.prefix_cache_queries += length
                self.tally.prefix_cache_hits += 0 if here else cached
            if sequence.adapter is not None:
                loading_s += self._adapters.join(sequence.adapter)
        waiting.extendleft(reversed(aside))
        return loading_s

    def _preempt_youngest(self) -> Sequence:
        sequence = next(reversed(self._running.values()))
        self._leave(sequence)
        sequence.preemptions += 1
        self.tally.num_preemptions += 1
        self._waiting.appendleft(sequence)
        return sequence

    def _leave(self, sequence: Sequence) -> None:
        """Give up seat and blocks."""
        path = sequence.path
        del self._running[sequence.rank]
        sequence.encoded = 0
        if sequence.decoding:
            sequence.generated = self._steps - sequence.born
            self._decoding -= 1
            self._context -= sequence.prompt + sequence.generated - 1
            self._needs.leave(sequence.born + 1 - sequence.prompt)
            if path.lazy:
                del self._lazy[path]
                self.cache.advance(path, self._held_tokens(sequence))
            else:
                self._watched -= 1
            sequence.decoding = False
        else:
            self._prefilling = [entry for entry in self._prefilling if entry[0] is not sequence]
        if sequence.adapter is not None:
            self._adapters.leave(sequence.adapter)
        self.cache.release(path)

    def _held_tokens(self, sequence: Sequence) -> int:
        """Tokens of a decoding sequence that have a place in its blocks, the one that is being computed included."""
        return sequence.prompt + self._steps - sequence.born - (sequence.rank >= self._fed)

    def _settle_path(self, path: Path) -> None:
        """Somebody else comes where this path grows: it is no longer enough to move it when somebody looks."""
        path.lazy = False
        self._watched += 1
        self.cache.advance(path, self._held_tokens(self._lazy.pop(path)))

    def _end_plan(self, plan: Plan) -> None:
        self._glide(plan, plan.until)
        if self._prefilling:
            self.encoder.finish()
        self._plan = None
        self._fed = _NOBODY
        ends = self._ends
        while ends and ends[0][0] <= self._steps:
            _, rank, sequence = heappop(ends)
            if sequence.decoding and sequence.rank == rank:
                self._leave(sequence)
                if self._every_token:
                    self.tally.count(sequence)
                else:
                    self._outbox.append(sequence.token(sequence.output, self._now_s))
        for sequence, _ in self._prefilling.copy():
            if sequence.path.tokens == sequence.prompt + sequence.generated:
                self._generate(sequence)

    def _generate(self, sequence: Sequence) -> None:
        """The token that a computed prompt yields, after which the sequence decodes."""
        now_s = self._now_s
        if self._every_token:
            self.tally.computed(sequence, now_s)
        if not sequence.generated:
            sequence.first_s = now_s
        sequence.generated += 1
        sequence.last_s = now_s
        if self._every_token or sequence.generated in (1, sequence.output):
            self._outbox.append(sequence.token(sequence.generated, now_s))
        if sequence.generated == sequence.output:
            self._leave(sequence)
            if self._every_token:
                self.tally.count(sequence)
            return
        sequence.decoding = True
        sequence.born = self._steps - sequence.generated
        self._decoding += 1
        self._context += sequence.path.tokens
        self._needs.join(sequence.born + 1 - sequence.prompt)
        heappush(self._ends, (sequence.born + sequence.output, sequence.rank, sequence))
        if self.cache.alone(sequence.path):
            sequence.path.lazy = True
            self._lazy[sequence.path] = sequence
        else:
            self._watched += 1

    def _note_adapters(self) -> None:
        if self._has_adapters and self._every_token:
            running, waiting = self._adapters.names(each.adapter for each in self._waiting)
            self.tally.adapters_seen_s[",".join(running), ",".join(waiting)] = self._now_s
