import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shunter.picker.core.account_book import (
    ACCOUNT_WORDS,
    ENCODED,
    FIGURES,
    LONGEST_NAME_BYTES,
    MOST,
    PREFILLED,
    ROWS,
    STRANGE_ROWS,
    AccountBook,
    add_classes,
)
from shunter.picker.core.accounts import MOST_UNTOLD, Accounts
from shunter.picker.core.buckets import Histogram
from shunter.picker.core.decisions import Entry
from shunter.picker.core.judgement import Outcome, Refusal
from shunter.picker.core.kinds import Decision
from shunter.picker.core.prefix import Match
from shunter.picker.core.request import DEFAULT_FLOW
from shunter.picker.core.service_levels import Level
from shunter.snapshot import Endpoint

LLAMA = ("llama", "llama", DEFAULT_FLOW, 0)
ENDPOINT = Endpoint(slot=3, incarnation=1, name="a", address="10.0.0.1", port=8000)
DECISION = Decision(candidates=(ENDPOINT,), totals=(), chosen=(0,), scores=(), narrowed=())

ENDED = Outcome(complete=True, duration_s=2.0)  # what a worker sees in the profile lean
TOLD = Outcome(  # what Envoy's record adds
    complete=True,
    status=200,
    first_token_s=0.5,
    duration_s=2.5,
    prompt_tokens=100,
    completion_tokens=11,
    cached_tokens=0,
    first_byte_s=0.5,
    sent_bytes=4000,
)


@pytest.fixture
def words():
    return memoryview(bytearray(8 * ACCOUNT_WORDS)).cast("Q")


@pytest.fixture
def book(words):
    book = AccountBook(words)
    book.begin()
    return book


@pytest.fixture
def accounts(book):
    return Accounts(book, lambda: {"llama", "qwen"})


def figures_of(accounts, book, key=LLAMA):
    return seen(book.tally()[key])


def entry(ticket=1, model="llama", target=None, **fields):
    facts = {"decision": DECISION, "fairness_id": DEFAULT_FLOW, "stream": True, "size_bytes": 700} | fields
    return Entry(ticket=ticket, at_s=10.0, request_id="", model=model, target_model=target or model, **facts)


def refused(status, code, **fields):
    return entry(decision=None, refusal=Refusal(status, code, ""), **fields)


def seen(tally):
    """The figures that are known, with how often and how much."""
    return {name: (sum(each.counts), each.total) for name, each in tally.figures.items()}


def test_a_request_is_counted_when_it_is_picked_when_it_ends_and_when_it_is_told_of(book, accounts):
    accounts.follow([entry()], [])
    tally = book.tally()[LLAMA]
    assert (tally.requests, tally.running, seen(tally)) == (1, 1, {"request_bytes": (1, 700)})
    accounts.follow([], [(1, ENDED, 10.0)])
    accounts.follow([], [(1, TOLD, 10.0)])
    tally = book.tally()[LLAMA]
    assert (tally.requests, tally.running, tally.errors) == (1, 0, {})
    assert seen(tally) == {
        "request_bytes": (1, 700),
        "duration": (1, 2.0),
        "ttft": (1, 0.5),
        "tpot": (1, 0.2),
        "ntpot": (1, pytest.approx(2.5 / 11)),
        "input_tokens": (1, 100),
        "cached_tokens": (1, 0),
        "output_tokens": (1, 11),
        "response_bytes": (1, 4000),
    }


@pytest.mark.parametrize(
    "told",
    [
        [TOLD],  # the picker sees the response
        [TOLD, TOLD],  # and Envoy tells as well
        [TOLD, ENDED],  # the record overtakes the end of the stream
        [Outcome(complete=True), TOLD],  # the stream ends with the pick
        [ENDED, TOLD, TOLD, ENDED],
    ],
)
def test_however_often_and_in_whatever_order_it_is_told_each_figure_is_counted_once(book, accounts, told):
    accounts.follow([entry()], [])
    for outcome in told:
        accounts.follow([], [(1, outcome, 10.0)])
    assert {count for count, _ in figures_of(accounts, book).values()} == {1}
    assert book.tally()[LLAMA].running == 0


def test_what_nobody_tells_is_given_up_in_time(book, accounts):
    for ticket in range(MOST_UNTOLD + 2):
        accounts.follow([entry(ticket)], [])
        accounts.follow([], [(ticket, ENDED, 10.0)])
    accounts.follow([], [(1, TOLD, 10.0)])
    assert "ttft" not in figures_of(accounts, book)
    accounts.follow([], [(2, TOLD, 10.0)])
    assert figures_of(accounts, book)["ttft"] == (1, 0.5)
    assert book.given_up == 2


def test_who_is_told_of_in_time_is_not_given_up(book, accounts):
    for ticket in range(2 * MOST_UNTOLD):
        accounts.follow([entry(ticket)], [])
        accounts.follow([], [(ticket, ENDED, 10.0)])
        accounts.follow([], [(ticket, TOLD, 10.0)])
    assert figures_of(accounts, book)["ttft"][0] == 2 * MOST_UNTOLD
    assert (book.given_up, len(accounts._open)) == (0, 0)


