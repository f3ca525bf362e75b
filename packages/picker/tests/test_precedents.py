"""Decisions become data, and data becomes what was decided upon."""

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker import config
from shunter.picker.core.features import CHANGES_PER_ENDPOINT, FEWEST_CHANGES, note, restore
from shunter.picker.core.fleet import COLUMNS
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.judgement import Ask, Outcome
from shunter.picker.core.ledger import Booking
from shunter.picker.core.precedents import meet, precedent, read, write
from shunter.picker.core.retrial import report, retry
from shunter.picker.errors import PrecedentError

CHAT = {":path": "/v1/chat/completions"}
NOW_S = 100.0
OURS = ("queue-scorer", "prefix-cache-scorer")
ROWS = [
    {"waiting": 3, "running": 1, "kv_usage": 0.9},
    {"waiting": 1, "running": 2, "kv_usage": 0.5},
    {"waiting": 0, "running": 9, "kv_usage": 0.1},
]


def body(text="hello "):
    return b'{"model":"m","max_tokens":7,"stream":true,"messages":[{"role":"user","content":"%s"}]}' % (text.encode() * 400)


def policy(*scorers):
    lines = "".join(f"- type: {name}\n" for name in scorers)
    return config.load(f"apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n{lines}").policy


@pytest.fixture
def make_judge(make_view):
    def make(*rows, policy=None):
        view = make_view(*rows)
        return FleetJudge(policy or config.load().policy, lambda _now_ns: view, random.Random(1))

    return make


@pytest.fixture
def recorded(make_judge):
    """Precedents of a judge that prefers short queues and cached prompts."""
    judge = make_judge(*ROWS, policy=policy(*OURS))
    for number in range(12):
        pick = judge.decide(Ask(CHAT, body(str(number % 3))), NOW_S + number / 10)
        if number % 2:
            judge.release(pick.ticket, Outcome(complete=True, status=200, first_token_s=0.1), NOW_S + number / 10)
    return [precedent(entry) for entry in judge.decisions.latest()]


def test_a_decision_survives_its_line(recorded):
    assert list(read(write(recorded).splitlines())) == recorded
    assert {each.max_output_tokens for each in recorded} == {7}
    assert all(each.stream for each in recorded)
    assert [each.outcome is None for each in reversed(recorded)] == [True, False] * 6


def test_no_line_holds_a_prompt(make_judge):
    judge = make_judge(*ROWS)
    judge.decide(Ask(CHAT | {"authorization": "secret"}, body("confidential ")), NOW_S)
    line = write([precedent(entry) for entry in judge.decisions.latest()])
    assert b"confidential" not in line
    assert b"secret" not in line


def test_a_refusal_is_no_precedent(make_judge):
    judge = make_judge(*ROWS)
    judge.decide(Ask(CHAT, b"no JSON"), NOW_S)
    assert [precedent(entry) for entry in judge.decisions.latest()] == [None]


def test_features_are_those_of_the_moment_whatever_happens_later(make_fleet):
    fleet = make_fleet(*ROWS)
    rng, moments = random.Random(1), []
    for number in range(FEWEST_CHANGES + CHANGES_PER_ENDPOINT * len(fleet) + 100):  # also where the diary begins anew
        endpoint = fleet.endpoints[rng.randrange(len(fleet))]
        booking = Booking(endpoint.slot, endpoint.incarnation, number, 10, (), 5, rng.randrange(9))
        fleet.add(fleet.ledger.book(number, booking), +1)
        seen = {name: tuple(getattr(fleet, name)) for name in COLUMNS if name != "authorities"}
        moments.append((note(fleet), seen, tuple(map(fleet.ledger.decode_tokens, fleet.keys))))
    for features, seen, decode_tokens in moments:
        columns = features.columns()
        assert {name: getattr(columns, name) for name in seen} == seen
        assert columns.decode_tokens == decode_tokens


