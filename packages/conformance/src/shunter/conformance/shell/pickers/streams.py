"""Streams to a picker by the gRPC library, each kept as evidence: what was said in which order, and how to say it again."""

import asyncio
import json
import shlex
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from shunter.conformance.core.case import Bound
from shunter.conformance.core.exchange import Evidence, clip
from shunter.conformance.errors import Unanswered
from shunter.conformance.sections.pickers.messages import Ended, Message, Mode, Part, Reply
from shunter.conformance.shell.extproc import load
from shunter.conformance.shell.pickers.messages import Codec
from shunter.conformance.shell.wire import ANSWER_TIMEOUT_S

__all__ = ["Line"]

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
HEALTH = "/grpc.health.v1.Health/Check"

# HealthCheckResponse{status = 1}
SERVING_STATUS = {b"\x08\x01": "SERVING", b"\x08\x02": "NOT_SERVING", b"\x08\x03": "SERVICE_UNKNOWN"}

# A case that asks a hundred times is understood from the last few.
KEPT_STREAMS = 8

# A command of more is not one to paste.
MAX_COMMAND_CHARS = 4096

# What is read ahead of the cases, in bytes, where each message counts as so many more: several times the largest body that is
# sent. Who says more than that about one request never ends.
MOST_HEARD_BYTES = 64 << 20
MESSAGE_BYTES = 100

# A picker that was started again is found again within this, and not after the library's 20 s.
RECONNECT_MS = 100

OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS),
    ("grpc.max_reconnect_backoff_ms", RECONNECT_MS),
    ("grpc.use_local_subchannel_pool", 1),
)

PROTO = ("-proto", "envoy/service/ext_proc/v3/external_processor.proto")


class Line:
    """One connection to a picker, its streams and their transcripts; `address` is what messages call it."""

    def __init__(
        self, address: str, seconds: Callable[[Bound], float], dial: str = "", timeout_s: float = ANSWER_TIMEOUT_S
    ) -> None:
        self.grpc = load("grpc.aio")
        self.codec = Codec()
        self.address = address
        self.grpcurl = ("grpcurl", "-insecure" if dial not in {"", address} else "-plaintext")
        self.timeout_s = timeout_s
        self._seconds = seconds
        self._channel = self.grpc.insecure_channel(dial or address, options=OPTIONS)
        self._process = self._channel.stream_stream(PROCESS)
        self._kept: deque[_Transcript | Evidence] = deque(maxlen=KEPT_STREAMS)

    @asynccontextmanager
    async def stream(self, mode: Mode) -> AsyncGenerator["_Stream"]:
        """Open a stream; leaving resets what is open."""
        transcript = _Transcript(self, asyncio.get_running_loop().time())
        self._kept.append(transcript)
        call = self._process()
        stream = _Stream(self, call, mode, transcript, self._seconds)
        listening = asyncio.create_task(stream.listen())
        try:
            yield stream
        finally:
            call.cancel()
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            transcript.elapsed_s = asyncio.get_running_loop().time() - transcript.start_s

    async def check(self, service: str, bound: Bound) -> str:
        """Ask the health service; returns its word, or the gRPC status of a refusal."""
        request = bytes((0x0A, len(service))) + service.encode() if service else b""  # HealthCheckRequest{service = 1}
        start_s = asyncio.get_running_loop().time()
        problem = ""
        try:
            said = SERVING_STATUS.get(await self._channel.unary_unary(HEALTH)(request, timeout=self._seconds(bound)), "UNKNOWN")
        except self.grpc.AioRpcError as error:
            said, problem = error.code().name, error.details() or ""
        self._kept.append(
            Evidence(
                curl=shlex.join([*self.grpcurl, "-d", json.dumps({"service": service}), self.address, HEALTH[1:]]),
                status=0,
                headers={},
                body=said,
                elapsed_s=round(asyncio.get_running_loop().time() - start_s, 6),
                problem=problem,
            )
        )
        if said in {"UNAVAILABLE", "DEADLINE_EXCEEDED"}:
            raise Unanswered(f"health check of {self.address}: {said} {problem}")
        return said

    def forget(self) -> None:
        """Drop what was kept: another case begins."""
        self._kept.clear()

    def evidence(self) -> list[Evidence]:
        """Return what was kept since, the latest last."""
        return [each if isinstance(each, Evidence) else each.evidence() for each in self._kept]

    async def close(self) -> None:
        """Hang up."""
        await self._channel.close()


