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
3. Then the queue, first come first served, while the batch has a seat, tokens and blocks. A request whose adapter would be
   one too many steps aside without blocking those behind it.
4. What the prefix cache knows is not computed again, but the last token always is: it has to be sampled from.
5. A sequence that ends frees its blocks at once; their contents stay known until they are reused.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from shunter.lab.core.blocks import BlockPool, chain, chain_root
from shunter.lab.core.params import EngineParams
from shunter.lab.core.tally import Tally
from shunter.lab.errors import LabError, QueueFullError, TooLongError

__all__ = ["Engine", "Gauges", "Request", "Token"]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt and the answer it will get; the engine decides only when."""

    id: str
    prompt: Sequence[int]
    output: Sequence[int]
    finish: Literal["stop", "length"] = "length"
    adapter: str | None = None
    cache_salt: str = ""
    max_tokens: int | None = None
    """What the client asked for, if that was more than it gets. None: the length of the output."""


class Token(msgspec.Struct, frozen=True):
    """The index-th output token of a request exists since `at_s`; the last one says why it is the last."""

    id: str
    index: int
    at_s: float
    finish: Literal["stop", "length"] | None
    cached_tokens: int
    """Prompt tokens of the request that came from the prefix cache."""


class Gauges(msgspec.Struct, frozen=True):
    """The state of the engine this instant."""

    running: int
    waiting_capacity: int
    waiting_deferred: int
    kv_usage: float
    running_adapters: tuple[str, ...]
    waiting_adapters: tuple[str, ...]

    @property
    def waiting(self) -> int:
        return self.waiting_capacity + self.waiting_deferred


class _Sequence(msgspec.Struct, eq=False):
    """The life of one request inside the engine."""

    request: Request
    arrived_s: float
    admitted_s: float | None = None
    first_s: float = 0.0
    last_s: float = 0.0
    generated: int = 0
    computed: int = 0
    """Tokens whose keys and values are in the blocks."""
    scheduled: int = 0
    """Tokens that the current step computes."""
    cached: int = 0
    preemptions: int = 0
    blocks: list[int] = msgspec.field(default_factory=list[int])
    learned: int = 0
    """Leading blocks that the prefix cache was told about."""
    contents: list[int] = msgspec.field(default_factory=list[int])

    @property
    def length(self) -> int:
        return len(self.request.prompt) + self.generated

    def block_contents(self, block_size: int) -> list[int]:
        """Content of every full block of the tokens known so far; grows with the sequence, computed once."""
        full = self.length // block_size
        if len(self.contents) < full:
            prompt, output = self.request.prompt, self.request.output
            parent = self.contents[-1] if self.contents else chain_root(self.request.adapter, self.request.cache_salt)
            for index in range(len(self.contents), full):
                start, end = index * block_size, (index + 1) * block_size
                tokens = (
                    *prompt[start:end],
                    *output[max(0, start - len(prompt)) : max(0, end - len(prompt))],
                )
                parent = chain(parent, tokens)
                self.contents.append(parent)
        return self.contents


class Engine:
    """One model server's engine."""

    def __init__(self, params: EngineParams, now_s: float = 0.0) -> None:
        self.params = params
        self.tally = Tally(params.context_tokens)
        self.pool = BlockPool(params.num_blocks, caching=params.enable_prefix_caching)
        self._now_s = now_s
        self._waiting: deque[_Sequence] = deque()
        self._running: list[_Sequence] = []
        self._step_ends_s: float | None = None
        self._outbox: list[Token] = []
        self._has_adapters = False
        self.tally.adapters_seen_s["", ""] = now_s

    # What the owner of time calls.

    def submit(self, request: Request, now_s: float) -> None:
        """Queue a request; its first step begins at once if the engine is idle, else when the current step ends."""
        if not request.prompt or not request.output:
            raise LabError(f"request {request.id}: a request needs at least one prompt token and one output token")
        length = len(request.prompt) + len(request.output)
        if length > self.params.context_tokens:
            raise TooLongError(f"{length} tokens do not fit a context of {self.params.context_tokens}")
        self._run_until(now_s)
        limit = self.params.max_num_queued_reqs
        if limit is not None and len(self._waiting) >= limit:
            self.tally.admission_rejections += 1
            raise QueueFullError(f"{limit} requests are waiting already")
        self._has_adapters |= request.adapter is not None
        self._waiting.append(_Sequence(request, now_s))
        self._begin_step()
        self._note_adapters()

    def abort(self, request_id: str, now_s: float) -> bool:
        """Forget a request and free what it holds; False if it is not here (any more)."""
        self._run_until(now_s)
        for queue in (self._running, self._waiting):
            for sequence in queue:
                if sequence.request.id == request_id:
                    queue.remove(sequence)
                    self.pool.release(sequence.blocks)
                    self._note_adapters()
                    return True
        return False

    def advance(self, now_s: float) -> list[Token]:
        """Every token that came into being up to now and was not reported yet, in order of time."""
        self._run_until(now_s)
        tokens, self._outbox = self._outbox, []
        return tokens

    def next_event_s(self) -> float | None:
        """When the next step ends; None while there is nothing to do."""
        return self._step_ends_s

    def gauges(self) -> Gauges:
        deferred = sum(1 for _ in self._deferred())
        running, waiting = self._adapters()
        return Gauges(
            running=len(self._running),
            waiting_capacity=len(self._waiting) - deferred,
            waiting_deferred=deferred,
            kv_usage=self.pool.usage,
            running_adapters=running,
            waiting_adapters=waiting,
        )

    # Steps.

    def _run_until(self, now_s: float) -> None:
        if now_s < self._now_s:
            raise LabError(f"time went backwards: {now_s} after {self._now_s}")
        while self._step_ends_s is not None and self._step_ends_s <= now_s:
            self._now_s = self._step_ends_s
            self._step_ends_s = None
            self._end_step()
            self._begin_step()
        self._now_s = now_s

    def _begin_step(self) -> None:
        if self._step_ends_s is not None:
            return
        budget, preempted = self._schedule_running()
        if not preempted:
            self._schedule_waiting(budget)
        self._note_adapters()
        if not self._running:
            return
        prefill = context = sequences = tokens = 0
        for sequence in self._running:
            if sequence.scheduled:
                sequences += 1
                tokens += sequence.scheduled
                context += sequence.computed
                # A decoding sequence computes its one newest token; all others are prompt (or recomputed) tokens.
                prefill += sequence.scheduled - (sequence.computed + sequence.scheduled == sequence.length)
        self.tally.iteration_tokens_total.observe(tokens)
        self._step_ends_s = self._now_s + self.params.pass_s(prefill, sequences, context)

    def _schedule_running(self) -> tuple[int, bool]:
        """Rules 1 and 2. Returns the tokens left in the step, and whether somebody had to go."""
        budget = self.params.max_num_batched_tokens
        preempted = False
        index = 0
        while index < len(self._running):
            sequence = self._running[index]
            wanted = min(sequence.length - sequence.computed, budget)
            while not self._grow(sequence, wanted):
                preempted = True
                victim = self._running.pop()
                self._preempt(victim)
                if victim is sequence:
                    return budget, preempted
            sequence.scheduled = wanted
            budget -= wanted
            index += 1
        return budget, preempted

    def _schedule_waiting(self, budget: int) -> None:
        """Rules 3 and 4."""
        adapters = {sequence.request.adapter for sequence in self._running} - {None}
        aside: list[_Sequence] = []
        while self._waiting and budget > 0 and len(self._running) < self.params.max_num_seqs:
            sequence = self._waiting[0]
            adapter = sequence.request.adapter
            if adapter is not None and adapter not in adapters and len(adapters) >= self.params.max_loras:
                aside.append(self._waiting.popleft())
                continue
            known = sequence.block_contents(self.params.block_size)[: (sequence.length - 1) // self.params.block_size]
            hits = self.pool.match(known)
            cached = len(hits) * self.params.block_size
            wanted = min(sequence.length - cached, budget)
            if not self._grow(sequence, wanted, hits):
                break
            self._waiting.popleft()
            self._running.append(sequence)
            self._admit(sequence, cached)
            sequence.scheduled = wanted
            budget -= wanted
            if adapter is not None:
                adapters.add(adapter)
        self._waiting.extendleft(reversed(aside))

    def _admit(self, sequence: _Sequence, cached: int) -> None:
        sequence.computed = cached
        if sequence.admitted_s is None:
            sequence.admitted_s = self._now_s
            sequence.cached = cached
            # A preempted request looks its prefix up again, but is not counted twice.
            self.tally.prefix_cache_queries += sequence.length
            self.tally.prefix_cache_hits += cached

    def _grow(self, sequence: _Sequence, tokens: int, hits: Sequence[int] = ()) -> bool:
        """Blocks for so many more tokens (after the hits of a sequence that has none yet); False if they are not there."""
        size = self.params.block_size
        computed = sequence.computed + len(hits) * size
        held = len(sequence.blocks) + len(hits)
        fresh = self.pool.take(hits, max(0, -(-(computed + tokens) // size) - held))
        if fresh is None:
            return False
        sequence.blocks += [*hits, *fresh]
        sequence.learned += len(hits)
        # Blocks are known from the moment they are scheduled: who comes later in the same step may already share them.
        contents = sequence.block_contents(size)
        for index in range(sequence.learned, (computed + tokens) // size):
            self.pool.learn(sequence.blocks[index], contents[index])
            sequence.learned = index + 1
        return True

    def _preempt(self, sequence: _Sequence) -> None:
        self.pool.release(sequence.blocks)
        sequence.blocks = []
        sequence.computed = sequence.scheduled = sequence.learned = 0
        sequence.preemptions += 1
        self.tally.num_preemptions += 1
        self._waiting.appendleft(sequence)

    def _end_step(self) -> None:
        staying: list[_Sequence] = []
        for sequence in self._running:
            sequence.computed += sequence.scheduled
            generates = sequence.scheduled and sequence.computed == sequence.length
            sequence.scheduled = 0
            if generates and self._generate(sequence):
                self.pool.release(sequence.blocks)
            else:
                staying.append(sequence)
        self._running = staying

    def _generate(self, sequence: _Sequence) -> bool:
        """One more token; True if it was the last."""
        request, now_s, tally = sequence.request, self._now_s, self.tally
        tally.generation_tokens += 1
        if sequence.generated == 0:
            tally.prompt_tokens += len(request.prompt)
            tally.prompt_tokens_cached += sequence.cached
            tally.time_to_first_token_seconds.observe(now_s - sequence.arrived_s)
            sequence.first_s = now_s
        else:
            tally.inter_token_latency_seconds.observe(now_s - sequence.last_s)
        sequence.last_s = now_s
        sequence.generated += 1
        last = sequence.generated == len(request.output)
        finish = request.finish if last else None
        self._outbox.append(Token(request.id, sequence.generated - 1, now_s, finish, sequence.cached))
        if last:
            self._count_finished(sequence)
        return last

    def _count_finished(self, sequence: _Sequence) -> None:
        request, tally = sequence.request, self.tally
        admitted_s = sequence.arrived_s if sequence.admitted_s is None else sequence.admitted_s
        decode_s = sequence.last_s - sequence.first_s
        tally.request_success[request.finish] += 1
        tally.request_prompt_tokens.observe(len(request.prompt))
        tally.request_generation_tokens.observe(sequence.generated)
        tally.request_params_max_tokens.observe(len(request.output) if request.max_tokens is None else request.max_tokens)
        tally.request_prefill_kv_computed_tokens.observe(len(request.prompt) - sequence.cached)
        tally.request_num_preemptions.observe(sequence.preemptions)
        tally.e2e_request_latency_seconds.observe(sequence.last_s - sequence.arrived_s)
        tally.request_queue_time_seconds.observe(admitted_s - sequence.arrived_s)
        tally.request_inference_time_seconds.observe(sequence.last_s - admitted_s)
        tally.request_prefill_time_seconds.observe(sequence.first_s - admitted_s)
        tally.request_decode_time_seconds.observe(decode_s)
        if sequence.generated > 1:
            tally.request_time_per_output_token_seconds.observe(decode_s / (sequence.generated - 1))

    # Adapters.

    def _deferred(self) -> Iterator[_Sequence]:
        """Waiting requests that a free seat would not help: their adapter would be one too many."""
        adapters = {sequence.request.adapter for sequence in self._running} - {None}
        if len(adapters) >= self.params.max_loras:
            for sequence in self._waiting:
                if sequence.request.adapter is not None and sequence.request.adapter not in adapters:
                    yield sequence

    def _adapters(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        running = {s.request.adapter for s in self._running if s.request.adapter is not None}
        waiting = {s.request.adapter for s in self._waiting if s.request.adapter is not None}
        return tuple(sorted(running)), tuple(sorted(waiting))

    def _note_adapters(self) -> None:
        if not self._has_adapters:
            return
        running, waiting = self._adapters()
        self.tally.adapters_seen_s[",".join(running), ",".join(waiting)] = self._now_s
