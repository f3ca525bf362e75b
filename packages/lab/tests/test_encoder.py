"""An engine encodes what a step needs and nobody has encoded yet, and the step takes that much longer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.lab.core.arrivals import Segment
from shunter.lab.core.engine import Engine
from shunter.lab.core.media import Medium
from shunter.lab.core.params import EngineParams
from shunter.lab.core.requests import Request, SegmentRequest
from shunter.lab.errors import ParamsError

PARAMS = EngineParams(media_tokens=20, encode_s=1.0, block_size=4, num_blocks=400, max_model_len=500)


class Shelf:
    """A storage that may be full."""

    def __init__(self, *keys, full=False):
        self.keys, self.full = {*keys}, full

    def holds(self, key):
        return key in self.keys

    def store(self, key, tokens):
        assert tokens == PARAMS.media_tokens
        self.keys |= set() if self.full else {key}
        return not self.full


def showing(name, *keys, text=7, begin=0, **fields):
    """A prompt of text with a picture after each stretch of it."""
    prompt, media = [], []
    for key in keys:
        prompt += range(begin, begin + text)
        media.append(Medium(key, len(prompt), PARAMS.media_tokens))
        prompt += [hash((key, at)) for at in range(PARAMS.media_tokens)]
    return Request(id=name, prompt=(*prompt, 1, 2, 3), output=(1, 2), media=media, **fields)


@pytest.fixture
def ask(finish):
    """Run one request; returns how long its first token took."""

    def run(engine, request):
        now_s = engine._now_s
        engine.submit(request, now_s)
        return finish(engine)[0].at_s - now_s

    return run


def test_a_picture_makes_the_step_longer_by_what_encoding_takes(ask):
    with_picture, without = showing("r", "cat"), showing("r", "cat")
    without = Request(id="r", prompt=without.prompt, output=without.output)
    assert ask(Engine(PARAMS), with_picture) == pytest.approx(1.0 + ask(Engine(PARAMS), without))


def test_a_picture_that_was_encoded_before_is_not_encoded_anew(ask):
    engine = Engine(PARAMS)
    assert ask(engine, showing("one", "cat")) > 1.0
    assert ask(engine, showing("two", "cat", begin=1000)) < 1.0
    assert engine.tally.encodings == {"computed": 1, "cache": 1, "storage": 0}


def test_a_picture_whose_keys_and_values_are_cached_is_not_even_looked_up(ask):
    engine = Engine(PARAMS)
    for name in ("one", "two"):
        ask(engine, showing(name, "cat", text=8))
    assert engine.tally.encodings == {"computed": 1, "cache": 0, "storage": 0}


def test_the_least_recently_used_is_forgotten_first(ask):
    engine = Engine(EngineParams(media_tokens=20, encoder_cache_size=40))
    for nth, key in enumerate(["cat", "dog", "cat", "cow", "cat", "dog"]):
        ask(engine, showing(str(nth), key, begin=1000 * nth))
    assert engine.tally.encodings == {"computed": 4, "cache": 2, "storage": 0}


def test_there_is_always_room_for_one(ask):
    engine = Engine(EngineParams(media_tokens=20, encoder_cache_size=0))
    for nth, key in enumerate(["cat", "cat", "dog", "dog"]):
        ask(engine, showing(str(nth), key, begin=1000 * nth))
    assert engine.tally.encodings == {"computed": 2, "cache": 2, "storage": 0}


@given(chunk=st.integers(1, 90), room=st.integers(0, 100))
def test_a_prompt_in_chunks_has_each_picture_encoded_once(chunk, room):
    engine = Engine(EngineParams(media_tokens=20, encode_s=1.0, max_num_batched_tokens=chunk, encoder_cache_size=room))
    engine.submit(showing("r", "cat", "dog", "cow"), 0.0)
    (first,) = (token for token in engine.advance(60.0) if token.index == 0)
    assert engine.tally.encodings == {"computed": 3, "cache": 0, "storage": 0}
    assert first.at_s > 3.0


def test_a_picture_is_encoded_in_the_step_that_computes_its_first_token():
    engine = Engine(EngineParams(media_tokens=20, encode_s=1.0, max_num_batched_tokens=7))
    engine.submit(showing("r", "cat"), 0.0)
    assert engine.tally.encodings["computed"] == 0
    engine.advance(engine.next_event_s())
    assert engine.tally.encodings["computed"] == 1


def test_a_prompt_that_comes_computed_needs_no_encoder(ask):
    engine = Engine(PARAMS)
    assert ask(engine, showing("r", "cat", remote=True)) < 1.0
    assert engine.tally.encodings["computed"] == 0


def test_whoever_has_to_compute_its_prompt_again_needs_its_pictures_again(finish):
    engine = Engine(EngineParams(media_tokens=20, block_size=4, num_blocks=14, max_model_len=50, enable_prefix_caching=False))
    for name in ("one", "two"):
        prompt = showing(name, "cat", text=1).prompt
        engine.submit(Request(id=name, prompt=prompt, output=range(20), media=[Medium("cat", 1, 20)]), 0.0)
    finish(engine)
    assert engine.tally.num_preemptions == 1
    assert engine.tally.encodings == {"computed": 1, "cache": 2, "storage": 0}


def test_what_others_have_encoded_is_taken(ask):
    engine = Engine(PARAMS)
    engine.encoder.storage = Shelf("cat")
    assert 1.0 < ask(engine, showing("r", "cat", "dog")) < 2.0
    assert engine.tally.encodings == {"computed": 1, "cache": 0, "storage": 1}


def test_others_find_what_an_engine_has_encoded_when_the_step_has_ended():
    engine, shelf = Engine(PARAMS), Shelf()
    engine.encoder.storage = shelf
    engine.submit(showing("r", "cat"), 0.0)
    assert shelf.keys == set()
    engine.advance(engine.next_event_s())
    assert shelf.keys == {"cat"}


def test_nobody_finds_what_an_engine_died_over(finish):
    engine, shelf = Engine(PARAMS), Shelf()
    engine.encoder.storage = shelf
    engine.submit(showing("r", "cat"), 0.0)
    engine.crash(0.5)
    engine.submit(showing("again", "dog"), 0.6)
    finish(engine)
    assert shelf.keys == {"dog"}


def test_an_engine_that_has_died_has_nothing_encoded(ask):
    engine = Engine(PARAMS)
    for nth in range(2):
        assert ask(engine, showing(str(nth), "cat")) > 1.0
        engine.crash(engine._now_s)


def test_a_full_storage_costs_nothing_and_is_told(ask):
    engine = Engine(PARAMS)
    engine.encoder.storage = Shelf(full=True)
    ask(engine, showing("one", "cat", "dog"))
    assert engine.tally.encodings_unsaved == 2
    ask(engine, showing("two", "cow", begin=1000))
    assert engine.tally.encodings_unsaved == 3


def test_an_encoder_computes_no_prompt_and_keeps_none(ask):
    engine = Engine(EngineParams(media_tokens=20, encode_s=1.0, mm_encoder_only=True, step_s=50.0, block_size=4))
    assert ask(engine, showing("one", "cat", text=8)) == pytest.approx(1.0, abs=0.001)
    assert ask(engine, showing("two", "cat", text=8)) == pytest.approx(0.0, abs=0.001)
    assert engine.tally.prefix_cache_hits == 0


def test_a_model_that_reads_text_encodes_for_nobody():
    with pytest.raises(ParamsError, match="give media_tokens, too"):
        EngineParams(mm_encoder_only=True)


def test_media_that_were_prepared_lately_are_hits_of_the_multi_modal_cache():
    engine = Engine(PARAMS)
    cat, dog = Medium("cat", 0, 20), Medium("dog", 20, 20)
    for media in ([cat, dog], [cat], []):
        engine.encoder.prepare(media)
    assert (engine.tally.mm_cache_queries, engine.tally.mm_cache_hits) == (3, 1)
    engine.encoder.prepare([Medium(f"{nth}", 0, 20) for nth in range(600)])
    engine.encoder.prepare([cat])
    assert engine.tally.mm_cache_hits == 1


@given(st.lists(st.floats(0.01, 2.0), max_size=20))
def test_it_makes_no_difference_how_often_one_looks(gaps_s):
    """In virtual time as on a server."""

    def run(looks_s):
        engine, tokens = Engine(PARAMS, every_token=False), []
        for nth in range(3):
            prompt = (Segment(nth, 40), Segment(9, 3))
            media = (Medium(f"{nth % 2}", 5, 20),)
            engine.submit(SegmentRequest(id=nth, prompt=prompt, output=Segment(100 + nth, 5), media=media), 0.0)
        for at_s in looks_s:
            tokens += engine.advance(at_s)
        return tokens, engine.tally.encodings

    looks_s = [sum(gaps_s[: nth + 1]) for nth in range(len(gaps_s))]
    assert run([*looks_s, 100.0]) == run([100.0])
