"""What is read by what it has in common with others: headers and metadata, beside the protobuf library."""

import pytest
from envoy.config.core.v3 import base_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.errors import ProtocolError
from shunter.picker.transport.headers import learn_headers, renew_headers
from shunter.picker.transport.protobuf import field
from shunter.picker.transport.shapes import Shapes
from shunter.picker.transport.wire import decode

NAMES = [":path", "authorization", "X-Request-ID", "content-length", "cookie"]
PRINTABLE = st.sampled_from(b"ab0~ \xff")  # other bytes look like tags and lengths
BYTES = PRINTABLE | st.sampled_from(b"\t\x0a\x1a")


def shapes():
    return Shapes(learn_headers, renew_headers)


def written(values, *, last=False):
    """Headers as Envoy writes them."""
    headers = [base_pb2.HeaderValue(key=name, raw_value=value) for name, value in zip(NAMES, values, strict=True)]
    return pb.HttpHeaders(headers=base_pb2.HeaderMap(headers=headers), end_of_stream=last).SerializeToString()


def meant(values):
    return [(name.lower(), value.decode("latin-1")) for name, value in zip(NAMES, values, strict=True)]


@st.composite
def alike(draw):
    """Values of several messages, as long in each as in all others."""
    lengths = draw(st.lists(st.sampled_from([0, 1, 10, 26, 40, 130, 1500]), min_size=len(NAMES), max_size=len(NAMES)))
    some = draw(st.sampled_from([PRINTABLE, PRINTABLE, BYTES]))
    made = [st.lists(some, max_size=min(size, 12)).map(lambda drawn, size=size: bytes(drawn).ljust(size)) for size in lengths]
    return draw(st.lists(st.tuples(*made), min_size=2, max_size=6))


@given(alike(), st.booleans())
def test_messages_that_are_alike_are_read_each_with_its_own_values(told, last):
    read = shapes().read
    for values in told:
        assert read(written(values, last=last)) == (meant(values), last)


@given(st.lists(st.tuples(*[st.lists(BYTES, max_size=4).map(bytes)] * len(NAMES)), max_size=20))
def test_messages_that_are_not_alike_do_not_disturb_each_other(told):
    read = shapes().read
    for values in told:
        assert read(written(values)) == (meant(values), False)


@given(alike(), st.data())
def test_a_changed_byte_changes_what_is_read_as_if_nothing_were_known(told, data):
    read = shapes().read
    for values in told:
        read(written(values))
    changed = bytearray(written(told[0]))
    at = data.draw(st.integers(0, len(changed) - 1))
    changed[at] = data.draw(st.integers(0, 255))
    assert read(bytes(changed)) == shapes().read(bytes(changed))


def test_what_is_kept_does_not_grow_with_what_is_sent():
    kept = shapes()
    for size in range(3000):
        kept.read(written([b"a" * size, *[b""] * (len(NAMES) - 1)]))
    many = pb.HttpHeaders(headers=base_pb2.HeaderMap(headers=[base_pb2.HeaderValue(key="a", raw_value=b"b")] * 70))
    for _ in range(2):
        kept.read(written([b"a" * 100_000, *[b""] * (len(NAMES) - 1)]))
        kept.read(many.SerializeToString())
    assert len(kept._kept) <= 512
    assert max(size for size, _ in kept._kept) <= 4096
    assert len(many.SerializeToString()) not in {size for size, _ in kept._kept}


def told(metadata):
    """Metadata as they come back with a response."""
    return decode(b"\x2a\x02\x10\x01" + field(0x42, metadata)).metadata


texts = st.text("ab0 \n\x1a", max_size=3) | st.sampled_from(["\xe4", "\udc80"])


@given(st.lists(st.dictionaries(texts, st.dictionaries(texts, texts, max_size=3), max_size=3), min_size=1, max_size=6))
def test_metadata_are_what_the_library_wrote_however_alike_they_are(seen):
    for metadata in seen:
        message = base_pb2.Metadata()
        try:
            for space, fields in metadata.items():
                message.filter_metadata[space].update(fields)
        except (UnicodeEncodeError, ValueError):
            continue
        assert told(message.SerializeToString()) == metadata


def test_a_text_that_is_not_utf_8_is_an_error_even_where_others_of_its_shape_are_none():
    def metadata(text):
        return b"\x0a\x10\x0a\x01a\x12\x0b\x0a\x09\x0a\x01b\x12\x04\x1a\x02" + text

    for text in ("ab", "ba", "aa", "bb"):
        assert told(metadata(text.encode())) == {"a": {"b": text}}
    assert told(metadata("\xe4".encode())) == {"a": {"b": "\xe4"}}
    with pytest.raises(ProtocolError):
        told(metadata(b"\xe4a"))
