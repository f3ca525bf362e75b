"""Any bytes are records or a RecordsError, however they are cut; what real Envoys sent is read to the last field."""

import lzma
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.core.records import MAX_ITEM_BYTES, Record, Records
from shunter.picker.core.usage import Usage
from shunter.picker.errors import RecordsError

CAPTURE = lzma.decompress((Path(__file__).parent / "recordings" / "envoy-1.40.0-fluentd.xz").read_bytes())
ENTRY = {"type": "DownstreamEnd", "id": "4294967297", "status": 200, "host": "127.0.0.1:8000"}


def message(*entries, tag="shunter", options=()):
    return msgspec.msgpack.encode([tag, [[1795631453, entry] for entry in entries], *options])


def read(*pieces):
    stream = Records()
    records = [record for piece in pieces for record in stream.feed(piece)]
    return records, stream.unread


def test_what_envoy_sent_is_read():
    records, unread = read(CAPTURE)
    assert unread == 0
    assert [record.over for record in records] == [True, True, True, False, False, True, True]
    plain, stream, left = records[0], records[5], records[6]
    assert (plain.status, plain.attempts, plain.pick, plain.flags, plain.streamed) == (200, 1, plain.host, "-", False)
    assert plain.usage == Usage(5, 7, None)
    assert stream.usage == Usage(11, 13, 8)
    assert stream.streamed
    assert stream.duration_ms > 2000 > stream.first_us / 1000
    assert left.flags == "DC"


def test_the_recording_is_read_the_same_however_it_is_cut():
    whole = read(CAPTURE)
    for at in range(len(CAPTURE)):
        assert read(CAPTURE[:at], CAPTURE[at:]) == whole
    assert read(*(CAPTURE[at : at + 1] for at in range(len(CAPTURE)))) == whole


json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
small = json.filter(lambda value: len(msgspec.msgpack.encode(value)) < MAX_ITEM_BYTES // 2)


@given(
    st.lists(st.tuples(st.lists(st.just(ENTRY) | small, max_size=4), st.text(max_size=9), st.lists(small, max_size=1))),
    st.data(),
)
def test_messages_of_any_content_are_passed_over_to_the_last_byte(messages, data):
    sent = b"".join(message(*entries, tag=tag, options=options) for entries, tag, options in messages) + message(ENTRY)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=3)))
    pieces = [sent[start:end] for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    records, unread = read(*pieces)
    assert len(records) + unread == sum(len(entries) for entries, _, _ in messages) + 1
    assert records[-1] == msgspec.convert(ENTRY, Record)


@given(st.binary(max_size=300) | st.just(CAPTURE).flatmap(lambda data: st.integers(0, 500).map(lambda at: data[at:])))
def test_any_bytes_are_records_or_an_error(data):
    stream = Records()
    try:
        stream.feed(data)
    except RecordsError:
        pass
    else:
        assert len(stream._buffer) <= min(len(data), MAX_ITEM_BYTES)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GET / HTTP/1.1\r\n", "not fluentd's forward protocol"),
        (msgspec.msgpack.encode(["tag", b"packed"]), "not the forward mode"),
        (msgspec.msgpack.encode(["tag", 5, {}]), "not the forward mode"),
        (message({"type": "x" * MAX_ITEM_BYTES}), "an item of more than"),
        (b"\x92\xdb\xff\xff\xff\xff", "an item of more than"),
        (b"\x92\xa1t\x91\xc1", "begins nothing in msgpack"),
    ],
)
def test_what_is_not_the_protocol_is_refused_in_words(data, words):
    with pytest.raises(RecordsError, match=words):
        read(data[:3], data[3:])


def test_an_entry_that_is_no_record_is_counted_and_costs_no_other():
    records, unread = read(message(ENTRY, {"type": "TcpConnectionEnd"}, ENTRY | {"status": "two hundred"}, ENTRY))
    assert (len(records), unread) == (2, 2)


@pytest.mark.parametrize("name", ["id", "pick", "host", "flags", "content"])
@pytest.mark.parametrize("pieces", [1, 2])
def test_no_text_that_goes_on_from_here_is_longer_than_there_is_room_for(name, pieces):
    sent = message(ENTRY, ENTRY | {name: "x" * 3000}, ENTRY)
    records, unread = read(*([sent] if pieces == 1 else [sent[:100], sent[100:]]))
    assert (records, unread) == ([msgspec.convert(ENTRY, Record)] * 2, 1)


def test_an_item_of_a_text_that_is_too_long_is_refused_though_it_comes_at_once():
    with pytest.raises(RecordsError, match="an item of more than"):
        read(message(ENTRY | {"host": "x" * 40_000}))


def test_a_message_of_a_million_entries_is_not_kept():
    stream = Records()
    stream.feed(b"\x92\xa1t\xdd\x00\x0f\x42\x40")
    entry = msgspec.msgpack.encode([1, ENTRY])
    for _ in range(100):
        assert len(stream.feed(entry * 100)) == 100
        assert len(stream._buffer) == 0


@pytest.mark.parametrize(
    ("text", "ticket"),
    [("4294967297", 4294967297), ("7-1", None), ("", None), ("٣", None), ("-1", None), (str(2**53), None), ("9" * 99, None)],
)
def test_a_ticket_is_a_number_of_ours(text, ticket):
    assert Record(type="DownstreamEnd", id=text).ticket == ticket


def test_tokens_that_cannot_be_are_unknown():
    lies = Record(type="DownstreamEnd", prompt=-1.0, completion=1e300, cached=float("nan"))
    assert lies.usage == Usage()


def test_anthropics_prompt_includes_what_caches_served():
    record = Record(type="DownstreamEnd", prompt=11, completion=13, cache_read=8, cache_write=3)
    assert record.usage == Usage(22, 13, 8)
