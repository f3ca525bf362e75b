"""What a server of the lab says of those who talk to it."""

import asyncio

import pytest
from aiohttp import ClientConnectionResetError, web

from shunter.lab.shell.listening import listen


async def read(request):
    await request.read()
    return web.Response(text="read")


async def leave(_request):
    raise ClientConnectionResetError("Cannot write to closing transport")


async def stumble(_request):
    raise LookupError("a mistake of the server's")


@pytest.fixture
async def say():
    """Send bytes to a server; gives the status line of the answer."""
    app = web.Application()
    app.add_routes([web.post("/read", read), web.get("/leave", leave), web.get("/stumble", stumble)])
    runner, port = await listen(app, "127.0.0.1", 0, "--port")

    async def send(said):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(said)
        async with asyncio.timeout(30):
            answer = await reader.read()
        writer.close()
        return answer.partition(b"\r\n")[0]

    yield send
    await runner.cleanup()


@pytest.mark.parametrize(
    "said",
    [
        b"no HTTP at all\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nno header\r\n\r\n",
        b"POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: -5\r\n\r\n",
        b"POST /read HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
        b"GET /" + b"a" * 10_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_answered_and_not_logged(say, caplog, said):
    assert await say(said) == b"HTTP/1.0 400 Bad Request"
    assert caplog.messages == []


@pytest.mark.parametrize(
    "coding", [b"Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello", b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n"]
)
async def test_a_spoiled_body_is_not_logged(say, caplog, coding):
    await say(b"POST /read HTTP/1.1\r\nHost: a\r\n" + coding)
    assert caplog.messages == []


async def test_a_client_that_leaves_before_the_answer_is_not_logged(say, caplog):
    await say(b"GET /leave HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert caplog.messages == []


async def test_a_mistake_of_the_servers_is_logged(say, caplog):
    assert await say(b"GET /stumble HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n") == b"HTTP/1.1 500 Internal Server Error"
    assert "a mistake of the server's" in caplog.text
