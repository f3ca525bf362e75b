"""Whatever a target does, the exam ends, and its report says what was found and what was not asked."""

import asyncio
import gc
import json
import ssl
import threading
import warnings
from contextlib import contextmanager

import pytest
import trustme
import yaml
from click.testing import CliRunner

from shunter.conformance.cli import main
from shunter.conformance.sections.servers import CASES
from shunter.conformance.shell import wire
from shunter.lab.testing import lab_server

MODELS = b'{"object": "list", "data": [{"id": "m", "object": "model", "created": 1, "owned_by": "me"}]}'
EVENT = b'data: {"id": "1", "object": "text_completion", "choices": [{"index": 0, "text": "on and "}]}\n\n'
SECRET = "s3cr3t-s3cr3t-s3cr3t"


@contextmanager
def running(opened):
    """What an asynchronous context manager yields, on a loop in a thread: the command has a loop of its own."""
    ready, end = threading.Event(), asyncio.Event()
    loop, yielded = asyncio.new_event_loop(), []

    async def run():
        async with opened as value:
            yielded.append(value)
            ready.set()
            await end.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),))
    thread.start()
    assert ready.wait(30)
    try:
        yield yielded[0]
    finally:
        gc.collect()  # what the exam has left open is told, under the strict rules for warnings
        loop.call_soon_threadsafe(end.set)
        thread.join()
        loop.close()
        with warnings.catch_warnings():  # what a server breaks off anyhow may be left to the collector
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect()


class Raw:
    """A server that reads the head of a request and lets a function write whatever it likes."""

    def __init__(self, answer, tls=None):
        self._answer, self._tls = answer, tls
        self._writers = []  # of all connections: a task that is cancelled before it begins closes nothing

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._welcome, "127.0.0.1", 0, ssl=self._tls)
        return f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_):
        self.stop()
        for _ in range(3):  # what was accepted becomes a connection in a task of its own
            await asyncio.sleep(0)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        for writer in self._writers:
            writer.transport.abort()
        closed = [asyncio.ensure_future(writer.wait_closed()) for writer in self._writers]
        await asyncio.gather(*tasks, *closed, return_exceptions=True)
        for _ in range(5):  # a socket is closed a turn after its connection is lost, and TLS takes some more
            await asyncio.sleep(0)

    def stop(self):
        self._server.close()

    def _welcome(self, reader, writer):
        self._writers.append(writer)
        return self._serve(reader, writer)

    async def _serve(self, reader, writer):
        try:
            line, _, head = (await reader.readuntil(b"\r\n\r\n")).partition(b"\r\n")
            await self._answer(line.split()[1].decode(), head.decode().lower(), writer)
            writer.close()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            writer.transport.abort()


def whole(body, kind="application/json", status="200 OK"):
    return f"HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


@pytest.fixture
def examined(tmp_path):
    """Run the command; what it printed, its exit code and the cases of its report by id."""

    def run(url, *words, cases=("ms.reachability", "ms.openai")):
        report = tmp_path / "r.yaml"
        selected = [f"--select={prefix}" for prefix in cases]
        words = ["run", url, "--timeout=5", "--tries=1", f"--report={report}", *selected, *words]
        result = CliRunner().invoke(main, words)
        assert not isinstance(result.exception, Exception), result.exception
        written = report.read_text(encoding="utf-8")
        found = {case["id"]: case for case in yaml.safe_load(written)["cases"]}
        assert list(found) == [case.id for case in CASES if case.id.startswith(tuple(cases))]
        return result.output + written, result.exit_code, found

    return run


