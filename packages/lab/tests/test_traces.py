"""Traces of others are read as they are published; a bad line is named, whatever is wrong with it."""

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.lab.core.arrivals import Arrival, Segment
from shunter.lab.errors import TraceError
from shunter.lab.workloads import find_workload
from shunter.lab.workloads.recorded import Recorded
from shunter.lab.workloads.traces import FORMATS, LONGEST_LINE_BYTES, read

MOONCAKE = [
    b'{"timestamp": 1000, "input_length": 1024, "output_length": 52, "hash_ids": [46, 47]}\n',
    b'{"timestamp": 4000, "input_length": 1100, "output_length": 26, "hash_ids": [46, 47, 2353]}\n',
]
AZURE = [
    b"TIMESTAMP,ContextTokens,GeneratedTokens\r\n",
    b"2023-11-16 18:17:03.9799600,4808,10\r\n",
    b"2023-11-16 18:17:04.0319600,3180,8\r\n",
]
ACCESS = [
    b'{"time":"2026-11-25T19:59:45.216Z","bytes_received":4000,"bytes_sent":25000,"status":200,"ticket":null}\n',
    b"\n",
    b'{"time":"2026-11-25T19:59:46.216Z","bytes_received":8000,"bytes_sent":1,"prompt_tokens":7,"completion_tokens":9}\n',
]


LAB = b'{"at_s":1.5,"prompt":[[1,50]],"output":[2,5]}'


def test_mooncake_says_which_prompts_begin_alike():
    first, second = read("mooncake", MOONCAKE)
    assert (first.at_s, second.at_s) == (0.0, 3.0)
    assert first.prompt == second.prompt[:2]
    assert [segment.tokens for segment in second.prompt] == [512, 512, 76]
    assert second.output.tokens == 26


def test_azure_says_how_long():
    first, second = read("azure", AZURE)
    assert (first.prompt_tokens, first.output.tokens, second.prompt_tokens) == (4808, 10, 3180)
    assert second.at_s == pytest.approx(0.052)
    assert first.prompt != second.prompt


def test_an_access_log_is_estimated_where_nobody_counted():
    first, second = read("access", ACCESS)
    assert (first.prompt_tokens, first.output.tokens) == (1000, 100)
    assert (second.prompt_tokens, second.output.tokens, second.at_s) == (7, 9, 1.0)


def test_who_lists_models_asks_none():
    listing = ACCESS[0].replace(b'"status"', b'"method":"GET","status"')
    first, second = read("access", [ACCESS[0], listing, ACCESS[2]])
    assert (first.prompt_tokens, second.prompt_tokens) == (1000, 7)


@pytest.mark.parametrize(("name", "lines"), [("mooncake", MOONCAKE), ("azure", AZURE), ("access", ACCESS)])
def test_a_byte_order_mark_is_none_of_the_traces_business(name, lines):
    marked = [b"\xef\xbb\xbf" + lines[0], *lines[1:]]
    assert list(read(name, marked)) == list(read(name, lines))


def test_who_got_no_token_wanted_one():
    assert [each.output.tokens for each in read("azure", [AZURE[1].replace(b",10", b",0")])] == [1]
    assert [each.output.tokens for each in read("mooncake", [MOONCAKE[0].replace(b"52", b"0")])] == [1]


def test_our_own_lines_come_back():
    arrivals = find_workload("chat").traffic.arrivals(1, 1.0, 40)
    lines = [msgspec.json.encode(arrival) for arrival in arrivals]
    assert list(read("lab", lines)) == [
        msgspec.structs.replace(arrival, at_s=arrival.at_s - arrivals[0].at_s) for arrival in arrivals
    ]


@pytest.mark.parametrize(
    ("name", "lines", "what"),
    [
        ("mooncake", [MOONCAKE[0], b"{}"], "line 2: .*timestamp"),
        ("mooncake", [MOONCAKE[0].replace(b"46, 47", b"46")], "line 1: .*1 hash_ids for 1024 tokens; 2 are needed"),
        ("mooncake", [MOONCAKE[0].replace(b"1024", b"0").replace(b"46, 47", b"")], "line 1: 0 prompt"),
        ("azure", [*AZURE, b"yesterday,1,2"], "line 4: .*yesterday"),
        ("azure", [*AZURE, b"2023-11-16 18:17:04,1"], "line 4: "),
        ("azure", [b"2023-11-16 18:17:04,1,-5"], "line 1: 1 prompt and -5 output"),
        ("azure", [b"2023-11-16 18:17:04,\xff,5"], "line 1: "),
        ("access", [b'{"time": 5}'], "line 1: .*time"),
        ("access", [b" " * (LONGEST_LINE_BYTES + 1)], "line 1: .* bytes long"),
        ("access", [b'{"time":"2026-11-25T19:59:45Z","method":"GET"}'], "is empty"),
        ("lab", [b"[]"], "line 1: "),
        ("lab", [LAB, LAB.replace(b"1.5", b"1e300")], r"line 2: 1e\+300 s after the first line"),
        ("lab", [LAB.replace(b"}", b',"think_s":-1}')], "line 1: .* -1 s of thinking"),
        ("lab", [LAB, LAB.replace(b"}", b',"after":1}')], "line 2: it comes after arrival 1, and 1 are before it"),
        ("mooncake", [], "is empty"),
        ("azure", AZURE[:1], "is empty"),
    ],
)
def test_a_bad_line_is_named(name, lines, what):
    with pytest.raises(TraceError, match=what):
        list(read(name, lines))


