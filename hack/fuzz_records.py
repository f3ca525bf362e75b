"""Promise: any bytes are records or a RecordsError, the same however they are cut, and little of them is kept."""

import msgspec

from shunter.picker.core.records import MAX_ITEM_BYTES, Records
from shunter.picker.errors import RecordsError

ENTRY = {"type": "DownstreamEnd", "id": "4294967297", "status": 200, "host": "127.0.0.1:8000", "flags": "-", "first_us": 8132}

CORPUS = [
    msgspec.msgpack.encode(message)
    for message in (
        ["shunter", [[1795631453, ENTRY]]],
        ["shunter", [[1795631453, ENTRY], [1795631454, ENTRY | {"type": "DownstreamPeriodic", "prompt": 11}]]],
        ["shunter", [[msgspec.msgpack.Ext(0, b"\0" * 8), ENTRY | {"sent": 2**40, "cached": 1.5}]], {"chunk": "x" * 40}],
        ["shunter", []],
        ["shunter", [[0, {"type": "DownstreamEnd", "more": [None, True, b"\0" * 300, {"x" * 300: [-1, -200, 1.5]}]}]]],
        ["shunter", b"packed"],
        ["shunter", 1, ENTRY],
    )
]


def read(pieces):
    stream, records = Records(), []
    try:
        for piece in pieces:
            records += stream.feed(piece)
            assert len(stream._buffer) <= MAX_ITEM_BYTES
    except RecordsError:
        return records, None
    return records, stream.unread


def target(data: bytes) -> None:
    half = len(data) // 2
    found, unread = read([data])
    cut, cut_unread = read([data[:half], data[half:]])
    assert unread == cut_unread
    if unread is not None:
        assert repr(found) == repr(cut)  # a NaN is not equal to itself
    for record in cut:
        record.ticket, record.usage, record.over, record.streamed  # noqa: B018  none may raise
