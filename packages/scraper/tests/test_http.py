import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.scraper.core.http import MAX_SPARE_BYTES, Response
from shunter.scraper.errors import ResponseError

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = OK + b"Content-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n2;x=y\r\nhe\r\n3\r\nllo\r\n0\r\nTrailer: x\r\n\r\n"
CLOSED = OK + b"Connection: close\r\n\r\nhello"
INTERIM = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + LENGTH
EMPTY = OK + b"Content-Length: 0\r\n\r\n"


def feed(response, data):
    while data and not response.done:
        room = response.room()
        count = min(len(room), len(data))
        room[:count] = data[:count]
        response.received(count)
        data = data[count:]
    return response


@pytest.mark.parametrize(
    ("stream", "body", "reusable"),
    [
        (LENGTH, b"hello", True),
        (CHUNKED, b"hello", True),
        (INTERIM, b"hello", True),
        (EMPTY, b"", True),
        (LENGTH.replace(b"1.1", b"1.0"), b"hello", False),
        (LENGTH.replace(b"Content-T", b"Connection: Close\r\nContent-T"), b"hello", False),
        (LENGTH + b"more", b"hello", False),
        (CHUNKED + b"more", b"hello", False),
    ],
)
def test_a_body_is_whole_when_its_framing_says_so(stream, body, reusable):
    response = feed(Response(), stream)
    assert (response.done, response.body, response.reusable) == (True, body, reusable)


@pytest.mark.parametrize("stream", [LENGTH, CHUNKED, INTERIM, EMPTY])
def test_it_does_not_matter_where_the_stream_is_cut(stream):
    whole = feed(Response(), stream)
    for cut in range(1, len(stream)):
        response = feed(Response(), stream[:cut])
        assert not response.done
        feed(response, stream[cut:])
        assert (response.done, response.body, response.reusable) == (True, whole.body, whole.reusable)
    single = Response()
    for index in range(len(stream)):
        feed(single, stream[index : index + 1])
    assert single.body == whole.body


def test_the_end_of_the_connection_ends_a_body_without_framing_only():
    response = feed(Response(), CLOSED)
    assert not response.done
    response.ended()
    assert (response.done, response.body, response.reusable) == (True, b"hello", False)
    for stream in (LENGTH, CHUNKED, INTERIM):
        for cut in range(1, len(stream)):
            with pytest.raises(ResponseError, match="in the middle"):
                feed(Response(), stream[:cut]).ended()
    with pytest.raises(ResponseError, match="without a response"):
        Response().ended()


@pytest.mark.parametrize(
    ("stream", "message"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\n", r"status 404 Not Found\Z"),
        (b"HTTP/1.1 404\r\n\r\n", r"status 404\Z"),
        (b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\n\r\n", "302 Found to http://elsewhere/ .*not followed"),
        (b"HTTP/2 200\r\n\r\n", "not HTTP/1.1: HTTP/2 200"),
        (b"SSH-2.0-x\r\n\r\n", "not HTTP/1.1"),
        (OK + b"bad field\r\n\r\n", "not a header field: bad field"),
        (OK + b"bad \x1b[2J\nfield\r\n\r\n", "not a header field: bad \ufffd\\[2J\ufffdfield"),
        (OK + b"Content-Length: 5\r\n folded\r\n\r\n", "not a header field"),
        (OK + b"Content-Encoding: gzip\r\n\r\n", "coding gzip, though none was offered"),
        (OK + b"Content-Length: -1\r\n\r\n", "not a content length: -1"),
        (OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", "not a content length"),
        (OK + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", "a length beside it"),
        (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n", "other than chunked"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", "not a chunk size: zz"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n", "longer than its size"),
        (OK + b"X: " + b"x" * 20_000, "a header of more than"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1;" + b"x" * 2_000, "a chunk size of more than"),
    ],
)
def test_what_is_not_the_page_says_why(stream, message):
    with pytest.raises(ResponseError, match=message):
        feed(Response(), stream)


@pytest.mark.parametrize(
    "stream",
    [
        OK + b"Content-Length: 101\r\n\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n65\r\n",
        OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"33\r\n" + b"x" * 51 + b"\r\n33\r\n" + b"x" * 51 + b"\r\n0\r\n\r\n",
        OK + b"\r\n" + b"x" * 101,
        OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 10_000,
    ],
)
def test_a_page_over_the_limit_is_refused_however_it_is_framed(stream):
    with pytest.raises(ResponseError, match="larger than 100 bytes"):
        feed(Response(limit_bytes=100), stream)


@given(
    st.binary(max_size=400),
    st.sampled_from([b"", OK, OK + b"\r\n", OK + b"Transfer-Encoding: chunked\r\n\r\n"]),
    st.integers(1, 50),
)
def test_any_bytes_are_a_response_or_a_response_error_and_cuts_do_not_matter(data, prefix, step):
    def outcome(pieces):
        response = Response(limit_bytes=1000)
        try:
            for piece in pieces:
                feed(response, piece)
            if not response.done:
                response.ended()
        except ResponseError as error:
            return str(error)
        return response.body

    stream = prefix + data
    assert outcome([stream]) == outcome([stream[i : i + step] for i in range(0, len(stream), step)])


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=20))
def test_chunks_join_to_the_body(chunks):
    stream = OK + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in chunks) + b"0\r\n\r\n"
    assert feed(Response(), stream).body == b"".join(chunks)


def test_a_spare_buffer_is_lent_from_the_first_byte_until_it_is_released_and_a_giants_is_let_go():
    spare = []
    waiting = Response(spare=spare)
    for _ in range(2):
        response = feed(Response(spare=spare), LENGTH[:-1])
        assert spare == []
        feed(response, LENGTH[-1:])
        assert (response.body, len(spare)) == (b"hello", 0)
        response.release()
        assert (response.body, len(spare)) == (b"", 1)
    lent = spare[0]
    feed(waiting, LENGTH).release()
    assert spare[0] is lent
    large = b"x" * MAX_SPARE_BYTES
    feed(Response(spare=spare), OK + b"Content-Length: %d\r\n\r\n%s" % (len(large), large)).release()
    assert spare == []


def test_what_a_former_response_left_in_a_spare_buffer_is_not_read():
    spare = []
    feed(Response(spare=spare), OK + b"Content-Length: 60\r\n\r\n" + b"\r\n" * 30).release()
    response = feed(Response(spare=spare), LENGTH[:20])
    assert not response.done
    assert feed(response, LENGTH[20:]).body == b"hello"