class _Transcript:
    """What was said on a stream."""

    def __init__(self, line: Line, start_s: float) -> None:
        self._line = line
        self.start_s = start_s
        self.elapsed_s = 0.0
        self.sent: list[Any] = []
        self.lines: list[str] = []
        self.reply: Reply | None = None
        self.problem = ""

    def evidence(self) -> Evidence:
        """Prepare it for a report."""
        told = "".join(map(self._line.codec.print, self.sent[:64]))  # more are a large body, and no command
        command = shlex.join([*self._line.grpcurl, *PROTO, "-d", told, self._line.address, PROCESS[1:]])
        return Evidence(
            curl=command
            if len(command) < MAX_COMMAND_CHARS
            else f"shunter conformance picker {self._line.address} --servers …",
            status=self.reply.status if self.reply else 0,
            headers={each.name: each.value for each in self.reply.sets} if self.reply else {},
            body="\n".join(self.lines),
            elapsed_s=round(self.elapsed_s, 6),
            problem=self.problem,
        )


class _Stream:
    """A stream as cases have it."""

    def __init__(self, line: Line, call: Any, mode: Mode, transcript: _Transcript, seconds: Callable[[Bound], float]) -> None:
        self._line, self._call, self._transcript, self._seconds = line, call, transcript, seconds
        self._announce: Mode | None = mode
        self._heard: asyncio.Queue[bytes | Ended] = asyncio.Queue()
        self._deadline_s: float | None = None

    async def listen(self) -> None:
        """Hear while messages are still sent, as Envoy does: who hands on what comes and we would wait for each other."""
        heard_bytes = 0
        try:
            while (data := await self._call.read()) is not self._line.grpc.EOF:
                heard_bytes += len(data) + MESSAGE_BYTES
                if heard_bytes > MOST_HEARD_BYTES:
                    return
                self._heard.put_nowait(data)
            ended = Ended((await self._call.code()).name, await self._call.details() or "")
        except self._line.grpc.AioRpcError as error:
            ended = Ended(error.code().name, error.details() or "")
        self._heard.put_nowait(ended)

    async def send(self, *messages: Message) -> None:
        """Send messages, as long as somebody listens; raises Unanswered if they are not taken."""
        self._deadline_s = None
        try:
            async with asyncio.timeout(self._line.timeout_s):
                for each in messages:
                    await self._send(each)
        except TimeoutError:
            self._transcript.problem = f"not taken within {self._line.timeout_s:g} s: {self._transcript.lines[-1][2:]}"
            raise Unanswered(self._transcript.problem) from None

    async def _send(self, message: Message) -> None:
        request = self._line.codec.encode(message, self._announce)
        self._announce = None
        self._transcript.sent.append(request)
        self._transcript.lines.append(f"→ {_tell(message)}")
        with suppress(self._line.grpc.AioRpcError, asyncio.InvalidStateError):
            await self._call.write(request.SerializeToString())

    async def finish(self) -> None:
        """Half-close."""
        self._deadline_s = None
        self._transcript.lines.append("→ nothing more")
        with suppress(self._line.grpc.AioRpcError, asyncio.InvalidStateError):
            await self._call.done_writing()

    async def receive(self, bound: Bound) -> Reply | Ended:
        """Return the next answer, or how the picker ended the stream.

        The bound is for all answers to what was sent last: who answers for ever is not waited for for ever.
        """
        within_s = self._seconds(bound)
        if self._deadline_s is None:
            self._deadline_s = asyncio.get_running_loop().time() + within_s
        try:
            async with asyncio.timeout_at(self._deadline_s):
                data = await self._heard.get()
        except TimeoutError:
            self._transcript.problem = f"no answer, or no end of them, within {within_s:g} s"
            raise Unanswered(f"{self._transcript.problem} after: {'; '.join(self._transcript.lines[-4:])}") from None
        if isinstance(data, Ended):
            self._heard.put_nowait(data)  # for who asks again
            self._transcript.lines.append(f"← {data}")
            return data
        try:
            reply = self._line.codec.decode(data)
        except ValueError as error:
            raise Unanswered(str(error)) from None
        if self._transcript.reply is None or reply.part is Part.IMMEDIATE:
            self._transcript.reply = reply
        self._transcript.lines.append(f"← {_retell(reply)}")
        return reply


def _tell(message: Message) -> str:
    parts = [message.part or "an empty message"]
    parts += [f"{len(message.headers)} headers"] if message.headers else []
    parts += [f"{len(message.body)} bytes"] if message.body else []
    parts += ["end of stream"] if message.end else []
    parts += [f"metadata {message.metadata}"] if message.metadata else []
    return ", ".join(parts)


def _retell(reply: Reply) -> str:
    parts = [reply.part or "an empty answer"]
    parts += [f"HTTP {reply.status}"] if reply.status else []
    parts += [f"set {each.name}: {clip(each.value)}" for each in reply.sets]
    parts += [
        f"{reply.form} {len(reply.body)} bytes" if reply.form else repr(clip(reply.body.decode("utf-8", "replace")))
    ] * bool(reply.form or reply.body)
    parts += ["end of stream"] if reply.end else []
    parts += [f"metadata {reply.metadata}"] if reply.metadata else []
    return ", ".join(parts)
