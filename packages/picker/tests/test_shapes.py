"""Headers that are read by what they have in common with others, beside the protobuf library."""

import contextlib

from envoy.config.core.v3 import base_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.transport.protobuf import decode_varint
from shunter.picker.transport.shapes import Shapes

NAMES = [":path", "authorization", "X-Request-ID", "content-length", "cookie"]
BYTES = st.sampled_from(b"ab0~ \t\x0a\x1a\xff")


def written(values, *, last=False):
    """An event as Envoy writes it."""
    headers = [base_pb2.HeaderValue(key=name, raw_value=value) for name, value in zip(NAMES, values, strict=True)]
    told = pb.HttpHeaders(headers=base_pb2.HeaderMap(headers=headers), end_of_stream=last)
    return pb.ProcessingRequest(request_headers=told).SerializeToString()


def read(shapes, event):
    return shapes.read(event, decode_varint(event, 1)[1])


def meant(values):
    return [(name.lower(), value.decode("latin-1")) for name, value in zip(NAMES, values, strict=True)]


@st.composite
def alike(draw):
    """Values of several messages, as long in each as in all others."""
    lengths = draw(st.lists(st.sampled_from([0, 1, 10, 26, 40, 130, 1500]), min_size=len(NAMES), max_size=len(NAMES)))
    made = [st.just(b"same".ljust(size)[:size]) | st.lists(BYTES, min_size=size, max_size=size).map(bytes) for size in lengths]
    return draw(st.lists(st.tuples(*made), min_size=2, max_size=6))


@given(alike(), st.booleans())
def test_messages_that_are_alike_are_read_each_with_its_own_values(told, last):
    shapes = Shapes()
    for values in told:
        assert read(shapes, written(values, last=last)) == (meant(values), last)


@given(st.lists(st.tuples(*[st.lists(BYTES, max_size=4).map(bytes)] * len(NAMES)), max_size=20))
def test_messages_that_are_not_alike_do_not_disturb_each_other(told):
    shapes = Shapes()
    for values in told:
        assert read(shapes, written(values)) == (meant(values), False)


@given(alike(), st.data())
def test_a_changed_byte_changes_what_is_read_as_if_nothing_were_known(told, data):
    shapes = Shapes()
    for values in told:
        read(shapes, written(values))
    event = bytearray(written(told[0]))
    at = data.draw(st.integers(0, len(event) - 1))
    event[at] = data.draw(st.integers(0, 255))
    answers = []
    for each in (shapes, Shapes()):
        answers.append("no")
        with contextlib.suppress(IndexError):
            answers[-1] = each.read(bytes(event), 3)
    assert answers[0] == answers[1]


def test_what_a_caller_does_with_its_headers_is_no_others_business():
    shapes, event = Shapes(), written([b"a"] * len(NAMES))
    read(shapes, event)[0].clear()
    read(shapes, event)[0].clear()
    assert read(shapes, event) == (meant([b"a"] * len(NAMES)), False)


def test_only_so_much_is_kept():
    shapes = Shapes()
    for size in range(3000):
        read(shapes, written([b"a" * size, *[b""] * (len(NAMES) - 1)]))
    read(shapes, written([b"a" * 100_000, *[b""] * (len(NAMES) - 1)]))
    assert len(shapes._kept) <= 512
    assert max(size for size, _ in shapes._kept) <= 4096
