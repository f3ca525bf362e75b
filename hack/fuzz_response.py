"""Fuzz target: any bytes are an HTTP response or a ResponseError, and it does not matter how they arrive."""

from shunter.scraper.core.http import Response
from shunter.scraper.errors import ResponseError

LIMIT_BYTES = 1 << 12
CORPUS = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nTrailer: x\r\n\r\n",
    b"HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nhello",
    b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\nContent-Encoding: gzip\r\n\r\n",
]


def target(data):
    spare = []  # so that the second and the third are read in what the first has left
    outcomes = {outcome(data, step, spare) for step in (len(data) or 1, 7, 1)}
    assert len(outcomes) == 1, "cutting the stream, or what was read before, changed the response"


def outcome(data, step, spare):
    response = Response(LIMIT_BYTES, spare)
    try:
        for start in range(0, len(data), step):
            piece = data[start : start + step]
            while piece and not response.done:
                room = response.room()[: len(piece)]
                room[:] = piece[: len(room)]
                response.received(len(room))
                piece = piece[len(room) :]
        if not response.done:
            response.ended()
    except ResponseError as error:
        return str(error)
    assert len(response.body) <= LIMIT_BYTES, "the limit was exceeded"
    return response.body
