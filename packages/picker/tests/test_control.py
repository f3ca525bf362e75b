"""Supervisor and child understand each other however the bytes arrive, and neither is harmed by bytes that mean nothing."""

import asyncio
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter.picker.shell import control
from shunter.picker.shell.control import (
    Caller,
    Decided,
    Decisions,
    Drain,
    Failure,
    Hello,
    Ping,
    Recall,
    Recalled,
    Stacks,
    Status,
    Traced,
    connect,
)

TEXTS = st.text(max_size=20)
MESSAGES = st.one_of(
    st.builds(Ping),
    st.builds(Decisions, st.integers(0, 999_999_999), st.none() | TEXTS),
    st.builds(Recall, st.integers(0, 999_999_999), st.none() | st.floats(0, 1e9)),
    st.builds(Recalled, st.lists(st.binary(max_size=9)).map(tuple), st.none() | st.floats(0, 1e9)),
    st.builds(Stacks),
    st.builds(Drain),
    st.builds(Hello, st.integers(0, 65535)),
    st.builds(Failure, TEXTS),
    st.builds(Status, st.lists(TEXTS).map(tuple), st.dictionaries(TEXTS, TEXTS), st.integers(0, 1 << 40)),
    st.builds(Decided, st.lists(st.dictionaries(TEXTS, TEXTS | st.integers(0, 9) | st.none())).map(tuple)),
    st.builds(Traced, TEXTS),
)


async def receive_all(*pieces):
    """What a link makes of these pieces, until it gives up."""
    ours, theirs = socket.socketpair()
    link = await connect(ours)
    writer = (await asyncio.open_unix_connection(sock=theirs))[1]
    received = []
    for piece in pieces:
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(0)
    writer.close()
    await writer.wait_closed()
    while (message := await link.receive()) is not None:
        received.append(message)
    await link.close()
    return received


async def sent(*messages):
    """The bytes of these messages."""
    ours, theirs = socket.socketpair()
    link = await connect(ours)
    reader, writer = await asyncio.open_unix_connection(sock=theirs)
    for message in messages:
        link.send(message)
    await link.close()
    data = await reader.read()
    writer.close()
    await writer.wait_closed()
    return data


@settings(max_examples=30)
@given(st.lists(MESSAGES, max_size=4), st.integers(1, 9))
def test_messages_arrive_as_they_were_sent_however_they_are_cut(messages, size):
    async def travel():
        data = await sent(*messages)
        return await receive_all(*[data[at : at + size] for at in range(0, len(data), size)])

    assert asyncio.run(travel()) == messages


@settings(max_examples=100)
@given(st.binary(max_size=64))
def test_foreign_bytes_are_the_end_and_never_an_exception(data):
    asyncio.run(receive_all(data))


@pytest.mark.parametrize(
    "data",
    [
        (control.LONGEST_BYTES + 1).to_bytes(4, "big"),
        b"\0\0\0\1\xc1",
        b"\0\0\0\1\x80",
        b"\0\0\0\7\x81\xa4type\x01",
        b"\0\0\0\x09",
    ],
    ids=["longest", "no msgpack", "no type", "no known type", "cut short"],
)
async def test_what_nobody_can_read_is_the_end(data):
    assert await receive_all(data) == []


@pytest.fixture
async def pair():
    """A supervisor's Caller and its child's Link."""
    ours, theirs = socket.socketpair()
    caller, child = Caller(await connect(ours)), await connect(theirs)
    yield caller, child
    await caller.close()
    await child.close()


async def test_replies_go_to_who_asked_even_if_one_has_gone_home(pair):
    caller, child = pair
    listening = asyncio.create_task(caller.listen())
    status, gone, decided = caller.ask(Ping()), caller.ask(Stacks()), caller.ask(Decisions(1))
    gone.cancel()
    caller.tell(Drain())
    assert [await child.receive() for _ in range(4)] == [Ping(), Stacks(), Decisions(1), Drain()]
    for reply in (Status(streams=3), Traced("nowhere"), Decided()):
        child.send(reply)
    assert await status == Status(streams=3)
    assert await decided == Decided()
    await child.close()
    await listening


async def test_who_waits_for_a_child_that_ends_learns_it(pair):
    caller, child = pair
    listening = asyncio.create_task(caller.listen())
    answer = caller.ask(Ping())
    await child.close()
    assert await answer is None
    await listening