def test_a_restored_fleet_has_the_same_columns_and_the_same_account(make_fleet):
    fleet = make_fleet(*ROWS)
    for number in range(9):
        endpoint = fleet.endpoints[number % 2]
        fleet.add(fleet.ledger.book(number, Booking(endpoint.slot, endpoint.incarnation, 1000, 10, (), 8, number)), +1)
    again = restore(note(fleet).columns(), 1000)
    assert {name: list(getattr(again, name)) for name in COLUMNS} == {name: list(getattr(fleet, name)) for name in COLUMNS}
    for figure in ("in_flight", "tokens_in_flight", "decode_tokens"):
        assert list(map(getattr(again.ledger, figure), fleet.keys)) == list(map(getattr(fleet.ledger, figure), fleet.keys))
    until_ns = [[ledger.busy_until_ns(key) for key in fleet.keys] for ledger in (again.ledger, fleet.ledger)]
    assert until_ns[0] == pytest.approx(until_ns[1], rel=0.01)
    assert again.ledger.prefill_backlogs(fleet.keys, 1000) == fleet.ledger.prefill_backlogs(fleet.keys, 1000)


def test_a_restored_account_has_sums_and_no_request_of_those_in_flight(make_fleet):
    fleet = make_fleet(*ROWS)
    for number in range(1000):
        fleet.add(fleet.ledger.book(number, Booking(0, 1, 1000, 10)), +1)
    again = restore(note(fleet).columns(), 1000).ledger
    assert (again.in_flight((0, 1)), again.tokens_in_flight((0, 1)), len(again)) == (1000, 10_000, 0)


@pytest.mark.parametrize("at_ns", [0, 500_000_000, 2_000_000_000, 60_000_000_000])
@pytest.mark.parametrize("uncached", [[10_000], [30_000], [0], [30_000, 10_000], [0, 30_000]])
def test_a_restored_backlog_is_as_long_as_it_was(make_fleet, uncached, at_ns):
    fleet = make_fleet(*ROWS)
    for ticket, tokens in enumerate(uncached):
        fleet.add(fleet.ledger.book(ticket, Booking(0, 1, 0, 30_000, (), tokens)), +1)
    left_ns = [
        max(0, ledger.busy_until_ns((0, 1)) - at_ns) for ledger in (fleet.ledger, restore(note(fleet).columns(), at_ns).ledger)
    ]
    assert left_ns[1] == pytest.approx(left_ns[0], abs=1_000_000)


def test_what_is_met_again_is_what_was_met(recorded):
    request, fleet = meet(recorded[0])
    assert (request.model, request.ticket, request.max_output_tokens) == ("m", recorded[0].ticket, 7)
    assert request.prefix.share
    assert list(fleet.waiting) == list(recorded[0].fleet.waiting)


def test_a_subset_is_met_as_a_subset(make_judge):
    judge = make_judge(*ROWS)
    judge.decide(Ask(CHAT, body(), subset=("10.0.0.1", "10.0.0.2")), NOW_S)
    (entry,) = judge.decisions.latest()
    assert [each.authority for each in meet(precedent(entry))[1].endpoints] == ["10.0.0.1:8000", "10.0.0.2:8000"]


def test_the_same_policy_changes_nothing(recorded):
    again = retry(recorded, policy(*OURS), random.Random(5))
    assert (again.decisions, again.changed, again.moves) == (12, 0, ())
    assert report(again)[0] == "0 % of 12 picks would change"


def test_another_policy_changes_what_it_would_do_otherwise(recorded):
    other = retry(recorded, policy("running-requests-size-scorer"), random.Random(5))
    assert 0 < other.changed <= 12
    assert sum(count for *_, count in other.moves) == other.changed
    assert sum(now for _, now in other.picks.values()) == 12
    assert f"{100 * other.changed / 12:.0f} % of 12 picks would change; most: " in report(other)[0]


@pytest.mark.parametrize(
    ("names", "known", "said"), [(OURS, False, True), (["queue-scorer"], False, False), (OURS, True, False)]
)
def test_a_policy_that_goes_by_what_nobody_recorded_is_said_to_be_tried_without(recorded, names, known, said):
    found = recorded if known else [msgspec.structs.replace(each, prefix=type(each.prefix)()) for each in recorded]
    lines = report(retry(found, policy(*names), random.Random(5)))
    assert any("cached prefixes: on record is not one" in line for line in lines) is said


