"""What a connection writes at once: all of it in one piece, of large answers a part at a time, in order."""

from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.core.limits import Budget
from shunter.picker.transport.frames import MAX_FRAME_BYTES
from shunter.picker.transport.outbox import Outbox
from shunter.picker.transport.patience import Patience
from shunter.picker.transport.streams import Stream

MEBIBYTE = 1 << 20


def ignore(_stream):
    pass


def outbox(sendable=1 << 30):
    made = Outbox(Patience(), Budget(MEBIBYTE), on_end=ignore, on_room=ignore, on_excess=ignore)
    made.widen(sendable)
    return made


def taken(box):
    return b"".join(map(bytes, box.take()))


def test_small_answers_are_one_piece():
    box, stream = outbox(), Stream(1, 1 << 30)
    for _ in range(1000):
        box.send_data(stream, [b"x" * 200], end_stream=False)
    assert len(box.take()) == 1
    assert box.empty


def test_of_a_large_answer_no_more_than_a_part_is_written_at_once():
    box, stream = outbox(), Stream(1, 1 << 30)
    box.send_data(stream, [bytes(10 * MEBIBYTE)], end_stream=True)
    sizes = []
    while not box.empty:
        sizes.append(len(taken(box)))
    assert sum(sizes) > 10 * MEBIBYTE
    assert max(sizes) <= 512 * 1024 + MAX_FRAME_BYTES


def test_small_answers_behind_a_large_one_are_through_as_soon_as_it_is():
    box, large, small = outbox(), Stream(1, 1 << 30), Stream(3, 1 << 30)
    box.send_data(large, [bytes(MEBIBYTE)], end_stream=True)
    for _ in range(5):
        for _ in range(200):
            box.send_data(small, [b"x" * 200], end_stream=False)
        box.take()
    assert box.empty


@given(st.lists(st.integers(0, 100_000), max_size=30), st.data())
def test_bytes_are_written_in_the_order_in_which_they_were_said(sizes, data):
    box, whole, stream = outbox(), outbox(), Stream(1, 1 << 30)
    written = b""
    for at, size in enumerate(sizes):
        for each in (box, whole):
            each.send_data(stream, [b"|", bytes([at]) * size, bytes([at])], end_stream=False)
        if data.draw(st.booleans()):
            written += taken(box)
    rest = b"".join(iter(lambda: taken(box), b""))
    assert written + rest == b"".join(iter(lambda: taken(whole), b""))
