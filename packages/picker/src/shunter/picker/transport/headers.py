"""Headers in messages of ext_proc: an HttpHeaders to pairs of name and value."""

from collections.abc import Iterable, Sequence

from shunter.picker.transport.protobuf import merge, walk
from shunter.picker.transport.shapes import Learnt, Shapes, UnlikeError, enter

__all__ = ["Headers", "HttpHeaders", "decode_headers", "learn_headers", "read_headers", "renew_headers"]

Headers = list[tuple[str, str]]
"""Names in lower case; values decoded as latin-1."""

HttpHeaders = tuple[Headers, bool]
"""Headers, and whether they end the message."""


def decode_headers(payload: bytes) -> HttpHeaders:
    """Read an HttpHeaders, whoever wrote it."""
    maps: list[bytes] = []
    end = 0
    for tag, number, value in walk(payload):
        if tag == 0x0A:  # headers = 1
            maps.append(value)
        elif tag == 0x18:  # end_of_stream = 3
            end = number
    return _decode_header_map(merge(maps)), end != 0


def _decode_header_map(data: bytes) -> Headers:
    """Read a HeaderMap; raw_value is preferred to value."""
    headers: Headers = []
    for tag, _, entry in walk(data):
        if tag != 0x0A:  # headers = 1
            continue
        key = text = raw = b""
        for part, _, value in walk(entry):
            if part == 0x0A:
                key = value
            elif part == 0x12:
                text = value
            elif part == 0x1A:
                raw = value
        headers.append((key.decode("latin-1").lower(), (raw or text).decode("latin-1")))
    return headers


def learn_headers(data: bytes, text: str) -> Learnt[HttpHeaders, tuple[int, str]]:
    """Read an HttpHeaders as Envoy writes it: of each header the key = 1, and raw_value = 3 unless it is empty."""
    headers: Headers = []
    names: list[str] = []
    spans: list[tuple[int, int]] = []
    at, stop = enter(data, 0, 0x0A)
    while at < stop:
        size = data[at + 1]
        if size < 0x80:  # so has every length in it one byte; this is most of what unlike messages cost
            if data[at] != 0x0A or data[at + 2] != 0x0A:
                raise UnlikeError
            end, name_at = at + 2 + size, at + 4
            begin = at = name_at + data[at + 3]
            name = text[name_at:at].lower()
            if at != end:
                if data[at] != 0x1A:
                    raise UnlikeError
                begin = at + 2
                at = begin + data[at + 1]
        else:
            at, end = enter(data, at, 0x0A)
            begin, at = enter(data, at, 0x0A)
            name, begin = text[begin:at].lower(), at
            if at != end:
                begin, at = enter(data, at, 0x1A)
        if at != end:
            raise UnlikeError
        names.append(name)
        headers.append((name, text[begin:end]))
        spans.append((begin, end))
    last = data[stop:] == b"\x18\x01"  # end_of_stream = 3
    if at != stop or not (last or stop == len(data)):
        raise UnlikeError
    return Learnt((headers, last), [*enumerate(names)], spans)


def renew_headers(known: HttpHeaders, places: Sequence[tuple[int, str]], values: Iterable[str]) -> HttpHeaders:
    """Return them with other values in some places."""
    headers = known[0].copy()
    for (which, name), value in zip(places, values, strict=False):
        headers[which] = name, value
    return headers, known[1]


read_headers = Shapes(learn_headers, renew_headers).read
"""Read an HttpHeaders as Envoy writes it; None if it would not be written like this."""
