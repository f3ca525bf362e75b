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
        ("lab", [b"[]"], "line 1: "),
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
    cut = recorded.arrivals(9, 1.0, 3)
    assert [arrival.prompt[0].id for arrival in cut] == [9, 0, 1]
    assert [arrival.at_s for arrival in cut] == pytest.approx([0, 1, 2])


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
