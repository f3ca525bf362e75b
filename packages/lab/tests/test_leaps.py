"""The engine leaps, its cache has no blocks, and neither can be told from an engine that does every step, token and block.

`Slow` is that engine: a direct transcription of the rules in the docstrings of `engine` and `cache`, per token and per block.
"""

import random
from collections import OrderedDict, deque
from itertools import accumulate

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter.lab.core.arrivals import Segment
from shunter.lab.core.engine import Engine
from shunter.lab.core.params import EngineParams
from shunter.lab.core.requests import Request, SegmentRequest


class Blocks:
    """Per block: who holds it, what is in it, and when it became free."""

    def __init__(self, params):
        self.size, self.caching = params.block_size, params.enable_prefix_caching
        self.capacity = self.blank = params.num_blocks - 1
        self.holders = {}  # content → sequences that hold it
        self.freed = OrderedDict()  # contents nobody holds, next to be forgotten first

    @property
    def free(self):
        return self.blank + len(self.freed)

    def match(self, contents):
        for found, content in enumerate(contents):
            if content not in self.holders and content not in self.freed:
                return found
        return len(contents)

    def more(self, sequence, tokens):
        full = sequence.contents(self)[sequence.held // self.size : tokens // self.size]
        return full, (tokens % self.size > 0) - (sequence.held % self.size > 0)

    def fits(self, sequence, tokens):
        full, parts = self.more(sequence, tokens)
        return sum(content not in self.holders for content in full) + parts <= self.free

    def extend(self, sequence, tokens):
        if not self.fits(sequence, tokens):
            return False
        full, fresh = self.more(sequence, tokens)
        for content in full:
            if content in self.freed:
                del self.freed[content]
            elif content not in self.holders:
                fresh += 1
            self.holders[content] = self.holders.get(content, 0) + 1
        self.blank -= fresh
        while self.blank < 0:
            self.freed.popitem(last=False)
            self.blank += 1
        sequence.held = tokens
        return True

    def release(self, sequence):
        self.blank += sequence.held % self.size > 0
        for content in reversed(sequence.contents(self)[: sequence.held // self.size]):
            self.holders[content] -= 1
            if not self.holders[content]:
                del self.holders[content]
                if self.caching:
                    self.freed[content] = None
                else:
                    self.blank += 1
        sequence.held = 0


def tokens_of(request):
    if isinstance(request, Request):
        return [*request.prompt, *request.output]
    return [(segment.id, at) for segment in (*request.prompt, request.output) for at in range(segment.tokens)]


class Life:
    def __init__(self, request, arrived_s):
        self.request, self.arrived_s = request, arrived_s
        self.prompt, self.output = request.prompt_tokens, request.output_tokens
        self.generated = self.held = self.scheduled = self.computed = self.cached = 0
        self.admitted = self.decoding = False
        self._contents = None

    @property
    def length(self):
        return self.prompt + self.generated

    def contents(self, blocks):
        if self._contents is None:
            tokens, size = tokens_of(self.request), blocks.size
            root = (self.request.adapter, getattr(self.request, "cache_salt", ""), None if blocks.caching else id(self))
            self._contents = list(
                accumulate(
                    (tuple(tokens[end - size : end]) for end in range(size, len(tokens) + 1, size)),
                    lambda parent, own: hash((parent, own)),
                    initial=hash(root),
                )
            )[1:]
        return self._contents


class Slow:
    """One step after the other."""

    def __init__(self, params):
        self.params, self.now_s, self.ends_s, self.factor = params, 0.0, None, 1.0
        self.reset()

    def reset(self):
        self.blocks, self.waiting, self.running, self.arriving = Blocks(self.params), deque(), [], []
        self.slots, self.told, self.ends_s = [], [], None

    def submit(self, request, now_s):
        self.run(now_s)
        life = Life(request, now_s)
        if request.remote:
            missing = life.prompt - self.params.block_size * self.blocks.match(
                life.contents(self.blocks)[: life.prompt // self.params.block_size]
            )
            ready_s = now_s + self.params.transfer_s + self.params.transfer_token_s * missing
            self.arriving = sorted([*self.arriving, (ready_s, life)], key=lambda entry: entry[0])
        else:
            self.join(life)

    def join(self, life):
        self.waiting.append(life)
        if self.ends_s is None:
            self.begin()

    def abort(self, name, now_s):
        self.run(now_s)
        for queue in (self.running, self.waiting):
            for life in list(queue):
                if life.request.id == name:
                    queue.remove(life)
                    self.blocks.release(life)
        self.arriving = [entry for entry in self.arriving if entry[1].request.id != name]

    def advance(self, now_s):
        self.run(now_s)
        told, self.told = self.told, []
        return told

    def slow(self, factor, now_s):
        self.run(now_s)
        self.factor = factor

    def crash(self, now_s):
        self.run(now_s)
        told = self.told
        lost = [life.request.id for life in (*self.running, *self.waiting, *(life for _, life in self.arriving))]
        self.reset()
        self.told = told
        return lost

    def run(self, now_s):
        while True:
            if self.arriving and self.arriving[0][0] <= now_s and (self.ends_s is None or self.arriving[0][0] < self.ends_s):
                self.now_s, life = self.arriving.pop(0)
                self.join(life)
            elif self.ends_s is not None and self.ends_s <= now_s:
                self.now_s, self.ends_s = self.ends_s, None
                self.end()
                self.begin()
            else:
                break
        self.now_s = now_s

    def begin(self):
        params, budget, preempted = self.params, self.params.max_num_batched_tokens, False
        for life in list(self.running):
            if life not in self.running:
                continue
            wanted = min(life.length - life.computed, budget)
            while not self.blocks.extend(life, life.computed + wanted):
                preempted = True
                victim = self.running.pop()
                self.blocks.release(victim)
                victim.computed = victim.scheduled = 0
                victim.decoding = False
                self.waiting.appendleft(victim)
                if victim is life:
                    break
            else:
                life.scheduled = wanted
                budget -= wanted
        loading_s, aside = 0.0, []
        while not preempted and self.waiting and budget and len(self.running) < params.max_num_seqs:
            life = self.waiting[0]
            adapter, adapters = life.request.adapter, {each.request.adapter for each in self.running} - {None}
            if adapter is not None and len(adapters | {adapter}) > params.max_loras:
                aside.append(self.waiting.popleft())
                continue
            known = params.block_size * self.blocks.match(life.contents(self.blocks)[: (life.length - 1) // params.block_size])
            cached = life.length - 1 if life.request.remote and not life.admitted else known
            wanted = min(life.length - cached, budget)
            if not self.blocks.fits(life, life.length):
                break
            self.blocks.extend(life, cached + wanted)
            self.running.append(self.waiting.popleft())
            if not life.admitted:
                life.cached, life.admitted = cached, True
            life.computed, life.scheduled = cached, wanted
            budget -= wanted
            if adapter is not None:
                if adapter in self.slots:
                    self.slots.remove(adapter)
                else:
                    loading_s += params.lora_load_s
                    if len(self.slots) == params.max_loras:
                        self.slots.remove(next(each for each in self.slots if each not in adapters))
                self.slots.append(adapter)
        self.waiting.extendleft(reversed(aside))
        if self.running:
            prefill = sum(life.scheduled - (life.computed + life.scheduled == life.length) for life in self.running)
            context = sum(life.computed for life in self.running)
            pairs = 0.0
            for life in self.running:
                if not life.decoding:
                    pairs += life.scheduled * (life.computed + life.scheduled / 2)
            pass_s = params.pass_s(prefill, len(self.running), context, pairs) + loading_s / params.speed
            self.ends_s = self.now_s + pass_s / self.factor

    def end(self):
        for life in list(self.running):
            life.computed += life.scheduled
            life.scheduled = 0
            if life.computed == life.length:
                life.generated += 1
                life.decoding = True
                last = life.generated == life.output
                self.told.append((life.request.id, life.generated - 1, self.now_s, last, life.cached))
                if last:
                    self.running.remove(life)
                    self.blocks.release(life)

    def gauges(self):
        return len(self.running), len(self.waiting), self.blocks.capacity - self.blocks.free


def told_by(engine, now_s):
    return [
        (token.id, token.index, token.at_s, token.finish is not None, token.cached_tokens) for token in engine.advance(now_s)
    ]


def gauges_of(engine):
    gauges = engine.gauges()
    return gauges.running, gauges.waiting, engine.cache.used


def same(told, expected):
    assert [each[:2] + each[3:] for each in told] == [each[:2] + each[3:] for each in expected]
    assert [each[2] for each in told] == pytest.approx([each[2] for each in expected], rel=1e-12, abs=1e-9)


# Few ids, so that prompts begin alike and answers are told twice; of one id one length. Some are shorter than a block.
SEGMENTS = [Segment(number, 1 + number * number * 7 % 23) for number in range(12)]
segments = st.sampled_from(SEGMENTS)
LONGEST = 4 * 23


@st.composite
def tight(draw):
    """Parameters with room for one or two long requests, so that blocks run out and contents are forgotten."""
    block_size = draw(st.integers(1, 8))
    return EngineParams(
        max_num_seqs=draw(st.integers(1, 8)),
        max_num_batched_tokens=draw(st.integers(1, 80)),
        block_size=block_size,
        num_blocks=2 + LONGEST // block_size + draw(st.integers(0, 2 * LONGEST)) // block_size,
        max_model_len=LONGEST,
        max_loras=draw(st.integers(1, 2)),
        enable_prefix_caching=draw(st.sampled_from([True, True, True, False])),
        lora_load_s=draw(st.sampled_from([0.0, 0.0317])),
        transfer_token_s=0.000517,
        context_token_s=draw(st.sampled_from([0.0, 0.00000044, 0.0001])),
    )


adapters = st.sampled_from([None, None, None, "a", "b", "c"])
prompts = st.lists(segments, min_size=1, max_size=3).map(tuple)
virtual = st.tuples(prompts, segments, adapters, st.sampled_from([False, False, False, True]))
# A multiple of an odd number of seconds: never the end of a step.
gaps_s = st.integers(0, 3000).map(lambda number: number * number * 0.0000000423456789)
events = st.one_of(
    st.tuples(st.just("submit"), virtual),
    st.tuples(st.just("submit"), virtual),
    st.tuples(st.just("submit"), virtual),
    st.tuples(st.just("abort"), st.integers(0, 20)),
    st.tuples(st.just("look"), st.none()),
    st.tuples(st.sampled_from(["slow", "crash"]), st.sampled_from([0.3, 1.0, 2.0])),
)
plans = st.lists(st.tuples(gaps_s, events), min_size=1, max_size=60)


def play(engine, told_by, gauges_of, plan, request_of):
    """Play a plan; returns what was told and the gauges seen."""
    now_s, submitted, told, seen = 0.0, 0, [], []
    for gap_s, (kind, what) in plan:
        now_s += gap_s
        if kind == "submit":
            engine.submit(request_of(submitted, *what), now_s)
            submitted += 1
        elif kind == "abort":
            engine.abort(what, now_s)
        elif kind == "look":
            told += told_by(engine, now_s)
        elif kind == "slow":
            engine.slow(what, now_s)
        else:
            seen.append(sorted(engine.crash(now_s)))
        seen.append(gauges_of(engine))
    told += told_by(engine, now_s + 10_000.0)
    seen.append(gauges_of(engine))
    return told, seen


def virtual_request(name, prompt, output, adapter, remote):
    return SegmentRequest(id=name, prompt=prompt, output=output, adapter=adapter, remote=remote)


def real_request(name, prompt, output, adapter, remote):
    def tokens(segments):
        return tuple(segment.id * 1000 + at for segment in segments for at in range(segment.tokens))

    return Request(id=name, prompt=tokens(prompt), output=tokens([output]), adapter=adapter, remote=remote)


@settings(max_examples=200)
@given(tight(), plans)
def test_leaps_end_where_steps_end(params, plan):
    expected, seen = play(Slow(params), Slow.advance, Slow.gauges, plan, virtual_request)
    told, found = play(Engine(params), told_by, gauges_of, plan, virtual_request)
    assert found == seen
    same(told, expected)
    told, found = play(Engine(params, every_token=False), told_by, gauges_of, plan, virtual_request)
    assert found == seen
    same(told, [each for each in expected if each[1] == 0 or each[3]])


@given(tight(), plans)
def test_real_tokens_make_no_difference(params, plan):
    """A server knows the tokens, a simulation only where they are the same; both have the same hits and the same times."""
    expected, seen = play(Slow(params), Slow.advance, Slow.gauges, plan, real_request)
    told, found = play(Engine(params), told_by, gauges_of, plan, real_request)
    assert found == seen
    same(told, expected)


@pytest.mark.parametrize("seed", range(40))
def test_a_long_crowded_run_ends_the_same(seed):
    """What a short plan seldom reaches: queues before a full cache, and contents that are half forgotten and hit again."""
    dice = random.Random(seed)
    crowded = EngineParams(
        max_num_seqs=dice.choice([3, 8, 20]),
        max_num_batched_tokens=dice.choice([7, 40, 200]),
        block_size=dice.choice([1, 2, 5, 8]),
        num_blocks=200 // dice.choice([1, 2]),
        max_model_len=LONGEST,
        max_loras=2,
    )
    plan = []
    for _ in range(250):
        prompt = tuple(SEGMENTS[min(dice.randrange(12), dice.randrange(12))] for _ in range(dice.choice([1, 2, 3, 3])))
        adapter = dice.choice([None] * 8 + ["a", "b", "c"])
        plan.append(
            (dice.random() * dice.choice([0.0, 0.01, 0.2, 0.4]), ("submit", (prompt, dice.choice(SEGMENTS), adapter, False)))
        )
        if dice.random() < 0.05:
            plan.append((0.0, ("abort", dice.randrange(len(plan)))))
    slow = Slow(crowded)
    expected, seen = play(slow, Slow.advance, Slow.gauges, plan, virtual_request)
    told, found = play(Engine(crowded, every_token=False), told_by, gauges_of, plan, virtual_request)
    assert found == seen
    same(told, [each for each in expected if each[1] == 0 or each[3]])
