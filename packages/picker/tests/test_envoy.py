"""Every row of the body-mode table on the real Envoy: nobody else can say which form of an answer is right.

One Envoy has a listener for each pair of modes; behind them a picker whose judge says what the test wants, and two upstreams.
"""

import asyncio
import json
import os
import time
from contextlib import suppress
from pathlib import Path

import pytest
import pytest_asyncio

from shunter.envoyconf.errors import EnvoyMissingError
from shunter.envoyconf.shell.envoy import ensure
from shunter.picker.core.events import BodyReply, HeadersReply, Side
from shunter.picker.core.judgement import DropReason, Pick, Refusal
from shunter.picker.core.limits import Budget, Limits
from shunter.picker.core.session import Session
from shunter.picker.testing import StubJudge
from shunter.picker.testing_envoy import DESTINATION, MODES, Answer, bootstrap, chunked, read_body, read_head
from shunter.picker.transport.grpcio import GrpcServer
from shunter.picker.transport.health import Health
from shunter.picker.transport.native import NativeServer
from shunter.picker.transport.parking import Parking

pytestmark = [pytest.mark.envoy, pytest.mark.asyncio(loop_scope="module")]

SEES_BODY = ["FULL_DUPLEX_STREAMED", "BUFFERED", "BUFFERED_PARTIAL"]
PIECEWISE = ["FULL_DUPLEX_STREAMED", "STREAMED", "NONE"]
SMALL = b'{"model": "public", "prompt": "hello"}'
LARGE = json.dumps({"model": "public", "prompt": "x" * 200_000}).encode()
DEADLINE_S = 30


class Lab:
    """Upstreams, picker and Envoy, and what the test of the moment wants of them."""

    def __init__(self):
        self.reset()

    def dispatch(self, now_s):
        return self.judge.dispatch(now_s)

    def leave(self, ticket, now_s):
        self.judge.leave(ticket, now_s)

    def reset(self):
        self.judge = StubJudge([self.second] if hasattr(self, "second") else [])
        self.limits = Limits(body_bytes=4 << 20)
        self.make_session = lambda: Session(self.judge, self.limits, Budget(self.limits.buffered_bytes))
        self.response = None  # raw bytes that the upstream answers; None: an echo
        self.first_event_seen = asyncio.Event()

    async def serve_upstream(self, name, reader, writer):
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                start, headers = await read_head(reader)
                if start is None:
                    break
                parts = [part async for part in read_body(reader, headers)]
                if start[1].endswith("/late"):
                    await self.first_event_seen.wait()
                if start[1].endswith("/events"):
                    await self.serve_events(writer)
                elif self.response is not None:
                    writer.write(self.response)
                else:
                    body = b"".join(parts[:-1]).decode("latin-1")
                    echo = {"who": name, "headers": headers, "body": body, "trailers": parts[-1], "path": start[1]}
                    data = json.dumps(echo).encode()
                    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(data))
                    writer.write(data)
                await writer.drain()
        writer.close()

    async def serve_events(self, writer):
        """Send the second event only when the client has the first: who holds events back stalls the stream."""
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        writer.write(chunked([b"data: 1\n\n"]).removesuffix(b"0\r\n\r\n"))
        await writer.drain()
        await self.first_event_seen.wait()
        writer.write(chunked([b'data: {"usage": {"prompt_tokens": 3, "completion_tokens": 2}}\n\n', b"data: [DONE]\n\n"]))

    async def ask(
        self,
        name,
        body=SMALL,
        path="/v1/completions",
        headers=(),
        method=None,
        trailers=None,
        on_piece=None,
        before_last_byte=None,
    ):
        """Send one request to a listener and return the answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[name])
        method = method or ("GET" if body is None else "POST")
        lines = [f"{method} {path} HTTP/1.1", "host: lab", "connection: close", *headers]
        answer = Answer()
        try:
            if trailers is not None:
                lines.append("transfer-encoding: chunked")
                payload = chunked([piece for piece in (body[:7], body[7:]) if piece], trailers)
            else:
                lines += [] if body is None else ["content-type: application/json", f"content-length: {len(body)}"]
                payload = body or b""
            request = "".join(f"{line}\r\n" for line in lines).encode() + b"\r\n" + payload
            async with asyncio.timeout(DEADLINE_S):
                writer.write(request[:-1])
                if before_last_byte:
                    await before_last_byte()
                writer.write(request[-1:])
                while answer.status in (0, 100):
                    (_, status, _), answer.headers = await read_head(reader)
                    answer.status = int(status)
                    answer.continued |= answer.status == 100
                if method == "HEAD":
                    return answer
                async for part in read_body(reader, answer.headers, until_close=True):
                    if isinstance(part, bytes):
                        answer.body += part
                        if on_piece:
                            on_piece()
                    else:
                        answer.trailers = part
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
        return answer

    async def released(self):
        async with asyncio.timeout(DEADLINE_S):
            while len(self.judge.released) < len(self.judge.picked):  # noqa: ASYNC110  nobody signals it
                await asyncio.sleep(0.005)
        return self.judge.outcome


async def admin_ports(process, path: Path, log: Path):
    """Wait until Envoy has written where its admin listens, then ask that for the listeners' ports."""
    async with asyncio.timeout(DEADLINE_S):
        while not (path.exists() and path.read_text()):  # noqa: ASYNC240  a small file of a starting process
            assert process.returncode is None, log.read_text()  # noqa: ASYNC240  as above
            await asyncio.sleep(0.02)
        host, port = path.read_text().rsplit(":", 1)  # noqa: ASYNC240  as above
        while True:
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET /listeners?format=json HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
            _, headers = await read_head(reader)
            parts = [part async for part in read_body(reader, headers, until_close=True)]
            writer.close()
            await writer.wait_closed()
            statuses = json.loads(b"".join(parts[:-1])).get("listener_statuses", [])
            ports = {item["name"]: item["local_address"]["socket_address"]["port_value"] for item in statuses}
            if ports:
                return ports
            await asyncio.sleep(0.02)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=[NativeServer, GrpcServer], ids=["native", "grpcio"])