@pytest.fixture
def identity():
    """A certificate of an authority that nobody knows, for a server and for who knows it."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context, authority


async def hello(_path, _head, writer):
    writer.write(whole(MODELS))
    await writer.drain()


@pytest.mark.parametrize(
    ("tls", "scheme", "remedy"),
    [
        (False, "https", "does not speak TLS; try http://"),
        (True, "http", "speaks TLS; try https://"),
        (True, "https", "not to be trusted: unable to get local issuer certificate; name who signed it with --ca-file"),
    ],
)
def test_tls_that_cannot_be_had_is_unreachable_and_the_remedy_is_said(examined, identity, tls, scheme, remedy):
    with running(Raw(hello, identity[0]) if tls else lab_server()) as server:
        output, code, found = examined(f"{scheme}://{server if tls else server.url.partition('//')[2]}")
    assert code == 3
    assert remedy in output.replace("\n    ", " ")
    assert {case["verdict"] for case in found.values()} == {"error"}


def test_tls_is_examined_through_when_the_signer_is_named_or_nobody_asked(examined, identity, tmp_path):
    identity[1].cert_pem.write_to_path(str(signer := tmp_path / "ca.pem"))
    with running(Raw(hello, identity[0])) as address:
        for words in ([f"--ca-file={signer}"], ["--insecure"]):
            _, _, found = examined(f"https://{address}", *words)
            assert found["ms.reachability.models"]["verdict"] == "passed"


def test_a_key_opens_the_door_and_is_in_no_report(examined, monkeypatch):
    async def ask_for_key(_path, head, writer):
        known = f"authorization: bearer {SECRET}\r\n" in head
        told = whole(MODELS) if known else whole(b"{}", status="401 Unauthorized")
        writer.write(
            told.replace(b"content-type", f"x-you-said: {head.split('authorization: ')[-1][:40]!r}\r\ncontent-type".encode())
        )
        await writer.drain()

    monkeypatch.setenv("KEY", SECRET)
    with running(Raw(ask_for_key)) as address:
        _, _, locked = examined(f"http://{address}")
        output, _, found = examined(f"http://{address}", "--header", "Authorization: Bearer ${KEY}")
    assert locked["ms.reachability.models"]["verdict"] == "failed"
    assert "/v1/models answers 401; say who asks with --header" in locked["ms.openai.completion-fields"]["reason"]
    assert found["ms.reachability.models"]["verdict"] == "passed"
    assert "authorization: ***" in output
    assert SECRET not in output


def test_a_server_that_has_moved_says_where(examined):
    async def moved(path, _head, writer):
        told = whole(b"", status="301 Moved Permanently")
        writer.write(told.replace(b"content-type", f"location: https://there{path}\r\ncontent-type".encode()))
        await writer.drain()

    with running(Raw(moved)) as address:
        _, code, found = examined(f"http://{address}")
    assert code == 1
    assert found["ms.reachability.health"]["actual"].startswith("HTTP 301, location https://there/health")
    reason = found["ms.openai.completion-fields"]["reason"]
    assert reason == "no model to ask for: /v1/models is at https://there/v1/models; examine the server there"


def test_a_profile_of_another_server_is_remarked_on(examined):
    with running(lab_server(speed=100)) as server:
        output, code, found = examined(server.url, "--profile=llama.cpp")
    assert "but it looks like" in output.replace("\n", " ")
    assert found["ms.openai.completion-fields"]["verdict"] == "passed"
    assert code == 0


def test_a_page_of_html_everywhere_fails_what_is_asked_of_it(examined):
    async def welcome(_path, _head, writer):
        writer.write(whole(b"<html><body>Welcome to nginx!</body></html>", "text/html"))
        await writer.drain()

    with running(Raw(welcome)) as address:
        output, code, found = examined(f"http://{address}")
    assert code == 1
    assert "<html>" in output
    assert found["ms.reachability.models"]["verdict"] == "failed"
    assert found["ms.openai.completion-fields"]["verdict"] == "skipped"


def test_a_stream_without_end_is_given_up(examined):
    async def go_on(path, _head, writer):
        writer.write(whole(MODELS) if path == "/v1/models" else b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n")
        while path != "/v1/models":
            writer.write(EVENT)
            await writer.drain()
            await asyncio.sleep(0.01)

    with running(Raw(go_on)) as address:
        _, code, found = examined(f"http://{address}", "--model=m", "--timeout=0.5", cases=("ms.openai.stream-framing",))
    assert code == 1
    assert "no complete answer within 0.5 s" in json.dumps(found["ms.openai.stream-framing"])


def test_a_page_of_a_gigabyte_is_cut(examined, monkeypatch):
    sent_bytes = 0

    async def pour(path, _head, writer):
        nonlocal sent_bytes
        page = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 1000000000\r\n\r\n"
        writer.write(page if path == "/metrics" else whole(MODELS))
        for _ in range(10_000 * (path == "/metrics")):
            writer.write(b"x 1\n" * 25_000)
            await writer.drain()
            sent_bytes += 100_000

    monkeypatch.setattr(wire, "MAX_BODY_BYTES", 1 << 20)
    with running(Raw(pour)) as address:
        _, code, found = examined(f"http://{address}", cases=("ms.reachability",))
    assert code == 1
    assert "larger than 1 MiB" in json.dumps(found["ms.reachability.metrics"])
    assert sent_bytes < 100_000_000


def test_a_server_that_dies_on_the_way_leaves_errors_and_a_report_of_all_cases(examined):
    lists = 0

    async def die_soon(path, _head, writer):
        nonlocal lists
        writer.write(whole(MODELS))
        await writer.drain()
        lists += path == "/v1/models"
        if lists == 2:
            server.stop()

    server = Raw(die_soon)
    with running(server) as address:
        output, code, found = examined(f"http://{address}")
    assert code == 3
    assert found["ms.reachability.models"]["verdict"] == "passed"
    assert found["ms.openai.stream-framing"]["verdict"] == "error"
    assert "Connection refused" in output
