"""The reader of event streams takes what the standard allows and nothing else."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.conformance.core.sse import ServerSentEvent, read_events
from shunter.conformance.errors import FormatError

LINE = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"))


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"", []),
        (b"data: a\n\ndata: b\n\n", ["a", "b"]),
        (b"data:a\r\n\r\n", ["a"]),
        (b"data: a\r\rdata: b\r\r", ["a", "b"]),
        (b"data: a\ndata:  b\n\n", ["a\n b"]),
        (b": heartbeat\n\ndata: a\n\n\n", ["a"]),
        (b"\xef\xbb\xbfid: 7\nretry: 10\ndata\n\n", [""]),
    ],
)
def test_what_the_standard_allows(stream, events):
    assert [event.data for event in read_events(stream)] == events


@pytest.mark.parametrize(
    ("stream", "problem"),
    [
        (b'{"id": 1}\n\n', "line 1"),
        (b"data: a\n\ndate: b\n\n", "line 3"),
        (b"data: a\n\ndata: b", "line 3: the stream ends inside an event: 'data: b'"),
        (b"data: a\n", "line 2: the stream ends inside an event"),
        (b"event: x\n\n", "line 2: an event without data"),
        (b"data: \xff\n\n", "byte 6"),
    ],
)
def test_what_a_browser_would_hide(stream, problem):
    with pytest.raises(FormatError, match=problem):
        read_events(stream)


@given(st.lists(st.tuples(st.lists(LINE, min_size=1), st.sampled_from(["", "ping"]))), st.sampled_from(["\n", "\r\n", "\r"]))
def test_what_is_written_is_read(events, end):
    stream = "".join(
        (f"event: {name}{end}" if name else "") + "".join(f"data: {line}{end}" for line in lines) + end
        for lines, name in events
    )
    expected = tuple(ServerSentEvent("\n".join(lines), name or "message") for lines, name in events)
    assert read_events(stream.encode()) == expected


@given(st.binary() | st.text(st.sampled_from("dataevnt: \r\n\x00é")).map(str.encode))
def test_any_bytes_are_read_or_refused(stream):
    with suppress(FormatError):
        assert all(isinstance(event, ServerSentEvent) for event in read_events(stream))


@given(st.lists(LINE.filter(bool), min_size=1), st.data())
def test_a_cut_stream_never_gains_events(lines, data):
    stream = "".join(f"data: {line}\n\n" for line in lines).encode()
    cut = stream[: data.draw(st.integers(0, len(stream)))]
    try:
        events = read_events(cut)
    except FormatError:
        return
    assert events == read_events(stream)[: len(events)]
