"""What an attacker of the HTTP/2 connection gets: floods end it, and what it makes us remember is bounded."""

import pytest

from shunter.picker.testing_h2 import (
    ANSWER,
    BLOCK,
    HELLO,
    TERMS,
    Data,
    Recorded,
    Reset,
    continuation,
    data,
    feed,
    frame,
    opened,
    request,
    setting,
    verdict,
    window,
    without,
)
from shunter.picker.transport import blocks, frames, patience
from shunter.picker.transport.frames import MAX_FRAME_BYTES, Code, Flag, Kind, Setting
from shunter.picker.transport.h2 import Terms

CALM = ("connection", Code.ENHANCE_YOUR_CALM)
FLOODS = {
    "ping": frame(Kind.PING, 0, 0, bytes(8)),
    "settings": frames.settings({}),
    "empty data": data(1, b""),
    "padding only": frame(Kind.DATA, Flag.PADDED, 1, b"\x01\0"),
    "priority": frame(Kind.PRIORITY, 0, 1, bytes(5)),
    "window updates": window(1, 1),
    "unknown frames": frame(77, 0, 0),
    "resets of nothing": frames.reset(1, Code.CANCEL),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_ends_the_connection(flood):
    connection = opened(request(1))
    connection.take()
    sent = written = 0
    while not connection.closed:
        feed(connection, FLOODS[flood])
        sent += len(FLOODS[flood])
        written += len(connection.take())
        assert sent <= 2 * patience.CONTROL_BYTES
    assert connection.fault.startswith("ENHANCE_YOUR_CALM")
    assert written <= 2 * sent


@pytest.mark.parametrize("flood", FLOODS)
def test_the_same_amid_work_or_over_time_is_no_flood(flood):
    connection = opened(request(1))
    for at in range(20_000):
        feed(connection, FLOODS[flood], request(2 * at + 3, end=True))
        connection.say_headers(2 * at + 3, ANSWER)
        connection.say_data(2 * at + 3, b"work", end_stream=True)
        connection.take()
    for _ in range(20):
        feed(connection, FLOODS[flood] * 1000)
        connection.take()
        connection.forgive()
    assert not connection.closed


def test_windows_of_many_streams_are_not_changed_often():
    connection = opened(*(request(2 * at + 1) for at in range(40_000)), terms=Terms())
    connection.forgive()
    changes = 0
    while not connection.closed:
        feed(connection, setting(Setting.INITIAL_WINDOW_SIZE, changes % 7))
        changes += 1
    assert 1 < changes < 20


def rapid_reset(at):
    return request(at) + frames.reset(at, Code.CANCEL)


def made_reset(at):
    """The client makes the server reset (CVE-2025-8671)."""
    return request(at) + window(at, 0)


def malformed(at):
    return request(at, fields=without(":path"))


@pytest.mark.parametrize("attack", [rapid_reset, made_reset, malformed])
def test_requests_that_nobody_waits_for_end_the_connection(attack):
    connection = opened()
    at = 1
    while not connection.closed:
        feed(connection, attack(at))
        at += 2
        assert at < 3 * patience.RESETS
    assert verdict(connection) == CALM


def test_streams_that_were_answered_and_then_reset_are_normal():
    def answer(connection, event):
        if isinstance(event, Data):
            connection.say_headers(event.stream_id, ANSWER)
            connection.say_data(event.stream_id, b"answer")

    connection = Recorded(TERMS, answer)
    connection.hear(HELLO)
    for at in range(1, 8 * patience.RESETS, 2):
        connection.hear(request(at) + data(at, b"ask") + frames.reset(at, Code.CANCEL))
        connection.take()
    assert not connection.closed


def test_a_refused_stream_costs_nothing_but_its_number():
    connection = opened(*(request(2 * at + 1) for at in range(10)))
    for at in range(10, 500):
        feed(connection, request(2 * at + 1))
    assert len(connection._streams) == 10
    assert not connection.closed


@pytest.mark.parametrize("piece", [b"", b"x", bytes(MAX_FRAME_BYTES)])
def test_a_header_block_without_end_ends_the_connection(piece):
    connection = opened(request(1, flags=0))
    for _ in range(blocks.CONTINUATIONS + 1):
        if not connection.closed:
            feed(connection, continuation(1, piece))
    assert verdict(connection) == CALM


def test_a_block_that_means_more_than_it_may_ends_the_connection():
    connection = opened()
    literal = b"\x40\x01a\x7f\xa1\x1e" + b"x" * 4000  # into the table
    assert len(feed(connection, frame(Kind.HEADERS, Flag.END_HEADERS, 1, BLOCK + literal))) == 1
    feed(connection, frame(Kind.HEADERS, Flag.END_HEADERS, 3, BLOCK + b"\xbe" * 100))
    assert verdict(connection) == CALM


def test_answers_that_are_not_taken_are_bounded():
    connection = opened(setting(Setting.INITIAL_WINDOW_SIZE, 0), request(1), request(3))
    connection.take()
    connection.say_data(1, bytes(200_000))
    connection.say_data(3, bytes(200_000))
    assert verdict(connection) == (3, Code.ENHANCE_YOUR_CALM)
    assert connection._outbox._waiting.taken_bytes == 200_000
    ping = frame(Kind.PING, 0, 0, bytes(8))
    assert feed(connection, ping, ping) == [Reset(3, Code.ENHANCE_YOUR_CALM)]


def test_the_memory_of_ended_streams_is_bounded():
    connection = opened()
    for at in range(20_000):
        feed(connection, request(2 * at + 1, end=True))
        connection.say_trailers(2 * at + 1, ANSWER)
        connection.take()
    assert len(connection._past._by_us) <= 8_001
    assert not connection._streams
