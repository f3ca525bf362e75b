"""Publishes an engine's KV events over ZeroMQ as vLLM does: PUB, and a ROUTER that repeats what was missed."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import Any, cast

import zmq
import zmq.asyncio

from shunter.lab.errors import ParamsError
from shunter.lab.shell.defects import Defects

__all__ = ["KvPublisher"]

BUFFERED = 10_000  # publications that can be repeated: vLLM's buffer_steps
# How long what happened may wait. vLLM publishes once a step, which is longer.
INTERVAL_S = 0.01
END = b"\xff" * 8


class KvPublisher:
    """The two sockets of one server."""

    def __init__(
        self,
        host: str,
        events_port: int,
        replay_port: int | None,
        topic: str,
        batch: Callable[[float], bytes | None],
        defects: Defects,
    ) -> None:
        """``batch`` returns what happened since the last time it was called; port 0 takes any free one."""
        self._defects = defects
        self._host = f"[{host}]" if ":" in host else host
        self.events_port = events_port
        self.replay_port = replay_port
        self._topic = topic.encode()
        self._batch = batch
        self._sequence = 0
        self._buffer: deque[tuple[int, bytes]] = deque(maxlen=BUFFERED)
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Listen; a taken port is a ParamsError."""
        self._context = zmq.asyncio.Context(io_threads=1)
        try:
            publisher, self.events_port = self._bind(zmq.PUB, self.events_port, "--kv-events-port")
            router = None
            if self.replay_port is not None:
                router, self.replay_port = self._bind(zmq.ROUTER, self.replay_port, "--kv-replay-port")
        except ParamsError:
            self._context.destroy(linger=0)
            raise
        self._tasks.append(asyncio.create_task(self._publish(publisher)))
        if router is not None:
            self._tasks.append(asyncio.create_task(self._repeat(router)))

    async def stop(self) -> None:
        """Close everything; a second time does nothing."""
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        self._context.destroy(linger=0)

    def _bind(self, kind: int, port: int, option: str) -> tuple["zmq.asyncio.Socket", int]:
        socket = self._context.socket(kind)
        socket.setsockopt(zmq.IPV6, 1)
        try:
            socket.bind(f"tcp://{self._host}:{port or '*'}")
        except zmq.ZMQError as error:
            socket.close(linger=0)
            raise ParamsError(f"cannot publish at {self._host}:{port}: {error}; choose another {option}") from error
        address = str(socket.getsockopt_string(zmq.LAST_ENDPOINT))
        return socket, int(address.rpartition(":")[2])

    async def _publish(self, publisher: "zmq.asyncio.Socket") -> None:
        with publisher:
            while True:
                payload = self._batch(time.time())
                if payload is not None:
                    payload, number = self._defects.published(payload), self._defects.numbered(self._sequence)
                    self._buffer.append((number, payload))
                    await _send(publisher, self._topic, number.to_bytes(8, "big"), payload)
                    self._sequence += 1
                await asyncio.sleep(INTERVAL_S)

    async def _repeat(self, router: "zmq.asyncio.Socket") -> None:
        with router:
            while True:
                frames = await router.recv_multipart()
                if len(frames) != 3 or len(frames[2]) != 8:
                    continue
                who, empty, start = frames
                for sequence, published in list(self._buffer):
                    payload = self._defects.repeated(sequence, published)
                    if payload and sequence >= int.from_bytes(start, "big"):
                        await _send(router, who, empty, self._topic, sequence.to_bytes(8, "big"), payload)
                await _send(router, who, empty, b"", END, b"")


async def _send(socket: "zmq.asyncio.Socket", *frames: bytes) -> None:
    await cast("Any", socket).send_multipart(frames)  # the stub leaves the type of the frames open
