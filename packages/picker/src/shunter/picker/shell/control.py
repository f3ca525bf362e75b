"""What the supervisor and a child say to each other: questions down, replies up, over a pair of sockets.

Each message is four bytes of length, big-endian, and a msgpack map with its type in ``type``. A child says first that it
serves (Hello), or why it cannot (Failure); from then on it answers every question in the order in which they came, so a reply
needs no number. The pair has no name in the file system: nobody else can connect, it is gone with its processes, and the end
of the stream is how each side learns that the other is dead.
"""

import asyncio
import contextlib
import socket
from collections import deque
from typing import Any, TypeAlias

import msgspec

from shunter.picker.core.shadow import Account
from shunter.snapshot.stderr import Level

__all__ = [
    "Caller",
    "Decided",
    "Decisions",
    "Drain",
    "Failure",
    "Hello",
    "Link",
    "Ping",
    "Question",
    "Recall",
    "Recalled",
    "Reply",
    "Stacks",
    "Status",
    "Traced",
    "Verbosity",
    "connect",
]

# What is told of decisions at once is a hundredth of it; whatever is longer is not ours.
LONGEST_BYTES = 16 << 20
LENGTH_BYTES = 4


class _Message(msgspec.Struct, frozen=True, tag=True):
    """Whatever is said; the name of its class is its type."""


class Ping(_Message, frozen=True):
    """How are you? Answered by Status."""


class Decisions(_Message, frozen=True):
    """Your last decisions before this time (monotonic; None: now), or one request's? Answered by Decided, some at a time."""

    last: int
    request_id: str | None = None
    before_s: float | None = None


class Recall(_Message, frozen=True):
    """What do you remember of your decisions before this time (monotonic; None: now)? Answered by Recalled, some at a time."""

    most: int
    before_s: float | None = None


class Stacks(_Message, frozen=True):
    """Where is each of your threads and tasks? Answered by Traced."""


class Drain(_Message, frozen=True):
    """End well. Answered by ending."""


class Verbosity(_Message, frozen=True):
    """Log what is of this level at least. Answered by doing so."""

    level: Level


class Hello(_Message, frozen=True):
    """I serve."""

    port: int = 0


class Failure(_Message, frozen=True):
    """I cannot serve, and this is why; trying again as I am would change nothing."""

    words: str


class Status(_Message, frozen=True):
    """How a child is. It is ready if nothing hinders it."""

    hindrances: tuple[str, ...] = ()
    complaints: dict[str, str] = {}  # what plugins did wrong first, by name
    streams: int = 0
    certificate_expires_s: float | None = None  # since 1970
    shadow: Account | None = None
    reports: dict[str, str] = {}  # what plugins have to say of themselves, by name


class Decided(_Message, frozen=True):
    """Decisions, newest first, as plain data."""

    entries: tuple[dict[str, Any], ...] = ()
    before_s: float | None = None  # where to go on; None: these were the last


class Recalled(_Message, frozen=True):
    """Decisions as lines of JSON (``core.precedents``), newest first."""

    lines: tuple[bytes, ...] = ()
    before_s: float | None = None  # where to go on; None: these were the last


class Traced(_Message, frozen=True):
    """Stacks as text."""

    text: str


Question: TypeAlias = Ping | Decisions | Recall | Stacks | Verbosity | Drain
Reply: TypeAlias = Hello | Failure | Status | Decided | Recalled | Traced
Message: TypeAlias = Question | Reply

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


class Link:
    """One end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, message: Message) -> None:
        """Send, and do not wait: the other side reads all the time, and if it hangs, it is killed before much is sent."""
        payload = _encoder.encode(message)
        self._writer.write(len(payload).to_bytes(LENGTH_BYTES, "big") + payload)

    async def receive(self) -> Message | None:
        """Return the next message; None when the other side is gone, or says what nobody can read."""
        try:
            length = int.from_bytes(await self._reader.readexactly(LENGTH_BYTES), "big")
            if length > LONGEST_BYTES:
                return None
            return _decoder.decode(await self._reader.readexactly(length))
        except (OSError, asyncio.IncompleteReadError, msgspec.MsgspecError):
            return None

    async def close(self) -> None:
        """Send what is left to be sent, and hang up."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


async def connect(end: socket.socket) -> Link:
    """Take one end of a socket pair."""
    end.setblocking(False)
    return Link(*await asyncio.open_unix_connection(sock=end))


class Caller:
    """The supervisor's end: asks, and hands each reply to whoever waits for it."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._waiting: deque[asyncio.Future[Reply | None]] = deque()

    async def first(self) -> Reply | None:
        """Return what the child says first; None if it never says anything."""
        return await self._hear()

    def ask(self, question: Ping | Decisions | Recall | Stacks) -> "asyncio.Future[Reply | None]":
        """Ask; the result is the reply, or None if the child is gone before it."""
        answer: asyncio.Future[Reply | None] = asyncio.get_running_loop().create_future()
        self._waiting.append(answer)
        self._link.send(question)
        return answer

    def tell(self, order: Verbosity | Drain) -> None:
        """Say what is answered by deeds."""
        self._link.send(order)

    async def listen(self) -> None:
        """Deliver replies until the child is gone."""
        while (reply := await self._hear()) is not None and self._waiting:
            answer = self._waiting.popleft()
            if not answer.done():  # whoever asked may have gone home
                answer.set_result(reply)
        for answer in self._waiting:
            if not answer.done():
                answer.set_result(None)
        self._waiting.clear()

    async def close(self) -> None:
        """Hang up."""
        await self._link.close()

    async def _hear(self) -> Reply | None:
        message = await self._link.receive()
        return None if isinstance(message, Question) else message