async def running(request, tmp_path_factory):
    try:
        binary = ensure()
    except EnvoyMissingError as error:
        pytest.skip(str(error))
    directory = tmp_path_factory.mktemp("envoy")
    lab = Lab()
    upstreams = [
        await asyncio.start_server(lambda r, w, name=name: lab.serve_upstream(name, r, w), "127.0.0.1", 0)
        for name in ("first", "second")
    ]
    upstream_ports = [server.sockets[0].getsockname()[1] for server in upstreams]
    lab.first, lab.second = (f"127.0.0.1:{port}" for port in upstream_ports)
    lab.reset()
    lab.parking = parking = Parking(lab, time.monotonic)
    server, lab.leaving = (
        request.param(lambda: lab.make_session(), Health(), lab.limits, parking=parking)  # noqa: PLW0108  for each stream
        for _ in range(2)
    )
    picker_ports = [await picker.start("127.0.0.1", 0) for picker in (server, lab.leaving)]
    config = directory / "bootstrap.json"
    config.write_text(json.dumps(bootstrap(*picker_ports, upstream_ports)))
    log = directory / "log"
    arguments = ["-c", str(config), "--admin-address-path", str(directory / "admin"), "--log-path", str(log)]
    arguments += ["--concurrency", "1", "--disable-hot-restart", "--log-level", os.environ.get("ENVOY_LOG", "warning")]
    process = await asyncio.create_subprocess_exec(binary, *arguments)
    try:
        lab.ports = await admin_ports(process, directory / "admin", log)
        yield lab
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await server.stop()
        await lab.leaving.stop()
        for upstream in upstreams:
            upstream.close()
            await upstream.wait_closed()


@pytest.fixture
def lab(running):
    running.reset()
    return running


@pytest.mark.parametrize("path", ["/by-header", "/by-metadata"])
@pytest.mark.parametrize("response", MODES)
@pytest.mark.parametrize("request_mode", MODES)
async def test_every_pair_of_modes_routes_as_chosen_and_leaves_everything_intact(lab, request_mode, response, path):
    answer = await lab.ask(f"{request_mode}/{response}", path=path)
    assert answer.echo["who"] == "second"
    assert answer.echo["body"] == SMALL.decode()
    assert answer.headers["x-went-into-resp-headers"] == "true"
    outcome = await lab.released()
    assert (outcome.complete, outcome.status) == (True, 200)
    assert outcome.served == (lab.second if path == "/by-metadata" else None)


@pytest.mark.parametrize("request_mode", MODES)
async def test_a_large_body_arrives_whole(lab, request_mode):
    answer = await lab.ask(f"{request_mode}/NONE", LARGE)
    assert answer.echo["body"] == LARGE.decode()
    assert answer.echo["who"] == "second"


