"""Put another model's name into a body and change not one other byte."""

from json import JSONDecoder

import msgspec

from shunter.picker.core.multipart import find_boundary, find_field

__all__ = ["rewrite_model"]


class Located(msgspec.Struct):
    """The model's value as it is spelt in the body."""

    model: msgspec.Raw


_located = msgspec.json.Decoder(Located)


def rewrite_model(body: bytes | bytearray, model: str, content_type: str = "") -> bytes:
    """Return ``body`` with the value of its top-level ``model``, or of its form's field of that name, replaced.

    ``body`` must have been read before, and have named a model. Of several members of that name the last one counts, as for
    every JSON reader.
    """
    boundary = find_boundary(content_type)
    place = find_field(body, boundary, "model") if boundary else None
    if place is not None:
        return _splice(body, place[0], place[1], model.encode())
    value = bytes(_located.decode(body).model)
    start = body.find(value)
    if body.rfind(value) != start:  # the same bytes also occur elsewhere, in a prompt for example
        start = _start_of_model(body)
    return _splice(body, start, start + len(value), msgspec.json.encode(model))


def _splice(body: bytes | bytearray, start: int, end: int, value: bytes) -> bytes:
    view = memoryview(body)  # of which parts are no copies
    return b"".join((view[:start], value, view[end:]))


def _start_of_model(body: bytes | bytearray) -> int:
    """Walk the object's members; latin-1 has one character to a byte, so offsets in the text are offsets in the body."""
    text = body.decode("latin-1")
    # Values are only skipped, and int() would refuse a number of more than 4,300 digits by raising.
    scan = JSONDecoder(strict=False, parse_int=str).raw_decode
    found, at = -1, text.index("{") + 1
    while True:
        at = _skip_space(text, at)
        if text[at] == "}":
            return found
        if text[at] == ",":
            at = _skip_space(text, at + 1)
        name, at = scan(text, at)
        at = _skip_space(text, _skip_space(text, at) + 1)  # past the colon
        if name == "model":
            found = at
        at = scan(text, at)[1]


def _skip_space(text: str, at: int) -> int:
    while text[at] in " \t\r\n":
        at += 1
    return at
