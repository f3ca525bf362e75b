"""The wire against the protobuf library: what it reads, what it writes, and that foreign bytes do no harm."""

import contextlib

import pytest
from envoy.config.core.v3 import base_pb2
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from shunter.picker.core import events
from shunter.picker.core.events import (
    BodyMode,
    BodyReply,
    HeadersReply,
    Immediate,
    Mutation,
    Protocol,
    RequestBody,
    RequestHeaders,
    RequestTrailers,
    ResponseBody,
    ResponseHeaders,
    ResponseTrailers,
    Side,
    TrailersReply,
)
from shunter.picker.errors import ProtocolError
from shunter.picker.transport.frames import MAX_FRAME_BYTES
from shunter.picker.transport.metadata import MAX_DEPTH
from shunter.picker.transport.wire import decode, encode, encode_pieces

FIELDS = {
    "request_headers": RequestHeaders,
    "response_headers": ResponseHeaders,
    "request_body": RequestBody,
    "response_body": ResponseBody,
    "request_trailers": RequestTrailers,
    "response_trailers": ResponseTrailers,
}


def plain(value):
    """A google.protobuf.Value as a Python value."""
    match value.WhichOneof("kind"):
        case "number_value":
            return value.number_value
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return {name: plain(inner) for name, inner in value.struct_value.fields.items()}
        case "list_value":
            return [plain(inner) for inner in value.list_value.values]
        case _:
            return None


def read_by_library(message):
    """What ``decode`` should return, by way of the protobuf library."""
    name = message.WhichOneof("request")
    if name is None:
        return None
    inner = getattr(message, name)
    known = {
        "metadata": {
            space: {key: plain(value) for key, value in fields.fields.items()}
            for space, fields in message.metadata_context.filter_metadata.items()
        }
    }
    if name.endswith("body"):
        known |= {"data": inner.body, "end_of_stream": inner.end_of_stream}
    elif name.endswith("headers"):
        # The library decodes text as UTF-8, an event as latin-1: so that every byte survives.
        known |= {
            "headers": [
                (h.key.encode().decode("latin-1").lower(), (h.raw_value or h.value.encode()).decode("latin-1"))
                for h in inner.headers.headers
            ],
            "end_of_stream": inner.end_of_stream,
            "protocol": Protocol(
                BodyMode(message.protocol_config.request_body_mode), BodyMode(message.protocol_config.response_body_mode)
            )
            if message.HasField("protocol_config")
            else None,
        }
    return FIELDS[name](**known)


texts = st.text(st.characters(codec="utf-8"), max_size=200)
header = st.builds(base_pb2.HeaderValue, key=texts, value=texts, raw_value=st.binary(max_size=200))
raw_header = st.builds(base_pb2.HeaderValue, key=texts, raw_value=st.binary(max_size=20_000))
header_map = st.lists(header | raw_header, max_size=6).map(lambda found: base_pb2.HeaderMap(headers=found))
values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)
structs = st.dictionaries(texts, texts, max_size=4) | st.dictionaries(texts, values, max_size=3)  # strings: as picks come back


@st.composite
def messages(draw):
    message = pb.ProcessingRequest()
    match draw(st.sampled_from([*FIELDS, None])):
        case None:
            pass
        case name if name.endswith("body"):
            getattr(message, name).CopyFrom(pb.HttpBody(body=draw(st.binary(max_size=300)), end_of_stream=draw(st.booleans())))
        case name if name.endswith("trailers"):
            getattr(message, name).CopyFrom(pb.HttpTrailers(trailers=draw(header_map)))
        case name:
            getattr(message, name).CopyFrom(pb.HttpHeaders(headers=draw(header_map), end_of_stream=draw(st.booleans())))
    for space, fields in draw(st.dictionaries(texts, structs, max_size=2)).items():
        message.metadata_context.filter_metadata[space].update(fields)
    if draw(st.booleans()):
        message.protocol_config.request_body_mode = draw(st.integers(0, 4))
        message.protocol_config.response_body_mode = draw(st.integers(0, 4))
    if draw(st.booleans()):
        message.observability_mode = True
        message.attributes["envoy.filters.http.ext_proc"].update({"request.path": "/"})
    return message