@pytest.mark.parametrize("request_mode", MODES)
async def test_a_request_without_body(lab, request_mode):
    answer = await lab.ask(f"{request_mode}/{request_mode}", None)
    assert answer.echo["who"] == "second"


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "DELETE"])
@pytest.mark.parametrize("response", MODES)
async def test_any_method_is_routed_and_its_answer_passes(lab, response, method):
    lab.response = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 5\r\n\r\n"
    lab.response += b"" if method == "HEAD" else b"12345"
    answer = await lab.ask(f"BUFFERED/{response}", None, "/v1/models", method=method)
    assert (answer.status, answer.body) == (200, b"" if method == "HEAD" else b"12345")
    assert (await lab.released()).complete


@pytest.mark.parametrize("request_mode", MODES)
async def test_who_waits_to_be_told_to_send_the_body_is_told(lab, request_mode):
    answer = await lab.ask(f"{request_mode}/NONE", headers=["expect: 100-continue"])
    assert answer.continued
    assert answer.echo["body"] == SMALL.decode()


@pytest.mark.parametrize("request_mode", MODES)
async def test_request_trailers_arrive(lab, request_mode):
    answer = await lab.ask(f"{request_mode}/NONE", trailers=[(b"x-checksum", b"7")])
    assert answer.echo["body"] == SMALL.decode()
    assert answer.echo["trailers"] == {"x-checksum": "7"}
    assert answer.echo["who"] == "second"


@pytest.mark.parametrize("response", MODES)
async def test_response_trailers_arrive(lab, response):
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    lab.response = head + chunked([b'{"a": ', b"1}"], [(b"x-checksum", b"8")])
    answer = await lab.ask(f"BUFFERED/{response}")
    assert (answer.status, answer.body, answer.trailers) == (200, b'{"a": 1}', {"x-checksum": "8"})
    assert (await lab.released()).complete


@pytest.mark.parametrize("request_mode", SEES_BODY)
async def test_a_rewritten_body_arrives_with_its_length(lab, request_mode):
    rewritten = LARGE.replace(b"public", b"engine-v2")
    lab.judge = StubJudge([lab.second], body=rewritten)
    answer = await lab.ask(f"{request_mode}/NONE", LARGE)
    assert answer.echo["body"] == rewritten.decode()
    assert answer.echo["headers"].get("content-length", str(len(rewritten))) == str(len(rewritten))


@pytest.mark.parametrize("response", [mode for mode in MODES if mode != "NONE"])
async def test_the_model_name_is_restored(lab, response):
    lab.judge = StubJudge([lab.second], model="public", target_model="engine-v2")
    lab.response = b'HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 21\r\n\r\n{"model":"engine-v2"}'
    answer = await lab.ask(f"BUFFERED/{response}")
    assert (answer.status, answer.body) == (200, b'{"model":"public"}')


@pytest.mark.parametrize("path", ["/by-header", "/by-metadata"])
@pytest.mark.parametrize("response", MODES)
async def test_a_header_of_a_plugin_is_added_to_the_response(lab, response, path):
    by_server = {lab.first: "one", lab.second: "two"}
    lab.judge = StubJudge([lab.second], response_headers=(("x-session-token", by_server), ("x-always", "1")))
    answer = await lab.ask(f"BUFFERED/{response}", path=path)
    assert (answer.headers["x-session-token"], answer.headers["x-always"]) == ("two", "1")
    assert answer.echo["who"] == "second"


@pytest.mark.parametrize("request_mode", MODES)
@pytest.mark.parametrize("response", PIECEWISE)
async def test_events_are_not_held_back(lab, request_mode, response):
    answer = await lab.ask(f"{request_mode}/{response}", path="/events", on_piece=lab.first_event_seen.set)
    assert answer.body.endswith(b"data: [DONE]\n\n")
    outcome = await lab.released()
    if response != "NONE":
        assert (outcome.prompt_tokens, outcome.completion_tokens) == (3, 2)


async def test_half_a_body_is_routed_unread(lab):
    body = json.dumps({"prompt": "x" * (3 << 20)}).encode()  # Envoy's default buffer holds 1 MiB
    answer = await lab.ask("BUFFERED_PARTIAL/NONE", body)
    assert answer.echo["body"] == body.decode()
    assert answer.echo["who"] == "second"
    assert not lab.judge.asks[0].has_body


async def test_control_headers_stay_here_and_spoofing_fails(lab):
    spoof = f"{DESTINATION}: {lab.first}"
    answer = await lab.ask("BUFFERED/NONE", path="/by-header", headers=["x-llm-d-inference-objective: gold", spoof])
    assert answer.echo["who"] == "second"
    assert "x-llm-d-inference-objective" not in answer.echo["headers"]
    assert answer.echo["headers"][DESTINATION] == lab.second


