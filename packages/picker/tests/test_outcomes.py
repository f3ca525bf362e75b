"""What records teach: figures of the pool, figures of each endpoint, and nothing that a lying peer could make large."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.core.learned import Learned, decode_learned, encode_learned, outliers
from shunter.picker.core.outcome_samples import outcome_samples
from shunter.picker.core.outcomes import FEWEST_DECODE_TOKENS, MOST_FLAGS, REMEMBERED, Outcomes, outcome_of
from shunter.picker.core.records import Record
from shunter.picker.errors import PickerError
from shunter.picker.shell.metrics import as_metrics

A, B = "10.0.0.1:8000", "10.0.0.2:8000"
ENDPOINTS = {A: (0, 1), B: (1, 1)}
WELL = Record(
    type="DownstreamEnd",
    status=200,
    id="4294967297",
    pick=A,
    host=A,
    attempts=1,
    content="text/event-stream",
    first_us=200_000,
    duration_ms=1_200,
    prompt=1000,
    cached=400,
    completion=101,
)


def learn(*records, **changes):
    outcomes = Outcomes(Learned())
    for record in records or (WELL,):
        outcomes.take(msgspec.structs.replace(record, **changes), ENDPOINTS)
    return outcomes.learned


def values(learned):
    return {
        (sample.name, *sample.labels.values()): sample.value
        for samples in outcome_samples(learned)
        for metric in as_metrics(samples)
        for sample in metric.samples
    }


def test_a_streamed_response_teaches_times_tokens_and_rates():
    learned = learn()
    row = learned.row((0, 1))
    assert (row.requests, row.failures, row.endpoint) == (1, 0, A)
    assert row.ttft_s == pytest.approx(0.2)
    assert row.prefill_per_s == pytest.approx(600 / 0.2)
    assert row.decode_per_s == pytest.approx(100 / 1.0)
    found = values(learned)
    assert found["shunter_picker_endpoint_ttft_seconds_sum", A] == pytest.approx(0.2)
    assert found["shunter_picker_responses_total", "2xx"] == 1


def test_the_first_byte_of_a_plain_response_is_no_first_token():
    assert learn(content="application/json").row((0, 1)).ttft_s is None
    outcome = outcome_of(msgspec.structs.replace(WELL, content="application/json", sent=700))
    assert (outcome.first_token_s, outcome.first_byte_s, outcome.sent_bytes) == (None, 0.2, 700)


def test_without_token_counts_there_are_no_rates():
    learned = learn(prompt=None, completion=None, cached=None)
    row = learned.row((0, 1))
    assert (row.prefill_per_s, row.decode_per_s) == (None, None)
    assert row.ttft_s == pytest.approx(0.2)


def test_a_few_tokens_say_nothing_of_a_rate():
    row = learn(prompt=410, completion=FEWEST_DECODE_TOKENS).row((0, 1))
    assert (row.prefill_per_s, row.decode_per_s) == (None, None)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"host": B}, {"fallbacks": 1}),
        ({"pick": f"{A}, {B}"}, {"fallbacks": 0}),
        ({"pick": f"{B},{A}", "attempts": 2}, {"fallbacks": 1, "retries": 1}),
        ({"pick": None, "id": None}, {"blind": 1, "fallbacks": 0}),
        ({"host": None, "pick": None, "status": 503, "flags": "UH"}, {"blind": 0, "strangers": 0}),
        ({"host": "6.6.6.6:1"}, {"strangers": 1}),
        ({"attempts": 2**60}, {"retries": 999}),
    ],
)
def test_who_served_instead_of_whom_is_counted(changes, expected):
    learned = learn(**changes)
    assert {name: getattr(learned, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("changes", "failed"),
    [
        ({"status": 500}, True),
        ({"flags": "UC"}, True),
        ({"flags": "DC"}, False),  # the client left
        ({"status": 429}, False),
        ({"status": 0, "flags": "DC"}, False),
    ],
)
def test_a_failure_is_the_endpoints_own(changes, failed):
    row = learn(**changes).row((0, 1))
    assert row.failures == failed
    assert (row.ttft_s is None) == (failed or changes.get("status", 200) != 200)


def test_an_endpoint_that_is_slow_or_fails_is_an_outlier():
    third = "10.0.0.3:8000"
    outcomes = Outcomes(Learned())
    for endpoint, first_us, status in ((A, 200_000, 200), (B, 900_000, 200), (third, 210_000, 500)):
        for _ in range(REMEMBERED):
            record = msgspec.structs.replace(WELL, host=endpoint, pick=endpoint, first_us=first_us, status=status)
            outcomes.take(record, ENDPOINTS | {third: (2, 1)})
    assert {row.endpoint for row in outliers(outcomes.learned)} == {B, third}
    assert values(outcomes.learned)["shunter_picker_endpoint_outlier", B] == 1


@pytest.mark.parametrize(("flags", "counted"), [("DC", "left"), ("UF,DC", "none"), ("UF", "none"), ("-", "none")])
def test_who_hangs_up_before_the_response_is_told_from_whom_nobody_answered(flags, counted):
    assert learn(status=0, flags=flags).statuses == {counted: 1}


def test_two_endpoints_alike_are_no_outliers_and_one_request_makes_none():
    assert outliers(learn(*[WELL] * REMEMBERED)) == []
    assert outliers(learn(status=500)) == []


@pytest.mark.parametrize(("pick", "blind"), [(A, 0), (None, 1), (msgspec.UNSET, 0)])
def test_who_was_to_be_picked_and_was_not_is_served_blindly(pick, blind):
    learned = learn(pick=pick)
    assert (learned.blind, learned.fallbacks) == (blind, 0)


def test_rows_of_endpoints_that_are_gone_are_forgotten():
    outcomes = Outcomes(learn())
    outcomes.retain([(0, 2), (1, 1)])
    assert outcomes.learned.rows == {}


numbers = st.none() | st.integers(-(2**63), 2**64 - 1)
floats = st.none() | st.floats()
records = st.builds(
    Record,
    type=st.just("DownstreamEnd"),
    status=st.integers(-(2**63), 2**64 - 1),
    pick=st.none() | st.text(max_size=30),
    host=st.none() | st.sampled_from([A, B]) | st.text(max_size=30),
    flags=st.text(max_size=9) | st.lists(st.text("ABC", max_size=3)).map(",".join),
    attempts=numbers,
    content=st.none() | st.just("text/event-stream"),
    first_us=numbers,
    duration_ms=numbers,
    prompt=floats,
    completion=floats,
    cached=floats,
    cache_read=floats,
    cache_write=floats,
)


@given(st.lists(records, max_size=20))
def test_whatever_a_peer_says_figures_stay_figures(said):
    learned = learn(*said) if said else Learned()
    assert set(learned.rows) <= {"0/1", "1/1"}
    assert learned.records == len(said)
    assert decode_learned(encode_learned(learned)) == learned
    values(learned)


def test_invented_flags_are_one_flag():
    learned = learn(*[msgspec.structs.replace(WELL, flags=f"F{n}") for n in range(3 * MOST_FLAGS)])
    assert len(learned.flags) == MOST_FLAGS + 1
    assert learned.flags["other"] == 2 * MOST_FLAGS


def test_a_flag_is_short():
    learned = learn(msgspec.structs.replace(WELL, flags=f"UF,{'F' * 100_000}"))
    assert learned.flags == {"UF": 1, "other": 1}


def test_what_another_release_learnt_is_refused():
    for data in (encode_learned(msgspec.structs.replace(learn(), schema=1)), b"", b"\xc1"):
        with pytest.raises(PickerError):
            decode_learned(data)
