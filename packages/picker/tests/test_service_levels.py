import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.config.service_levels import read_service_levels
from shunter.picker.core.decisions import Entry
from shunter.picker.core.judgement import Outcome
from shunter.picker.core.service_levels import LEVEL_WORDS, MOST_LEVELS, Level, LevelCounters, tpot_s
from shunter.picker.errors import ConfigError

FILE = """
serviceLevels:
- name: chat
  match: {model: llama, objective: interactive, priority: 1}
  target: 0.99
  ttft: 500ms
  tpot: 50ms
  e2e: 30s
- {name: everybody, target: 0.9, e2e: 1m}
"""
LEVEL = "{name: a, target: .9, e2e: 1s}"
CHAT, EVERYBODY = read_service_levels(FILE)


@pytest.fixture
def words():
    return memoryview(bytearray(8 * LEVEL_WORDS)).cast("Q")


@pytest.fixture
def levels(words):
    counters = LevelCounters(words)
    counters.begin([CHAT, EVERYBODY])
    return counters


def entry(**fields):
    return Entry(
        **{"ticket": 1, "at_s": 0.0, "request_id": "", "model": "llama", "objective": "interactive", "priority": 1} | fields
    )


def counts(levels, name="chat"):
    tally = levels.tally()[name]
    return list(zip(tally.requests, tally.good, strict=True))


def test_a_file_says_who_is_promised_what():
    assert (
        Level(
            name="chat",
            target=0.99,
            model="llama",
            objective="interactive",
            priority=1,
            ttft_s=0.5,
            tpot_s=0.05,
            e2e_s=30.0,
        )
        == CHAT
    )
    assert (EVERYBODY.e2e_s, EVERYBODY.ttft_s) == (60.0, None)
    assert read_service_levels("") == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("serviceLevel: []", r"\$.serviceLevel: unknown field; did you mean 'serviceLevels'"),
        ("[]", r"\$: expected `object`"),
        ("serviceLevels: [{name: a, target: 99, ttft: 1s}]", r"\[0\].target: 99 is no share: write 0.99"),
        ("serviceLevels: [{name: a, target: .9}]", r"\[0\]: 'a' promises nothing: give ttft, tpot or e2e"),
        ("serviceLevels: [{name: a b, target: .9, e2e: 1s}]", r"\[0\].name: 'a b' is no name"),
        ("serviceLevels: [{name: a, target: .9, e2e: soon}]", r"\[0\].e2e: 'soon' is not a duration such as 200ms"),
        ("serviceLevels: [{name: a, target: .9, e2e: 0s}]", r"\[0\].e2e: '0s' is faster than anything"),
        (f"serviceLevels: [{LEVEL}, {LEVEL}]", r"\[1\].name: 'a' is the name of \[0\]"),
        ("serviceLevels: [{name: a, target: .9, e2e: 1s, match: {modle: b}}]", r"match.modle: unknown field; did you"),
        ("{", "not a YAML document"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place_and_a_remedy(text, words):
    with pytest.raises(ConfigError, match=words):
        read_service_levels(text)


def test_more_levels_than_are_counted_are_refused():
    text = "serviceLevels:" + "".join(f"\n- {{name: a{at}, target: .9, e2e: 1s}}" for at in range(MOST_LEVELS + 1))
    with pytest.raises(ConfigError, match=f"{MOST_LEVELS + 1} levels; keep {MOST_LEVELS}"):
        read_service_levels(text)


@given(st.text(max_size=200) | st.binary(max_size=200))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(ConfigError):
        read_service_levels(text)


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({}, ["chat", "everybody"]),
        ({"model": "other"}, ["everybody"]),
        ({"objective": None}, ["everybody"]),
        ({"priority": 0}, ["everybody"]),
    ],
)
def test_a_request_belongs_to_every_level_that_names_it(levels, fields, found):
    assert [level.name for level, _ in levels.find(entry(**fields))] == found


@pytest.mark.parametrize(
    ("outcome", "stream", "expected"),
    [
        (Outcome(True, 200, None, 0.4, 2.4, completion_tokens=101), True, [(1, 1), (1, 1), (1, 1)]),
        (Outcome(True, 200, None, 0.6, 31.0, completion_tokens=11), True, [(1, 0), (1, 0), (1, 0)]),
        (Outcome(True, 200, None, 0.5, 30.0), True, [(1, 1), (0, 0), (1, 1)]),
        (Outcome(True, 200, None, 0.1, 0.2, completion_tokens=1), False, [(0, 0), (0, 0), (1, 1)]),
        (Outcome(False, 200, None, 0.4, 0.5, completion_tokens=9), True, [(1, 1), (0, 0), (0, 0)]),
        (Outcome(True, 502, None, None, 0.1), True, [(1, 0), (0, 0), (1, 0)]),
        (Outcome(True, 429, None, None, 0.1), False, [(0, 0), (0, 0), (1, 0)]),
        (Outcome(True, 404, None, None, 0.1), True, [(0, 0), (0, 0), (0, 0)]),
        (Outcome(False, 0), True, [(0, 0), (0, 0), (0, 0)]),
    ],
)
def test_what_is_known_of_a_request_is_counted(levels, outcome, stream, expected):
    levels.settle(levels.find(entry()), outcome, stream=stream)
    assert counts(levels) == expected


def test_a_refusal_for_want_of_room_is_never_good_and_a_clients_mistake_is_nobodys(levels):
    for status in (429, 503, 400, 413):
        levels.refuse(levels.find(entry()), status, stream=True)
    assert counts(levels) == [(2, 0), (0, 0), (2, 0)]


def test_counts_go_on_in_the_next_life_and_a_level_that_is_gone_makes_room(words, levels):
    levels.refuse(levels.find(entry()), 503, stream=True)
    successor = LevelCounters(words)
    successor.begin([CHAT, *(Level(name=f"l{at}", target=0.5, e2e_s=1.0) for at in range(MOST_LEVELS - 1))])
    assert counts(successor) == [(1, 0), (0, 0), (1, 0)]
    assert len(successor.tally()) == MOST_LEVELS
    assert "everybody" not in successor.tally()


def test_a_level_that_comes_back_finds_its_counts_while_there_is_room_for_all(words, levels):
    levels.refuse(levels.find(entry()), 503, stream=True)
    for at in range(MOST_LEVELS - 2):
        LevelCounters(words).begin([Level(name=f"l{at}", target=0.5, e2e_s=1.0)])
    successor = LevelCounters(words)
    successor.begin([CHAT])
    assert counts(successor) == [(1, 0), (0, 0), (1, 0)]


def test_the_time_per_token_leaves_out_the_first_one():
    assert tpot_s(Outcome(True, 200, None, 1.0, 3.0, completion_tokens=5)) == 0.5
    assert tpot_s(Outcome(True, 200, None, 3.0, 1.0, completion_tokens=5)) is None