@given(st.sampled_from(sorted(FORMATS)), st.lists(st.binary(max_size=60), max_size=5))
def test_whatever_the_bytes_they_are_read_or_refused(name, lines):
    with contextlib.suppress(TraceError):
        assert all(isinstance(arrival, Arrival) for arrival in read(name, lines))


def trace(*times_s, after=None):
    return Recorded(
        [
            Arrival(at_s=at_s, prompt=(Segment(index, 5),), output=Segment(100 + index, 1), after=(after or {}).get(index))
            for index, at_s in enumerate(times_s)
        ]
    )


def test_a_replay_keeps_its_order_and_takes_its_rate():
    recorded = trace(0.0, 1.0, 4.0, 9.0)
    assert recorded.qps == pytest.approx(1 / 3)
    assert [arrival.at_s for arrival in recorded.arrivals(0, 1 / 3, 4)] == pytest.approx([0, 1, 4, 9])
    assert [arrival.at_s for arrival in recorded.arrivals(0, 1.0, 3)] == pytest.approx([0, 1 / 3, 4 / 3])


def test_another_seed_begins_elsewhere_and_goes_round():
    recorded = trace(*map(float, range(10)))
    cut = recorded.arrivals(3, 1.0, 4)
    assert [arrival.prompt[0].id for arrival in cut] == [8, 9, 0, 1]
    assert [arrival.at_s for arrival in cut] == pytest.approx([0, 1, 2, 3])


def test_no_two_of_many_seeds_begin_at_the_same_place():
    recorded = trace(*map(float, range(10_000)))
    assert len({recorded.arrivals(seed, 1.0, 1)[0].prompt[0].id for seed in range(100)}) == 100


def test_a_turn_whose_predecessor_is_cut_off_begins_a_conversation():
    recorded = trace(*map(float, range(10)), after={1: 0, 3: 2})
    assert [arrival.after for arrival in recorded.arrivals(0, 1.0, 4)] == [None, 0, None, 2]
    assert [arrival.after for arrival in recorded.arrivals(3, 1.0, 3)] == [None, None, None]


def test_a_file_is_a_workload(tmp_path):
    path = tmp_path / "mine.ndjson"
    path.write_bytes(b"\n".join(msgspec.json.encode(arrival) for arrival in read("mooncake", MOONCAKE)))
    workload = find_workload(str(path))
    assert (workload.name, workload.lasts_s, workload.guess_qps) == ("mine", pytest.approx(6.0), pytest.approx(1 / 3))
    with pytest.raises(TraceError, match="call the file otherwise"):
        find_workload(str(path.rename(tmp_path / "chat.ndjson")))
    path.write_bytes(b"x")
    with pytest.raises(TraceError, match=r"mine\.ndjson: line 1"):
        find_workload(str(path))
    path.write_bytes(b"")
    with pytest.raises(TraceError, match="is empty"):
        find_workload(str(path))


@pytest.mark.parametrize(
    ("lines", "what"),
    [
        ([LAB], "1 request at one instant, so there is no rate"),
        ([LAB] * 3, "3 requests at one instant"),
        ([LAB, LAB.replace(b"1.5", b"3").replace(b"50", b"51")], "arrival 1: segment 1 has 51 tokens here and 50 elsewhere"),
        ([LAB, LAB.replace(b"1.5", b"0.5").replace(b"}", b',"after":0}')], "arrival 1 comes after arrival 0, which is later"),
    ],
)
def test_lines_that_are_no_trace_together_are_refused_before_anything_is_simulated(tmp_path, lines, what):
    path = tmp_path / "mine.ndjson"
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(TraceError, match=what):
        find_workload(str(path))


def test_lines_in_any_order_become_one_in_time_and_keep_whom_they_follow(tmp_path):
    path = tmp_path / "mine.ndjson"
    turn = LAB.replace(b"1.5", b"9").replace(b"}", b',"after":0}')
    path.write_bytes(b"\n".join([LAB.replace(b"1.5", b"4"), LAB, turn]))
    trace = find_workload(str(path)).traffic.trace
    assert [(arrival.at_s, arrival.after) for arrival in trace] == [(-2.5, None), (0.0, None), (5.0, 1)]
