"""No answer keeps the client for ever or fills its memory, and every exchange is recorded."""

import asyncio
import shlex

import pytest
from aiohttp import web

from shunter.conformance.errors import Unanswered
from shunter.conformance.shell import wire
from shunter.conformance.shell.wire import Wire


async def test_an_exchange_is_recorded_as_it_was(serving):
    async def handler(request):
        assert request.headers["accept-encoding"] == "identity"
        return web.Response(body=await request.read(), status=418, headers={"X-Tea": "yes"})

    async with serving(handler) as url, Wire() as client:
        exchange = await client.exchange("POST", f"{url}/pot", {"it's": "hot"})
        assert client.transcript == [exchange]
    assert exchange.status == 418
    assert exchange.headers["x-tea"] == "yes"
    assert exchange.body == b'{"it\'s": "hot"}'
    assert shlex.split(exchange.curl) == [
        "curl", "-sS", "-i", "-X", "POST", "-H", "content-type: application/json",
        "--data-binary", '{"it\'s": "hot"}', f"{url}/pot",
    ]  # fmt: skip


async def test_a_redirect_is_an_answer_and_not_followed(serving):
    async def handler(_):
        raise web.HTTPFound("/elsewhere")

    async with serving(handler) as url, Wire() as client:
        assert (await client.exchange("GET", url)).status == 302


async def test_an_endless_answer_is_cut(serving, monkeypatch):
    monkeypatch.setattr(wire, "MAX_BODY_BYTES", 1 << 20)

    async def handler(request):
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(b"x" * 65536)

    async with serving(handler) as url, Wire() as client:
        with pytest.raises(Unanswered, match="larger than 1 MiB"):
            await client.exchange("GET", url)
        assert len(client.transcript[0].body) < 2 << 20


async def test_a_silent_server_is_given_up(serving):
    async def handler(_):
        await asyncio.Event().wait()

    async with serving(handler) as url, Wire(timeout_s=0.1) as client:
        with pytest.raises(Unanswered, match=r"no complete answer within 0\.1 s"):
            await client.exchange("GET", url)
        assert client.transcript[0].status == 0
        assert client.transcript[0].problem


@pytest.mark.parametrize(
    "answer",
    [b"", b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab", b"\x16\x03\x01 what?", b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n"],
)
async def test_whatever_is_no_answer_is_unanswered(answer):
    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(handler, "127.0.0.1", 0) as server, Wire() as client:
        host, port = server.sockets[0].getsockname()
        with pytest.raises(Unanswered):
            await client.exchange("GET", f"http://{host}:{port}/")
