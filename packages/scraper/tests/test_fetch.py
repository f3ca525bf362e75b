import asyncio
import resource
import socket

import pytest
import uvloop

from shunter.scraper.core.http import Response
from shunter.scraper.shell.fetch import Failure, Fetcher, _Connection

# Descriptors that are open in any process; poll wants to be allowed as many as it is asked about.
FEW = 3
PAGE = b"a 1\n"


@pytest.fixture
async def fetch():
    """Make Fetchers that are closed at the end."""
    fetchers = []

    def make(server, *, timeout_s=20.0, **options):
        fetchers.append(Fetcher(server.host, server.port, "/metrics", timeout_s=timeout_s, **options))
        return fetchers[-1]

    yield make
    for fetcher in fetchers:
        fetcher.close()


def raw(*pieces, close=False):
    async def answer(writer):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        if close:
            writer.close()

    return answer


async def test_pages_come_over_one_connection_and_ask_for_plain_text(serve, fetch):
    server = await serve(PAGE)
    fetcher = fetch(server)
    assert [await fetcher.get() for _ in range(5)] == [PAGE] * 5
    assert server.connections == 1
    assert server.requests[0].startswith(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:")
    assert b"Accept-Encoding: identity\r\n" in server.requests[0]


async def test_an_ipv6_address_stands_in_brackets(serve, fetch):
    try:
        server = await serve(PAGE, host="::1")
    except OSError:
        pytest.skip("no IPv6 here")
    assert await fetch(server).get() == PAGE
    assert f"Host: [::1]:{server.port}\r\n".encode() in server.requests[0]


async def test_a_connection_that_the_server_closed_while_idle_is_replaced(serve, fetch, until):
    server = await serve(PAGE)
    fetcher = fetch(server)
    assert await fetcher.get() == PAGE
    await server.stop()
    await server.start()
    assert await fetcher.get() == PAGE
    assert server.connections == 2


async def test_a_connection_that_is_closed_instead_of_an_answer_is_tried_once_more(serve, fetch):
    """The server takes the second request of each connection and closes: as if both had crossed on the wire."""

    async def answer(writer):
        if len(server.requests) % 2:
            await page(writer)
        else:
            writer.close()

    page = raw(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na 1\n")
    server = await serve(answer)
    fetcher = fetch(server)
    assert await fetcher.get() == PAGE
    assert await fetcher.get() == PAGE
    assert (server.connections, len(server.requests)) == (2, 3)


async def test_a_fresh_connection_is_not_tried_again(serve, fetch):
    server = await serve(raw(close=True))
    assert await fetch(server).get() == Failure("the server closed the connection without a response")
    assert server.connections == 1


async def test_a_connection_lost_before_it_was_asked_fails_at_once(serve):
    server = await serve(PAGE)
    transport, connection = await asyncio.get_running_loop().create_connection(_Connection, server.host, server.port)
    transport.abort()
    await asyncio.sleep(0)
    told = []
    connection.ask(b"GET / HTTP/1.1\r\n\r\n", Response(), lambda _, error: told.append(error))
    assert [type(error) for error in told] == [ConnectionResetError]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (raw(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"), "status 404 Not Found"),
        (
            raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\na 1\n", close=True),
            "the server closed the connection in the middle of the response",
        ),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n"), "content coding gzip, though none was offered"),
        (raw(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n"), "the page is larger than 16777216 bytes"),
    ],
)
async def test_what_the_server_does_wrong_is_a_failure_with_a_reason_and_the_next_try_starts_anew(serve, fetch, answer, reason):
    server = await serve(answer)
    fetcher = fetch(server)
    assert await fetcher.get() == Failure(reason)
    assert await fetcher.get() == Failure(reason)
    assert server.connections == 2


async def test_bodies_may_be_chunked_or_end_with_the_connection(serve, fetch):
    chunked = await serve(raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"4\r\na 1\n\r\n", b"0\r\n\r\n"))
    assert await fetch(chunked).get() == PAGE
    closed = await serve(raw(b"HTTP/1.1 200 OK\r\n\r\na", b" 1\n", close=True))
    assert await fetch(closed).get() == PAGE


async def test_a_page_of_eight_mebibytes_arrives(serve, fetch):
    content = b"x 1\n" * (2 << 20)
    fetcher = fetch(await serve(content))
    assert await fetcher.get() == content
    assert await fetcher.get() == content


async def test_a_dead_port_is_a_failure(fetch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    fetcher = Fetcher("127.0.0.1", port, "/", timeout_s=20)
    assert await fetcher.get() == Failure("connection refused", refused=True)


async def test_descriptors_that_are_missing_here_say_nothing_about_the_server(serve, fetch):
    fetcher = fetch(await serve(PAGE))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (FEW, hard))
    try:
        assert await fetcher.get() == Failure("Too many open files in the scraper", refused=False)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert await fetcher.get() == PAGE


async def test_a_name_that_does_not_resolve_is_a_failure():
    answer = await Fetcher("no-such-host.invalid", 1, "/", timeout_s=20).get()
    assert isinstance(answer, Failure)


async def test_a_server_that_hangs_and_one_that_drips_are_left_after_the_timeout(serve, fetch):
    async def hang(writer):
        await asyncio.sleep(3600)

    async def drip(writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    for answer in (hang, drip):
        server = await serve(answer)
        assert await fetch(server, timeout_s=0.1).get() == Failure("no complete answer within 0.1 s")
        await server.stop()


async def test_unasked_bytes_make_a_connection_unusable(serve, fetch, until):
    writers = []

    async def answer(writer):
        writers.append(writer)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na 1\n")

    server = await serve(answer)
    fetcher = fetch(server)
    assert await fetcher.get() == PAGE
    writers[0].write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nb 2\n")
    await until(lambda: not fetcher._connection.usable)
    assert await fetcher.get() == PAGE


@pytest.fixture
def waiting(serve, fetch, until):
    """A get that nobody answers, and who waits for it."""

    async def hang(writer):
        await writer.wait_closed()

    async def waiting():
        server = await serve(hang)
        fetcher = fetch(server)
        task = asyncio.create_task(fetcher.get())
        await until(lambda: server.requests)
        return fetcher, task

    return waiting


async def test_cancelling_a_get_closes_its_connection(waiting):
    fetcher, task = await waiting()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert fetcher._connection is None


async def test_an_answer_that_comes_as_a_get_is_cancelled_disturbs_nobody(waiting):
    fetcher, task = await waiting()
    task.cancel()
    fetcher._finish(Failure("too late"))
    with pytest.raises(asyncio.CancelledError):
        await task


def test_it_works_on_uvloop_too():
    async def main():
        async def answer(reader, writer):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\na 1\n")

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            fetcher = Fetcher(*server.sockets[0].getsockname(), "/metrics", timeout_s=20)
            pages = [await fetcher.get() for _ in range(3)]
            fetcher.close()
            await asyncio.sleep(0.01)
        return pages

    assert uvloop.run(main()) == [PAGE] * 3