def test_another_workers_requests_are_not_ours(book, accounts):
    accounts.follow([], [(99, TOLD, 10.0)])
    assert book.tally() == {}


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0])
def test_what_is_no_duration_is_left_out_of_the_figures(book, accounts, value):
    for ticket, told in ((1, replace(TOLD, duration_s=value, first_byte_s=value)), (2, TOLD)):
        accounts.follow([entry(ticket, began_s=10.0 - value)], [])
        accounts.follow([], [(ticket, told, 10.0)])
    accounts.follow([entry(3, began_s=9.75)], [])
    found = figures_of(accounts, book)
    assert (found["duration"], found["ttft"], found["processing"]) == ((1, 2.5), (1, 0.5), (1, 0.25))
    assert found["response_bytes"] == (2, 8000)


def test_an_end_that_is_told_with_its_beginning_belongs_to_it(book, accounts):
    accounts.follow([entry(1)], [(1, TOLD, 10.0)])
    assert figures_of(accounts, book)["ttft"] == (1, 0.5)
    assert book.tally()[LLAMA].running == 0


operations = st.lists(
    st.tuples(
        st.sampled_from(["pick", "refuse", "end", "tell", "flush"]), st.integers(0, 5), st.text(max_size=3), st.integers(-9, 9)
    ),
    max_size=80,
)


@given(operations)
def test_whatever_happens_requests_are_counted_once_and_none_runs_that_has_ended(story):
    book = AccountBook(memoryview(bytearray(8 * ACCOUNT_WORDS)).cast("Q"))
    book.begin()
    accounts = Accounts(book, set)
    picked, running = 0, set()
    decided, ended = [], []
    for kind, number, name, priority in story:
        if kind == "pick":
            picked += 1
            running.add(100 * picked)
            decided.append(entry(100 * picked, name, fairness_id=name, priority=priority))
        elif kind == "refuse":
            decided.append(refused(429, name, model=name, priority=priority))
        elif kind == "flush":
            accounts.follow(decided, ended)
            decided, ended = [], []
        else:
            ticket = 100 * max(0, picked - number)
            running.discard(ticket)
            ended.append((ticket, ENDED if kind == "end" else TOLD, 10.0))
    accounts.follow(decided, ended)
    tallies = book.tally().values()
    assert (sum(each.requests for each in tallies), sum(each.running for each in tallies)) == (picked, len(running))


def test_refusals_and_error_statuses_are_errors_of_the_class(book, accounts):
    accounts.follow([refused(429, "ResourceExhausted")], [])
    accounts.follow([entry(2)], [])
    accounts.follow([], [(2, Outcome(complete=True, status=502, sent_bytes=0), 10.0)])
    assert book.tally()[LLAMA].errors == {"ResourceExhausted": 1, "ModelServerError": 1}
    assert book.tally()[LLAMA].requests == 1


def test_a_response_that_is_no_stream_has_no_ttft_of_streams(book, accounts):
    accounts.follow([entry(stream=False)], [])
    accounts.follow([], [(1, TOLD, 10.0)])
    assert {"ttft", "first_byte", "tpot"} & figures_of(accounts, book).keys() == {"first_byte"}


def test_what_a_pick_knows_itself_is_counted_with_it(book, accounts):
    accounts.follow([entry(began_s=9.99, prefix=Match(hashes=(1, 2), blocks={3: 1}, share={3: 0.5}))], [])
    found = figures_of(accounts, book)
    assert (found["processing"], found["hit_ratio"]) == ((1, pytest.approx(0.01)), (1, 0.5))


@pytest.mark.parametrize(
    ("others", "told"),
    [
        ({}, "decode-only"),
        ({"p": DECISION}, "prefill-decode"),
        ({"p": DECISION, "e": DECISION}, "encode-prefill-decode"),
        ({"p": replace(DECISION, chosen=()), "e": DECISION, "x": DECISION}, "encode-decode"),
    ],
)
def test_stages_that_somebody_else_does_are_counted(book, others, told):
    accounts = Accounts(book, set, {"p": PREFILLED, "e": ENCODED})
    accounts.follow([entry(others=others)], [])
    assert book.tally()[LLAMA].stages == {told: 1}


def test_service_levels_learn_of_refusals_and_of_ends(book, accounts):
    book.levels.begin([Level(name="chat", target=0.9, model="llama", e2e_s=2.2, ttft_s=1.0)])
    accounts.follow([refused(503, "ServiceUnavailable")], [])
    accounts.follow([entry(2)], [])
    accounts.follow([], [(2, ENDED, 10.0)])
    accounts.follow([], [(2, TOLD, 10.0)])
    tally = book.levels.tally()["chat"]
    assert (tally.requests, tally.good) == ([2, 0, 2], [1, 0, 0])


