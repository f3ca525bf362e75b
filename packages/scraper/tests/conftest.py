import asyncio
import lzma
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner

from shunter.scraper.cli import main

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def recorded():
    """Recorded pages by name."""
    return {path.name.removesuffix(".txt.xz"): lzma.decompress(path.read_bytes()) for path in DATA.glob("*.xz")}


class Server:
    """A model server whose every answer is what ``answer`` writes; counts connections and requests."""

    def __init__(self, answer):
        self.answer = answer
        self.port = 0
        self.host = "127.0.0.1"
        self.connections = 0
        self.requests = []
        self._server = None
        self._writers = set()

    async def start(self):
        self._server = await asyncio.start_server(self._serve, self.host, self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def stop(self):
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()
        await asyncio.sleep(0)

    async def _serve(self, reader, writer):
        self.connections += 1
        self._writers.add(writer)
        try:
            while True:
                self.requests.append(await reader.readuntil(b"\r\n\r\n"))
                await self.answer(writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()


def page(body, head="HTTP/1.1 200 OK"):
    """Return an answer that is ``body``, whole and at once."""

    async def answer(writer):
        writer.write(f"{head}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    return answer


@pytest.fixture
async def serve():
    """Start a server: ``await serve(body)`` or ``await serve(answer)``."""
    servers = []

    async def start(answer, *, host="127.0.0.1", port=0):
        server = Server(page(answer) if isinstance(answer, bytes) else answer)
        server.host, server.port = host, port
        servers.append(await server.start())
        return server

    yield start
    for server in servers:
        await server.stop()


@pytest.fixture
def until():
    """Wait for a condition, with a deadline that only a broken program reaches."""

    async def wait(condition, *, deadline_s=20):
        async with asyncio.timeout(deadline_s):
            while not (value := condition()):  # noqa: ASYNC110  another process or loop makes it true
                await asyncio.sleep(0.01)  # between looks at a condition that has no event
        return value

    return wait


@pytest.fixture
def server(recorded):
    """A model server in a thread of its own, for commands that bring their own event loop."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            content = recorded["vllm-with-lora"] if self.path == "/metrics" else b"no_engine 1\n"
            self.send_response(404 if self.path == "/stats" else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()
        thread.join()


@pytest.fixture
def probed(server):
    """Run ``probe``; ``{}`` in an argument becomes the server's address."""

    def probe(*arguments):
        return CliRunner().invoke(main, ["probe", *(argument.format(server) for argument in arguments)]).output

    return probe
