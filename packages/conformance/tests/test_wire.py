"""No answer keeps the client for ever or fills its memory, and every exchange is recorded."""

import asyncio
import contextlib
import shlex
import socket
import ssl

import msgspec
import pytest
import trustme
from aiohttp import web

from shunter.conformance.core.exchange import evidence
from shunter.conformance.errors import Unanswered
from shunter.conformance.shell import wire
from shunter.conformance.shell.access import Access, trust
from shunter.conformance.shell.wire import Wire, speaks_tls, unreachable


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


async def test_a_connection_that_nobody_takes_is_not_waited_for_long(monkeypatch):
    monkeypatch.setattr(wire, "CONNECT_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as waiting:
        for _ in range(4):
            queued = waiting.enter_context(socket.socket())
            queued.setblocking(False)
            queued.connect_ex(full.getsockname())
        async with Wire() as client:
            with pytest.raises(Unanswered, match=r"no connection within 0\.1 s"):
                await client.exchange("GET", f"http://127.0.0.1:{full.getsockname()[1]}/")


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


async def test_who_speaks_something_else_is_not_said_to_have_answered_with_a_status():
    async def handler(_, writer):
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(handler, "127.0.0.1", 0) as server, Wire() as client:
        host, port = server.sockets[0].getsockname()
        with pytest.raises(Unanswered, match=r"Bad status line: .*SSH-2\.0-OpenSSH") as problem:
            await client.exchange("GET", f"http://{host}:{port}/")
    assert "400" not in str(problem.value).replace(f":{port}/", "")


async def test_a_header_that_is_not_utf_8_can_stand_in_a_report():
    async def handler(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nserver: caf\xe9\r\ncontent-length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(handler, "127.0.0.1", 0) as server, Wire() as client:
        host, port = server.sockets[0].getsockname()
        answer = await client.exchange("GET", f"http://{host}:{port}/")
    assert answer.headers["server"] == "caf\ufffd"
    assert msgspec.json.encode(evidence(answer))


async def test_a_client_that_keeps_its_connection_needs_one(serving):
    async def handler(request):
        return web.Response(body=await request.read())

    async with serving(handler) as url, Wire() as client:
        for _ in range(3):
            await client.exchange("POST", url, b"x")
        async with client.reusing() as line:
            for _ in range(3):
                await line.exchange("POST", url, b"x")
            assert (client.connections, line.connections) == (3, 1)
        assert len(client.transcript) == 6


async def test_an_answer_says_when_its_pieces_came(serving):
    first = asyncio.Event()

    async def handler(request):
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"one")
        await first.wait()
        await response.write(b"two")
        return response

    async with serving(handler) as url, Wire() as client:
        asking = asyncio.create_task(client.exchange("GET", url))
        asyncio.get_running_loop().call_later(0.05, first.set)
        exchange = await asking
    assert [size for _, size in exchange.arrivals] == [3, 6]
    (begin_s, _), (end_s, _) = exchange.arrivals
    assert begin_s < end_s <= exchange.elapsed_s


async def test_a_body_is_abandoned_after_its_beginning(serving):
    seen = asyncio.Queue()

    async def handler(request):
        seen.put_nowait(request.headers["content-length"])
        try:
            await request.read()
        finally:
            seen.put_nowait("gone")

    async with serving(handler) as url, Wire() as client:
        await client.abandon(f"{url}/x", b'{"a":', 1000)
        assert await seen.get() == "1000"
        assert await seen.get() == "gone"
    assert "after 5 of 1000 bytes" in client.transcript[0].problem


async def test_what_the_examiner_is_known_by_is_sent_and_in_no_evidence(serving):
    async def handler(request):
        return web.Response(
            text=f"I know you, {request.headers['authorization']}", headers={"x-you": request.headers["authorization"]}
        )

    async with serving(handler) as url, Wire(access=Access({"Authorization": "Bearer s3cr3t-s3cr3t"})) as client:
        exchange = await client.exchange("GET", url)
        await client.abandon(url, b"{", 10)
    assert exchange.text == "I know you, ***"
    assert "authorization: ***" in exchange.curl
    assert "s3cr3t" not in repr(client.transcript)


@pytest.fixture
async def secured(tmp_path):
    """A server behind a certificate of its own, and the file of who signed that."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(str(signer := tmp_path / "ca.pem"))

    async def handler(reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(handler, "127.0.0.1", 0, ssl=context) as server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", signer


async def test_a_server_is_trusted_by_its_signer_or_blindly(secured):
    address, signer = secured
    for context in (trust(signer, insecure=False), trust(None, insecure=True)):
        assert await unreachable(f"https://{address}", context) is None
        async with Wire(access=Access(tls=context)) as client:
            assert (await client.exchange("GET", f"https://{address}/")).text == "hi"


async def test_who_is_not_to_be_trusted_is_unreachable_and_the_reason_says_what_to_do(secured):
    address, _ = secured
    assert "--ca-file" in await unreachable(f"https://{address}")
    assert await speaks_tls(f"http://{address}")


async def test_a_server_without_tls_is_recognised(serving):
    async def handler(_):
        return web.Response()

    async with serving(handler) as url:
        assert "does not speak TLS; try http://" in await unreachable(url.replace("http", "https"))
        assert not await speaks_tls(url)