@pytest.mark.parametrize("request_mode", MODES)
async def test_a_refusal_reaches_the_client(lab, request_mode):
    lab.judge = StubJudge(verdict=Refusal(429, "ResourceExhausted", "saturated"))
    answer = await lab.ask(f"{request_mode}/{request_mode}")
    assert (answer.status, answer.headers["retry-after"]) == (429, "1")
    assert json.loads(answer.body)["error"]["message"] == "inference error: ResourceExhausted - saturated"


@pytest.mark.parametrize("request_mode", ["FULL_DUPLEX_STREAMED", "BUFFERED"])
async def test_a_body_over_the_limit_is_413(lab, request_mode):
    lab.limits = Limits(body_bytes=1000)
    assert (await lab.ask(f"{request_mode}/NONE", LARGE)).status == 413


@pytest.mark.parametrize("response", MODES)
async def test_a_local_reply_of_an_earlier_filter_passes(lab, response):
    answer = await lab.ask(f"deny/{response}")
    assert (answer.status, answer.body) == (401, b"fault filter abort")
    assert lab.judge.asks == []


async def test_a_picker_that_leaves_hurts_neither_who_streams_nor_who_still_sends(lab):
    opened = []
    make_session = lab.make_session
    lab.make_session = lambda: opened.append(make_session()) or opened[-1]
    streaming = asyncio.Event()
    events = asyncio.create_task(lab.ask("leaving/BUFFERED", path="/events", on_piece=streaming.set))
    await streaming.wait()
    last_byte = asyncio.Event()
    modes = ["FULL_DUPLEX_STREAMED", "BUFFERED"]
    senders = [asyncio.create_task(lab.ask(f"leaving/{mode}", before_last_byte=last_byte.wait)) for mode in modes]
    async with asyncio.timeout(DEADLINE_S):
        while len(opened) < 3:  # noqa: ASYNC110  nobody signals it
            await asyncio.sleep(0.005)
    drain = asyncio.create_task(lab.leaving.drain(DEADLINE_S))
    async with asyncio.timeout(DEADLINE_S):
        while not lab.judge.released:  # noqa: ASYNC110  nobody signals it
            await asyncio.sleep(0.005)
    lab.first_event_seen.set()
    assert (await events).body.endswith(b"data: [DONE]\n\n")
    assert not drain.done()
    last_byte.set()
    for sender in senders:
        assert (await sender).echo["who"] == "second"
    await drain


class Wrong:
    """A session that answers mode BUFFERED in the form of FULL_DUPLEX_STREAMED."""

    ended = idle = False
    parked = None

    def feed(self, event, now_s):
        if type(event).__name__ == "RequestHeaders":
            return [HeadersReply(Side.REQUEST)]
        return [BodyReply(Side.REQUEST, streamed=SMALL, end_of_stream=True)]

    def close(self, now_s):
        pass


async def test_the_wrong_form_is_a_5xx(lab):
    """So the tests above can fail."""
    lab.make_session = Wrong
    assert (await lab.ask("BUFFERED/NONE")).status >= 500


async def test_of_a_list_the_first_is_served(lab):
    lab.judge = StubJudge(verdict=lambda ask: Pick((lab.second, lab.first), 1, "id"))
    assert (await lab.ask("FULL_DUPLEX_STREAMED/NONE")).echo["who"] == "second"


@pytest.mark.parametrize("request_mode", MODES)
async def test_trailers_without_a_body_are_no_way_around_the_picker(lab, request_mode):
    """In the BUFFERED modes Envoy asks about nothing between the headers and the trailers."""
    spoof = f"{DESTINATION}: {lab.first}"
    answer = await lab.ask(f"{request_mode}/NONE", b"", "/by-header", headers=[spoof], trailers=[(b"x-checksum", b"7")])
    if request_mode.startswith("BUFFERED"):
        assert answer.status == 400
    else:
        assert answer.echo["who"] == "second"