def agree(data):
    """Assert that decode and the library mean the same, as far as decode promises it."""
    try:
        message = pb.ProcessingRequest.FromString(data)
        wanted = read_by_library(message)
    except (DecodeError, ValueError):  # ValueError: a body mode that we do not know
        wanted = None
    try:
        event = decode(data)
    except ProtocolError:
        assert wanted is None
    else:
        if wanted is not None:
            assert event == wanted
    return wanted


@given(messages())
def test_a_message_of_the_library_is_read_as_the_library_reads_it(message):
    agree(message.SerializeToString())


@given(st.lists(messages(), min_size=2, max_size=3))
def test_concatenated_messages_are_merged_as_the_library_merges_them(parts):
    agree(b"".join(part.SerializeToString() for part in parts))


@given(messages(), st.data())
def test_a_cut_or_changed_message_is_an_event_or_a_protocol_error(message, data):
    encoded = bytearray(message.SerializeToString())
    if encoded:
        at = data.draw(st.integers(0, len(encoded) - 1))
        encoded[at] = data.draw(st.integers(0, 255))
        encoded = encoded[: data.draw(st.integers(0, len(encoded)))]
    with contextlib.suppress(ProtocolError):
        assert isinstance(decode(bytes(encoded)), events.Event)


@given(st.binary(max_size=200))
@example(b"\x12")
@example(b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01")
@example(b"\x12\x02\x0a\x05")
@example(b"\x13\x14")
@example(b"\x00")
def test_any_bytes_are_an_event_or_a_protocol_error(data):
    with contextlib.suppress(ProtocolError):
        assert isinstance(decode(data), events.Event)


@pytest.mark.parametrize("fields", [{"key": "A", "value": "v"}, {"value": "v", "raw_value": b"raw"}, {"key": "B"}])
def test_headers_that_envoy_would_write_otherwise(fields):
    headers = base_pb2.HeaderMap(headers=[base_pb2.HeaderValue(**fields), base_pb2.HeaderValue(key="x", raw_value=b"\xff")])
    message = pb.ProcessingRequest(request_headers=pb.HttpHeaders(headers=headers))
    assert agree(message.SerializeToString()).headers[1] == ("x", "\xff")


def nested(depth):
    message = pb.ProcessingRequest(request_trailers=pb.HttpTrailers())
    value = message.metadata_context.filter_metadata["deep"].fields["a"]
    for _ in range(depth):
        value = value.struct_value.fields["a"]
    value.string_value = "bottom"
    return message.SerializeToString()


def test_metadata_may_be_nested_so_deep_and_no_deeper():
    assert agree(nested(MAX_DEPTH - 1)) is not None
    with pytest.raises(ProtocolError, match="deeper than 32"):
        decode(nested(MAX_DEPTH))


def test_an_unknown_body_mode_names_the_known_ones():
    message = pb.ProcessingRequest(request_headers=pb.HttpHeaders())
    message.protocol_config.request_body_mode = 5  # GRPC
    with pytest.raises(ProtocolError, match=r"5 is not a valid BodyMode; .*BUFFERED"):
        decode(message.SerializeToString())


def test_many_repeated_fields_cost_linear_time():
    """A million merges would take minutes if each copied what came before."""
    assert decode(b"\x12\x02\x18\x01" * 300_000 + b"\x42\x00" * 300_000) == RequestHeaders([], end_of_stream=True)


names = st.text(st.characters(max_codepoint=127), max_size=150)
set_headers_of = st.lists(st.tuples(names, st.text(st.characters(max_codepoint=255), max_size=150)), max_size=3).map(tuple)
mutations = st.none() | st.builds(Mutation, set_headers_of, st.lists(names, max_size=2).map(tuple), st.booleans())
dynamic = st.none() | st.dictionaries(texts, structs, max_size=2)
sides = st.sampled_from(Side)
bodies = st.binary(max_size=300)
replies = st.one_of(
    st.builds(HeadersReply, sides, mutations, dynamic),
    st.builds(BodyReply, sides, mutations, bodies, st.booleans(), st.none(), dynamic),
    st.builds(BodyReply, sides, mutations, st.none(), st.just(False), st.none() | bodies, dynamic),
    st.builds(TrailersReply, sides),
    st.builds(Immediate, st.integers(100, 599), set_headers_of, bodies, texts),
)


def set_headers(mutation, headers):
    for name, value in headers:
        option = mutation.set_headers.add()
        option.header.key = name
        option.header.raw_value = value.encode("latin-1")


def write_by_library(reply):
    """What ``encode`` should mean, by way of the protobuf library."""
    message = pb.ProcessingResponse()
    if isinstance(reply, Immediate):
        inner = message.immediate_response
        inner.status.code = reply.status
        set_headers(inner.headers, reply.headers)
        if not reply.headers:
            inner.ClearField("headers")
        inner.body, inner.details = reply.body, reply.details
        return message
    kind = {HeadersReply: "headers", BodyReply: "body", TrailersReply: "trailers"}[type(reply)]
    inner = getattr(message, f"{reply.side.name.lower()}_{kind}")
    inner.SetInParent()
    if isinstance(reply, TrailersReply):
        return message
    if reply.mutation and (reply.mutation.set_headers or reply.mutation.remove_headers):
        set_headers(inner.response.header_mutation, reply.mutation.set_headers)
        inner.response.header_mutation.remove_headers.extend(reply.mutation.remove_headers)
    if reply.mutation and reply.mutation.clear_route_cache:
        inner.response.clear_route_cache = True
    if isinstance(reply, BodyReply) and reply.streamed is not None:
        inner.response.body_mutation.streamed_response.SetInParent()
        inner.response.body_mutation.streamed_response.body = reply.streamed
        inner.response.body_mutation.streamed_response.end_of_stream = reply.end_of_stream
    elif isinstance(reply, BodyReply) and reply.replaced is not None:
        inner.response.body_mutation.body = reply.replaced
    for space, fields in (reply.dynamic_metadata or {}).items():
        message.dynamic_metadata.fields[space].struct_value.SetInParent()
        message.dynamic_metadata.fields[space].struct_value.update(fields)
    return message


@given(replies)
def test_a_reply_means_to_the_library_what_it_says(reply):
    assert pb.ProcessingResponse.FromString(encode(reply)) == write_by_library(reply)


@pytest.mark.parametrize("last", [False, True])
def test_a_large_body_that_goes_on_is_written_without_a_copy(last):
    body = bytes(MAX_FRAME_BYTES + 1)
    reply = BodyReply(Side.REQUEST, streamed=body, end_of_stream=last)
    lead, same, *_ = pieces = encode_pieces(reply)
    assert same is body
    assert len(lead) < 32
    assert pb.ProcessingResponse.FromString(b"".join(pieces)) == write_by_library(reply)


def test_text_that_has_no_encoding_is_replaced():
    """E.g. half of a surrogate pair out of a client's JSON: an answer with a mark in it beats none."""
    reply = HeadersReply(Side.REQUEST, Mutation((("x", "\u20ac"),)), {"envoy.lb": {"model": "\ud800"}})
    message = pb.ProcessingResponse.FromString(encode(reply))
    assert message.request_headers.response.header_mutation.set_headers[0].header.raw_value == b"?"
    assert plain(message.dynamic_metadata.fields["envoy.lb"]) == {"model": "?"}


def test_metadata_that_has_no_form_is_a_type_error():
    with pytest.raises(TypeError, match="cannot hold"):
        encode(HeadersReply(Side.REQUEST, dynamic_metadata={"a": {"b": object()}}))