DIVIDED = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: always-disagg-pd-decider}
- {type: disagg-profile-handler, parameters: {deciders: {prefill: always-disagg-pd-decider}}}
- {type: label-selector-filter, name: "9", parameters: {matchLabels: {n: "9"}}}
- {type: decode-filter}
- {type: %s}
schedulingProfiles:
- {name: prefill, plugins: [{pluginRef: %s}]}
- {name: decode, plugins: [{pluginRef: decode-filter}]}
"""


def test_what_changes_in_further_profiles_is_said_too(make_view):
    view = make_view(*ROWS)
    divided = config.load(DIVIDED % ("queue-scorer", "queue-scorer")).policy
    judge = FleetJudge(divided, lambda _: view, random.Random(1))
    recorded = []
    while len(recorded) < 4:  # not those whose decoder is the best to prefill, too
        judge.release(judge.decide(Ask(CHAT, body()), NOW_S).ticket, Outcome(complete=True), NOW_S)
        newest = precedent(judge.decisions.latest()[0])
        recorded += [newest] if len(newest.runs) > 1 else []
    same, other, none = (
        retry(recorded, config.load(text).policy, random.Random(5))
        for text in (
            DIVIDED % ("queue-scorer", "queue-scorer"),
            DIVIDED % ("running-requests-size-scorer", "running-requests-size-scorer"),
            DIVIDED % ("queue-scorer", '"9"'),
        )
    )
    assert [(each.stages["prefill"].recorded, each.stages["prefill"].now) for each in (same, none)] == [(4, 4), (4, 0)]
    assert same.stages["prefill"].moved == 0 < other.stages["prefill"].moved == other.stages["prefill"].now
    assert "  profile prefill chose somebody for 100 % of requests, then for 0 %" in report(none)


def test_who_refuses_changes_the_pick(recorded):
    document = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: label-selector-filter
  parameters: {matchLabels: {gpu: none}}
- type: queue-scorer
"""
    other = retry(recorded, config.load(document).policy, random.Random(5))
    assert (other.changed, other.refused, other.share) == (12, 12, 1.0)
    assert "100 % would be refused" in report(other)[0]


def test_nothing_recorded_is_said_to_be_nothing():
    assert report(retry([], policy("queue-scorer"), random.Random(5))) == ["no recorded decisions to try it on"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda line: line.replace(b'"version":1', b'"version":2'), "line 2: not a recorded decision: version 2, this reads 1"),
        (lambda line: line[:-2], "line 2: not a recorded decision: "),
        (lambda line: line.replace(b'"fresh":[true,', b'"fresh":['), "fleet.fresh has 2 values for 3 endpoints"),
        (lambda line: line.replace(b'"chosen":["10.', b'"chosen":["11.'), "its endpoints are not in its fleet"),
    ],
)
def test_a_bad_line_is_named(recorded, change, words):
    first, second = write(recorded[:2]).splitlines()
    with pytest.raises(PrecedentError, match=r".*") as raised:
        list(read([first, change(second)]))
    assert words in str(raised.value)


@given(data=st.data())
def test_any_line_is_read_and_decided_or_refused(data):
    line = data.draw(st.sampled_from(LINES))
    at = data.draw(st.integers(0, len(line)))
    line = line[:at] + data.draw(st.binary(max_size=4)) + line[at + data.draw(st.integers(0, 4)) :]
    try:
        found = list(read([line]))
    except PrecedentError:
        return
    assert retry(found, policy("queue-scorer", "prefix-cache-scorer"), random.Random(1)).decisions == len(found)


def _line():
    columns = {name: [1, 0] for name in ("sampled_ns", "in_flight", "tokens_in_flight", "busy_until_ns", "decode_tokens")}
    columns |= {name: [1.0, 0.0] for name in ("reported_waiting", "waiting", "running", "kv_usage")}
    columns |= {name: [None, 7] for name in ("max_adapters", "cache_tokens")}
    columns |= {"fresh": [True, True], "running_adapters": [[], ["a"]], "waiting_adapters": [[], []]}
    endpoints = [[slot, 1, "pod", "default", f"10.0.0.{slot}", 8000] for slot in (1, 2)]
    run = {"profile": "p", "candidates": ["10.0.0.1:8000"], "chosen": ["10.0.0.1:8000"]}
    made = {
        "version": 1,
        "ticket": 1,
        "at_ns": 5,
        "request_id": "r",
        "fleet": {"endpoints": endpoints, **columns},
        "runs": [run],
    }
    return msgspec.json.encode(made)


LINES = [_line()]
