"""The engine's numbers are consequences of its load."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter.lab.core.engine import Engine
from shunter.lab.core.params import EngineParams, params_from
from shunter.lab.core.requests import Request
from shunter.lab.errors import LabError, ParamsError, QueueFullError, TooLongError


def test_more_requests_than_seats_run_and_wait(request_of, finish):
    engine = Engine(EngineParams(max_num_seqs=4))
    for index in range(16):
        engine.submit(request_of(index, seed=index), 0.0)
    engine.advance(engine.next_event_s())
    gauges = engine.gauges()
    assert (gauges.running, gauges.waiting) == (4, 12)
    finish(engine)
    gauges = engine.gauges()
    assert (gauges.running, gauges.waiting, gauges.kv_usage) == (0, 0, 0.0)


def test_four_short_requests_hold_four_blocks_of_255(request_of):
    """The usage a real vLLM 0.32 showed in this situation: 0.0156862745, with one null block among 256."""
    engine = Engine(EngineParams(block_size=32, num_blocks=256))
    for index in range(4):
        engine.submit(request_of(index, 8, 20, seed=index), 0.0)
    engine.advance(engine.next_event_s())
    assert engine.gauges().kv_usage == pytest.approx(0.015686274509803977)


def test_the_cache_fills_while_sequences_grow(request_of):
    engine = Engine(EngineParams(block_size=4, num_blocks=100))
    engine.submit(request_of("r", 4, 200), 0.0)
    usages = []
    while (next_s := engine.next_event_s()) is not None:
        engine.advance(next_s)
        usages.append(engine.gauges().kv_usage)
    assert usages[-1] == 0.0
    assert usages[:-1] == sorted(usages[:-1])
    assert usages[-2] > 0.5


@pytest.mark.parametrize(("prompt", "cached"), [(127, 96), (128, 96), (129, 128), (31, 0), (32, 0), (33, 32)])
def test_a_repeated_prompt_hits_its_full_blocks_but_computes_its_last_token(request_of, finish, prompt, cached):
    """127 tokens in blocks of 32 hit 96, as measured on vLLM 0.32; a prompt of full blocks computes its last block again."""
    engine = Engine(EngineParams(block_size=32))
    engine.submit(request_of("first", prompt, 4), 0.0)
    finish(engine)
    engine.submit(request_of("again", prompt, 4), engine.tally.adapters_seen_s["", ""] + 100.0)
    tokens = finish(engine)
    assert engine.tally.prefix_cache_queries == 2 * prompt
    assert engine.tally.prefix_cache_hits == cached
    assert {token.cached_tokens for token in tokens} == {cached}


def test_a_cached_prompt_answers_sooner(request_of, finish):
    engine = Engine(EngineParams())
    engine.submit(request_of("cold", 1600, 2), 0.0)
    cold = finish(engine)
    engine.submit(request_of("warm", 1600, 2), 100.0)
    warm = finish(engine)
    assert warm[0].at_s - 100.0 < cold[0].at_s / 5


def test_adapters_and_salts_do_not_share_a_prefix(request_of, finish):
    engine = Engine(EngineParams(block_size=4))
    for at_s, fields in enumerate([{}, {"adapter": "a"}, {"adapter": "b"}, {"cache_salt": "s"}]):
        engine.submit(request_of(at_s, 40, 2, **fields), 100.0 * at_s)
        finish(engine)
    assert engine.tally.prefix_cache_hits == 0
    engine.submit(request_of("again", 40, 2, adapter="a"), 1000.0)
    finish(engine)
    assert engine.tally.prefix_cache_hits == 36


def test_generated_tokens_are_a_prefix_for_the_next_turn(request_of, finish):
    engine = Engine(EngineParams(block_size=4))
    first = request_of("first", 8, 9)
    engine.submit(first, 0.0)
    finish(engine)
    engine.submit(Request(id="next", prompt=(*first.prompt, *first.output, 1, 2, 3), output=(1,)), 100.0)
    finish(engine)
    assert engine.tally.prefix_cache_hits == 16, "8 prompt tokens and the 8 generated ones whose keys were computed"


def test_a_long_prompt_is_prefilled_in_chunks_beside_decoding(request_of, finish):
    engine = Engine(EngineParams(max_num_batched_tokens=100))
    engine.submit(request_of("short", 10, 50), 0.0)
    engine.advance(engine.next_event_s())
    engine.submit(request_of("long", 1000, 2, seed=1), engine._now_s)
    tokens = finish(engine)
    first_of_long = next(index for index, token in enumerate(tokens) if token.id == "long")
    assert sum(token.id == "short" for token in tokens[:first_of_long]) >= 10
    assert (
        max(
            bound
            for bound, count in zip(
                (*engine.tally.iteration_tokens_total.bounds, math.inf), engine.tally.iteration_tokens_total.counts, strict=True
            )
            if count
        )
        <= 128
    )


def test_a_bigger_batch_and_a_longer_prompt_take_longer():
    params = EngineParams()
    assert params.pass_s(0, 1, 0) < params.pass_s(0, 64, 0) < params.pass_s(0, 64, 50_000) < params.pass_s(2048, 64, 50_000)
    assert EngineParams(speed=10.0).pass_s(100, 8, 1000) == pytest.approx(params.pass_s(100, 8, 1000) / 10)


def test_a_full_batch_still_answers_faster_together_than_in_a_row(request_of, finish):
    def seconds(seats):
        engine = Engine(EngineParams(max_num_seqs=seats))
        for index in range(16):
            engine.submit(request_of(index, 50, 50, seed=index), 0.0)
        return finish(engine)[-1].at_s

    assert seconds(16) < seconds(1) / 8


def test_saturation_preempts_and_loses_nobody(request_of, finish):
    """48 usable blocks of 32 and 20 requests, as a real vLLM was driven: full cache, preemptions, no failure."""
    engine = Engine(EngineParams(block_size=32, num_blocks=49, max_num_seqs=20))
    for index in range(20):
        engine.submit(request_of(index, 40, 200, seed=index), 0.0)
    fullest, tokens = 0.0, []
    while (next_s := engine.next_event_s()) is not None:
        tokens += engine.advance(next_s)
        fullest = max(fullest, engine.gauges().kv_usage)
    assert fullest == 1.0
    assert engine.tally.num_preemptions > 0
    for index in range(20):
        assert [token.index for token in tokens if token.id == str(index)] == list(range(200))
    assert engine.tally.request_success["length"] == 20
    assert engine.gauges().kv_usage == 0.0
    assert engine.tally.prefix_cache_queries == 20 * 40, "recomputing is not asking the cache again"


def test_the_youngest_is_preempted_and_goes_to_the_head_of_the_queue(request_of):
    engine = Engine(EngineParams(block_size=4, num_blocks=9, max_num_seqs=2, max_model_len=32))
    engine.submit(request_of("old", 12, 20, seed=1), 0.0)
    engine.submit(request_of("young", 12, 20, seed=2), 0.0)
    engine.submit(request_of("later", 4, 4, seed=3), 0.0)
    while not engine.tally.num_preemptions:
        engine.advance(engine.next_event_s())
    assert [sequence.request.id for sequence in engine._running.values()] == ["old"]
    assert [sequence.request.id for sequence in engine._waiting] == ["young", "later"]


def test_an_abort_frees_seat_and_blocks_at_once(request_of, finish):
    engine = Engine(EngineParams(max_num_seqs=1))
    engine.submit(request_of("running", 100, 1000), 0.0)
    engine.submit(request_of("waiting", 100, 10, seed=1), 0.0)
    engine.advance(1.0)
    assert engine.abort("running", 1.0)
    assert (engine.gauges().running, engine.gauges().waiting, engine.gauges().kv_usage) == (0, 1, 0.0)
    assert not engine.abort("running", 1.0)
    assert {token.id for token in finish(engine)} == {"waiting"}
    assert engine.tally.request_success["abort"] == 1


def test_an_aborted_waiting_request_leaves_the_queue(request_of):
    engine = Engine(EngineParams(max_num_seqs=1))
    engine.submit(request_of("running", 100, 1000), 0.0)
    engine.submit(request_of("waiting", 100, 10, seed=1), 0.0)
    engine.abort("waiting", 0.5)
    assert (engine.gauges().running, engine.gauges().waiting) == (1, 0)


def test_an_adapter_too_many_waits_without_blocking_others(request_of, finish):
    engine = Engine(EngineParams(max_loras=2))
    for index, adapter in enumerate(["a", "b", "c", "d", "a", None, "c"]):
        engine.submit(request_of(index, 8, 20, seed=index, adapter=adapter), 0.0)
    engine.advance(engine.next_event_s())
    gauges = engine.gauges()
    assert gauges.running_adapters == ("a", "b")
    assert gauges.waiting_adapters == ("c", "d")
    assert (gauges.running, gauges.waiting_deferred, gauges.waiting_capacity) == (4, 3, 0)
    assert {token.id for token in finish(engine) if token.finish} == set("0123456")
    assert ("a,b", "c,d") in engine.tally.adapters_seen_s
    assert engine.gauges().running_adapters == engine.gauges().waiting_adapters == ()


def test_an_adapter_that_starts_at_once_was_never_waiting(request_of):
    """Two series of one instant would leave a reader, who takes the newest, to guess."""
    engine = Engine(EngineParams())
    engine.submit(request_of("r", adapter="a"), 1.0)
    assert engine.tally.adapters_seen_s == {("", ""): 0.0, ("a", ""): 1.0}


def test_a_full_queue_refuses(request_of):
    engine = Engine(EngineParams(max_num_seqs=1, max_num_queued_reqs=2))
    for index in range(3):
        engine.submit(request_of(index, 8, 20, seed=index), 0.0)
    with pytest.raises(QueueFullError, match="2 requests are waiting"):
        engine.submit(request_of("one too many"), 0.0)
    assert engine.tally.admission_rejections == 1
    assert engine.gauges().waiting == 2


def test_what_can_never_run_is_refused(request_of):
    engine = Engine(EngineParams(max_model_len=100))
    with pytest.raises(TooLongError, match="101 tokens do not fit a context of 100"):
        engine.submit(request_of("r", 81, 20), 0.0)
    with pytest.raises(LabError, match="at least one"):
        engine.submit(request_of("r", 0, 20), 0.0)
    with pytest.raises(LabError, match="backwards"):
        engine.advance(1.0) or engine.advance(0.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_num_seq": 4}, "max_num_seq: no such engine parameter; near: max_num_seqs"),
        ({"max_num_seqs": 0}, "max_num_seqs must be at least 1, got 0"),
        ({"num_blocks": 1}, "at least 2"),
        ({"num_blocks": 10, "max_model_len": 145}, "hold 144; raise num_blocks or lower max_model_len"),
        ({"num_blocks": 2, "block_size": 1}, "a context of 1 has no room"),
        ({"max_model_len": 1}, "a context of 1 has no room"),
        ({"speed": 0.0}, "speed must be a positive number"),
        ({"speed": math.nan}, "speed must be a positive number"),
        ({"step_s": -1.0}, "step_s must be a number of seconds"),
        ({"block_size": "16"}, r"Expected `int`, got `str` - at `\$.block_size`"),
    ],
)
def test_impossible_parameters_are_named(values, message):
    with pytest.raises(ParamsError, match=message):
        params_from(values)


def test_the_tally_agrees_with_what_clients_saw(request_of, finish):
    engine = Engine(EngineParams(max_num_seqs=3))
    for index in range(10):
        engine.submit(request_of(index, 20 + index, 5, seed=index, finish="stop"), 0.0)
    tokens = finish(engine)
    tally = engine.tally
    assert tally.generation_tokens == len(tokens) == 50
    assert tally.prompt_tokens == sum(range(20, 30))
    assert tally.request_success["stop"] == tally.e2e_request_latency_seconds.count == 10
    assert tally.time_to_first_token_seconds.count == 10
    assert tally.inter_token_latency_seconds.count == 40
    assert tally.e2e_request_latency_seconds.sum == pytest.approx(sum(token.at_s for token in tokens if token.finish))
    assert tally.request_queue_time_seconds.sum + tally.request_inference_time_seconds.sum == pytest.approx(
        tally.e2e_request_latency_seconds.sum
    )


arrivals = st.lists(
    st.tuples(
        st.floats(0.0, 0.3),
        st.integers(1, 60),
        st.integers(1, 30),
        st.integers(0, 2),
        st.sampled_from([None, None, "a", "b"]),
        st.one_of(st.none(), st.none(), st.floats(0.0, 0.5)),
    ),
    min_size=1,
    max_size=25,
)
engines = st.builds(
    EngineParams,
    max_num_seqs=st.integers(1, 6),
    max_num_batched_tokens=st.integers(1, 80),
    block_size=st.integers(1, 8),
    num_blocks=st.integers(92, 130),
    max_model_len=st.just(90),
    enable_prefix_caching=st.booleans(),
)


def play(params: EngineParams, plan, grain_s: float | None):
    """Drive an engine through a plan of (gap, prompt, output, seed, adapter, abort after), checking it at every stop."""
    engine, now_s, outstanding, tokens, aborts = Engine(params), 0.0, set(), [], []

    def reach(until_s: float) -> None:
        nonlocal now_s
        while now_s < until_s:
            next_s = engine.next_event_s()
            stop_s = until_s if grain_s is None or next_s is None else min(until_s, max(next_s, now_s + grain_s))
            if aborts and aborts[0][0] <= stop_s:
                stop_s = aborts[0][0]
            now_s = max(now_s, stop_s)
            tokens.extend(new := engine.advance(now_s))
            outstanding.difference_update(token.id for token in new if token.finish)
            while aborts and aborts[0][0] <= now_s:
                _, name = aborts.pop(0)
                assert engine.abort(name, now_s) == (name in outstanding)
                outstanding.discard(name)
            check(engine, outstanding)

    for index, (gap_s, prompt, output, seed, adapter, abort_s) in enumerate(plan):
        reach(now_s + gap_s)
        request = Request(id=str(index), prompt=range(seed * 1000, seed * 1000 + prompt), output=range(output), adapter=adapter)
        engine.submit(request, now_s)
        outstanding.add(request.id)
        if abort_s is not None:
            aborts.append((now_s + abort_s, request.id))
            aborts.sort()
        check(engine, outstanding)
    reach(now_s + 10_000.0)
    assert engine.next_event_s() is None
    assert not outstanding
    assert engine.cache.used == 0
    return tokens


def check(engine: Engine, outstanding: set[str]) -> None:
    gauges = engine.gauges()
    assert gauges.running + gauges.waiting == len(outstanding)
    assert gauges.running <= engine.params.max_num_seqs
    assert 0.0 <= gauges.kv_usage <= 1.0
    assert len(gauges.running_adapters) <= engine.params.max_loras
    assert all(not sequence.path.tokens for sequence in engine._waiting)


@given(engines, arrivals)
def test_whatever_arrives_every_request_ends_and_every_block_returns(params, plan):
    tokens = play(params, plan, grain_s=0.0)
    for index, (_, _, output, _, _, abort_s) in enumerate(plan):
        mine = [token for token in tokens if token.id == str(index)]
        assert [token.index for token in mine] == list(range(len(mine)))
        assert len(mine) == output or abort_s is not None
        assert [token.finish for token in mine[:-1]] == [None] * len(mine[:-1])


@settings(max_examples=50)
@given(engines, arrivals, st.sampled_from([None, 0.01, 0.1, 1.0]))
def test_how_often_one_looks_changes_nothing(params, plan, grain_s):
    """Abort times are points one has to stop at, so this plays without them."""
    plan = [(*arrival[:5], None) for arrival in plan]
    assert play(params, plan, grain_s=grain_s) == play(params, plan, grain_s=0.0)


def test_a_scrape_sees_the_last_step_that_ended(request_of):
    """While a prompt is computed the batch before it is shown, and nobody who has come since is waiting yet."""
    engine = Engine(EngineParams(max_num_seqs=1, prefill_token_s=0.1))
    engine.submit(request_of("a", seed=1), 0.0)
    engine.submit(request_of("b", seed=2), 0.1)
    assert (engine.gauges().running, engine.gauges().waiting) == (1, 1)
    reported = engine.reported()
    assert (reported.running, reported.waiting, reported.kv_usage) == (0, 0, 0.0)
    for waiting in (0, 1):
        engine.advance(engine.next_event_s())
        assert (engine.reported().running, engine.reported().waiting) == (1, waiting)
    engine.advance(1000.0)
    assert engine.reported() == engine.gauges()