class TestParked:
    """Requests that wait for room four times as long as Envoy waits for an answer, in a filter that fails open."""

    WAIT_S = 1.2

    async def wait_for(self, condition):
        async with asyncio.timeout(DEADLINE_S):
            while not condition():  # noqa: ASYNC110  nobody signals it
                await asyncio.sleep(0.005)

    async def test_who_waits_is_still_picked(self, lab):
        lab.judge = StubJudge([lab.second], park_s=20.0, response_headers=(("x-llm-d-flow-queue-duration-ms", "1200"),))
        asking = {mode: asyncio.create_task(lab.ask(f"patient/{mode}")) for mode in MODES}
        bodiless = {mode: asyncio.create_task(lab.ask(f"patient/{mode}", None)) for mode in MODES}
        await self.wait_for(lambda: len(lab.judge.parked) == 2 * len(MODES))
        await asyncio.sleep(self.WAIT_S)
        assert not any(task.done() for task in (*asking.values(), *bodiless.values()))
        lab.judge.open()
        for mode in MODES:
            answer = await asking[mode]
            assert (mode, answer.echo["who"], answer.echo["body"]) == (mode, "second", SMALL.decode())
            assert answer.headers["x-llm-d-flow-queue-duration-ms"] == "1200"
            assert (await bodiless[mode]).echo["who"] == "second"
        assert lab.judge.left == []

    @pytest.mark.parametrize("request_mode", [mode for mode in MODES if mode != "FULL_DUPLEX_STREAMED"])
    async def test_without_a_longest_time_envoy_goes_on_blindly(self, lab, request_mode):
        """So the one above can fail."""
        lab.judge = StubJudge([lab.second], park_s=20.0)
        assert (await lab.ask(f"impatient/{request_mode}")).status == 200
        await self.wait_for(lambda: lab.judge.left)

    async def test_full_duplex_waits_without_being_asked_to(self, lab):
        lab.judge = StubJudge([lab.second], park_s=20.0)
        asking = [asyncio.create_task(lab.ask("impatient/FULL_DUPLEX_STREAMED", body)) for body in (SMALL, None)]
        await self.wait_for(lambda: len(lab.judge.parked) == 2)
        await asyncio.sleep(self.WAIT_S)
        lab.judge.open()
        assert [answer.echo["who"] for answer in await asyncio.gather(*asking)] == ["second"] * 2

    async def test_who_waited_in_vain_is_refused_though_the_filter_fails_open(self, lab):
        refusal = Refusal(429, "ResourceExhausted", "no capacity became free in time", DropReason.TTL_EXPIRED)
        lab.judge = StubJudge(verdict=refusal, park_s=20.0)
        asking = [asyncio.create_task(lab.ask(f"patient/{mode}")) for mode in MODES]
        await self.wait_for(lambda: len(lab.judge.parked) == len(MODES))
        lab.judge.open()
        for answer in await asyncio.gather(*asking):
            assert (answer.status, answer.headers["x-llm-d-request-dropped-reason"]) == (429, "rejected-ttl-expired")

    async def test_a_client_that_goes_away_leaves_the_queue(self, lab):
        lab.judge = StubJudge([lab.second], park_s=20.0)
        asking = [asyncio.create_task(lab.ask(f"patient/{mode}")) for mode in MODES]
        await self.wait_for(lambda: len(lab.judge.parked) == len(MODES))
        for task in asking:
            task.cancel()
        await self.wait_for(lambda: len(lab.judge.left) == len(MODES))
        await asyncio.gather(*asking, return_exceptions=True)


class TestEvicted:
    """Requests that were picked and are refused after all, at a time when Envoy asks nothing."""

    async def evict(self, lab):
        async with asyncio.timeout(DEADLINE_S):
            while not lab.judge.picked:  # noqa: ASYNC110  nobody signals it
                await asyncio.sleep(0.005)
        lab.judge.evicting[1] = Refusal(429, "ResourceExhausted", "request evicted by flow control", DropReason.EVICTED)
        lab.parking._dispatch(time.monotonic())

    @pytest.mark.parametrize("request_mode", SEES_BODY)
    @pytest.mark.parametrize("response", MODES)
    async def test_before_the_response_begins_the_client_is_told(self, lab, request_mode, response):
        lab.judge = StubJudge([lab.second], evictable=True)
        asking = asyncio.create_task(lab.ask(f"{request_mode}/{response}", path="/late"))
        await asyncio.sleep(0.1)
        await self.evict(lab)
        answer = await asking
        assert (answer.status, answer.headers["x-llm-d-request-dropped-reason"]) == (429, "evicted")
        lab.first_event_seen.set()

    @pytest.mark.parametrize("request_mode", SEES_BODY)
    @pytest.mark.parametrize("response", PIECEWISE)
    async def test_in_the_midst_of_events_the_connection_is_cut(self, lab, request_mode, response):
        lab.judge = StubJudge([lab.second], evictable=True)
        streaming = asyncio.Event()
        asking = asyncio.create_task(lab.ask(f"{request_mode}/{response}", path="/events", on_piece=streaming.set))
        await streaming.wait()
        await self.evict(lab)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError, ValueError)):
            await asking
        lab.first_event_seen.set()
