"""The short cut that a piece of a response takes through a stream, beside the way that everything may take."""

import pytest
from envoy.service.ext_proc.v3 import external_processor_pb2 as pb
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.core.events import BodyMode, BodyReply, ResponseBody, Side
from shunter.picker.core.limits import Budget, Limits
from shunter.picker.core.session import Session
from shunter.picker.errors import ProtocolError
from shunter.picker.testing import StubJudge
from shunter.picker.transport.grpc import StatusError
from shunter.picker.transport.services import Process
from shunter.picker.transport.wire import decode, encode, opening, read, read_piece, write_piece

EVENT = b'data: {"model":"engine-v2","choices":[]}\n\n'
USAGE = b'data: {"usage":{"prompt_tokens":3,"completion_tokens":4}}\n\n'
pieces = st.one_of(st.sampled_from([EVENT, USAGE, USAGE[:14], USAGE[14:], b""]), st.binary(max_size=140))


def message(event="response_body", *, served="", **fields):
    message = pb.ProcessingRequest()
    part = getattr(message, event)
    part.SetInParent()
    for name, value in fields.items():
        setattr(part, name, value)
    if served:
        key = "x-gateway-destination-endpoint-served"
        message.metadata_context.filter_metadata["envoy.lb"].fields[key].string_value = served
    return message


def headers(event, fields, *modes, **more):
    made = message(event, **more)
    for name, value in fields.items():
        getattr(made, event).headers.headers.add(key=name, raw_value=value.encode())
    if modes:
        made.protocol_config.request_body_mode, made.protocol_config.response_body_mode = modes
    return made


@st.composite
def conversations(draw):
    """What a stream may hear, most of it in order."""
    served = draw(st.sampled_from(["", "10.0.0.1:8000"]))
    kind = draw(st.sampled_from(["text/event-stream", "application/json", "audio/wav"]))
    mode = draw(st.sampled_from([BodyMode.FULL_DUPLEX_STREAMED] * 3 + [BodyMode.STREAMED, BodyMode.BUFFERED]))
    told = [headers("request_headers", {":path": "/v1/chat/completions"}, BodyMode.FULL_DUPLEX_STREAMED, mode)]
    if draw(st.integers(0, 9)):
        told += [message("request_body", body=b'{"model": "public"}', end_of_stream=True)]
    if draw(st.integers(0, 5)):
        told += [headers("response_headers", {":status": "200", "content-type": kind}, served=served)]
    for piece in draw(st.lists(pieces, max_size=6)):
        told += [message(body=piece, served=served if draw(st.integers(0, 5)) else "10.0.0.2:8000")]
    if draw(st.booleans()):
        told += [draw(st.sampled_from([message(body=b"!", end_of_stream=True), message("response_trailers")]))]
    told += [message(body=piece) for piece in draw(st.lists(pieces, max_size=1))]
    texts = [each.SerializeToString() for each in told]
    if draw(st.integers(0, 5)) == 0:  # an event that is merged with another: concatenated messages are
        at = draw(st.integers(0, len(texts) - 1))
        texts[at] += draw(st.sampled_from([b"\x2a\x00", b"\x42\x00", b"\x5a\x00", message(body=b"more").SerializeToString()]))
    return texts


class Exchange:
    """Where a Process would send what nobody asked for."""


@given(conversations(), st.booleans())
def test_the_short_cut_leads_where_the_long_way_does(texts, rewritten):
    follow(texts, rewritten)


def test_a_piece_that_is_too_large_for_one_answer_takes_the_long_way():
    begun = headers("response_headers", {":status": "200"}, *[BodyMode.FULL_DUPLEX_STREAMED] * 2)
    follow([each.SerializeToString() for each in (begun, message(body=bytes(62_000)), message(body=bytes(62_001)))], False)


def follow(texts, rewritten):
    """Go both ways and compare."""
    settings = {"model": "public", "target_model": "engine-v2"} if rewritten else {}
    judges = StubJudge(**settings), StubJudge(**settings)
    limits = Limits()
    short, long = (Session(judge, limits, Budget(limits.buffered_bytes)) for judge in judges)
    process = Process(short, Exchange(), "test", lambda process: None)
    for at, text in enumerate(texts):
        try:
            expected = [encode(reply) for reply in long.feed(decode(text), float(at))]
        except ProtocolError:
            with pytest.raises(StatusError):
                process.receive(text, float(at))
            break
        answers = process.receive(text, float(at))
        assert [b"".join(answer) if isinstance(answer, list) else answer for answer in answers] == expected
        assert process.ended == long.ended
    process.close(9.0)
    long.close(9.0)
    assert (judges[0].released, judges[0].told) == (judges[1].released, judges[1].told)


sizes = st.sampled_from([0, 1, 119, 120, 121, 122, 123, 124, 125, 126, 127, 128, 16_374, 16_380, 16_384, 70_000])


@given(st.one_of(pieces, st.builds(bytes, sizes)), st.booleans(), st.sampled_from(["", "10.0.0.1:8000"]))
def test_a_piece_is_what_decode_and_encode_say(piece, last, served):
    text = message(body=piece, end_of_stream=last, served=served).SerializeToString()
    event, rest = read(text)
    assert event == decode(text) == ResponseBody(piece, last, event.metadata)
    begins = opening(rest)
    assert read_piece(text, begins, len(rest)) == (piece, last)
    assert write_piece(piece) == encode(BodyReply(Side.RESPONSE, streamed=piece))
    for other in (b"\x22" + text[1:], text + b"\x10\x01", text + b"\x42\x00", text[:-1], text[: len(rest)], b""):
        assert read_piece(other, begins, len(rest)) is None


@given(st.one_of(st.builds(bytes, sizes), st.binary(max_size=40)), st.booleans(), st.integers(0, 30))
def test_whatever_is_read_as_a_piece_is_one(data, last, rest_bytes):
    """Also of bytes that no library would write: the same data twice, an end that is no end."""
    body = message(body=data, end_of_stream=last).SerializeToString()
    for text in (body, body + b"\x42\x00", body + body, body + b"\x2a\x02\x10\x01", data):
        piece = read_piece(text, b"", min(rest_bytes, len(text)))
        if piece is not None:
            assert decode(text[: len(text) - min(rest_bytes, len(text))]) == ResponseBody(*piece)


def test_metadata_may_come_again_in_any_order():
    """As Envoy writes a map: what it says was known with the response's headers."""
    first, second = (b"\x0a\x09\x0a\x01%c\x12\x04\x1a\x02up" % name for name in b"ab")
    one, other = (b"\x42\x1e\x0a\x1c\x0a\x02lb\x12\x16" + fields for fields in (first + second, second + first))
    text = message(body=EVENT).SerializeToString()
    assert decode(text + one) == decode(text + other)
    rest = read(text + one)[1]
    assert read_piece(text + other, opening(rest), len(rest)) == (EVENT, False)


@pytest.mark.parametrize("rest", [b"", b"\x42\x00", b"\x42\x00\x5a\x00", b"\x5a\x00"])
def test_only_of_metadata_alone_it_matters_no_more_what_they_say(rest):
    assert opening(rest) == (rest if rest[:2] != b"\x42\x00" or len(rest) > 2 else b"\x42\x00")


def test_what_is_behind_an_event_is_no_rest_if_it_says_more():
    text = message(body=b"one").SerializeToString()
    assert read(text + b"\x42\x00")[1] == b"\x42\x00"
    assert read(text + text)[1] == b""
    assert read_piece(text + text, b"", 0) is None