def test_hostile_names_are_folded_and_counted_and_crowd_out_nobody(book, accounts):
    for at in range(10_000):
        accounts.follow([entry(at, model=f"m{at % 100}", fairness_id=f"t{at}")], [])
    for model, flow in (("llama", DEFAULT_FLOW), ("qwen", DEFAULT_FLOW), ("qwen", "tenant")):
        accounts.follow([entry(1, model, fairness_id=flow)], [])
    tally = book.tally()
    assert len(tally) == STRANGE_ROWS + 4
    assert tally["other", "other", "other", 0].requests == 10_000 - STRANGE_ROWS
    assert (
        tally[LLAMA].requests
        == tally["qwen", "qwen", DEFAULT_FLOW, 0].requests
        == tally["qwen", "qwen", "other", 0].requests
        == 1
    )
    assert book.folded == 10_001 - STRANGE_ROWS
    assert sum(each.requests for each in tally.values()) == 10_003
    assert len(book._rows) == len(tally)


def test_more_known_classes_than_there_are_rows_are_counted_together(book, accounts):
    for priority in range(ROWS + 10):
        accounts.follow([entry(priority, priority=priority)], [])
    tally = book.tally()
    assert (len(tally), tally["other", "other", "other", 0].requests) == (ROWS, 11)
    assert tally["llama", "llama", DEFAULT_FLOW, ROWS - 2].requests == 1


@pytest.mark.parametrize("name", ["x" * 5000, "é" * 300, "a\0b", "\0", "", "\ud800"])
def test_any_name_has_a_row_of_its_own_that_is_found_again(words, accounts, name):
    accounts.follow([entry(1, name)], [])
    accounts.follow([entry(2, name)], [])
    successor = AccountBook(words)
    successor.begin()
    again = Accounts(successor, set)
    again.follow([entry(3, name)], [])
    (key,) = successor.tally()
    assert successor.tally()[key].requests == 3
    assert len(key[0].encode()) <= LONGEST_NAME_BYTES


@pytest.mark.parametrize("priority", [10**30, -(10**30), 2**63, -(2**63)])
def test_no_priority_is_too_large_to_be_counted(book, accounts, priority):
    accounts.follow([entry(priority=priority)], [])
    accounts.follow([refused(429, "\ud800", priority=priority)], [])
    (tally,) = book.tally().values()
    assert (tally.requests, tally.errors) == (1, {"?": 1})


def test_the_next_life_goes_on_with_the_totals_and_has_nothing_running(words, accounts):
    accounts.follow([entry(1)], [])
    accounts.follow([refused(400, "BadRequest")], [])
    successor = AccountBook(words)
    successor.begin()
    again = Accounts(successor, set)
    again.follow([], [(1, TOLD, 10.0)])  # it was the dead one's
    again.follow([refused(400, "BadRequest")], [])
    tally = successor.tally()[LLAMA]
    assert (tally.requests, tally.running, tally.errors) == (1, 0, {"BadRequest": 2})


def test_tallies_of_seats_add_up(book, accounts):
    accounts.follow([entry()], [])
    accounts.follow([], [(1, TOLD, 10.0)])
    total = add_classes([book.tally(), {}, book.tally()])
    assert total[LLAMA].requests == 2
    assert seen(total[LLAMA])["duration"] == (2, 5.0)
    assert book.tally()[LLAMA].requests == 1


@given(st.lists(st.floats(allow_nan=True) | st.sampled_from(FIGURES["ttft"].bounds), max_size=70))
def test_values_are_distributed_as_one_by_one(values):
    book = AccountBook(memoryview(bytearray(8 * ACCOUNT_WORDS)).cast("Q"))
    book.begin()
    at = book.row(LLAMA, set)
    book.distribute(at, "ttft", values)
    bounds, kept = FIGURES["ttft"].bounds, [value for value in values if 0 <= value <= MOST]
    counts = [0] * (len(bounds) + 1)
    for value in kept:
        counts[next((at for at, bound in enumerate(bounds) if value <= bound), len(bounds))] += 1
    expected = {"ttft": Histogram(counts, sum(kept))} if kept else {}
    assert book.tally()[LLAMA].figures == expected


def test_a_bound_belongs_to_its_bucket(book):
    at = book.row(LLAMA, set)
    book.distribute(at, "duration", [0.005, 0.0051, 1e9])
    counts = book.tally()[LLAMA].figures["duration"].counts
    assert (counts[0], counts[1], counts[-1]) == (1, 1, 1)


@given(st.binary(min_size=8, max_size=4000), st.integers(0, 2000))
def test_foreign_bytes_are_tallied_as_something(noise, at):
    memory = bytearray(8 * ACCOUNT_WORDS)
    memory[at : at + len(noise)] = noise
    book = AccountBook(memoryview(memory).cast("Q"))
    book.tally()
    book.begin()
    assert not any(each.running for each in book.tally().values())
