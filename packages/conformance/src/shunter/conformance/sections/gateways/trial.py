"""A trial: one request through a gateway, what its picker and its model server are to do with it, and what they saw.

The three ends of it know it by a header that the client sends, so that many can be under way at once.
"""

import asyncio
from collections.abc import Mapping
from enum import Enum, StrEnum

import msgspec

from shunter.conformance.core.exchange import Exchange
from shunter.conformance.errors import Mismatch

__all__ = [
    "DESTINATION",
    "HOSTS",
    "TRIAL",
    "Arrival",
    "Asked",
    "Immediate",
    "Pick",
    "Pool",
    "Reply",
    "Trial",
    "Trouble",
]

TRIAL = "x-shunter-exam"
"""The header that names a trial."""

DESTINATION = "x-gateway-destination-endpoint"
"""The header, and the key in the metadata namespace `envoy.lb`, in which a picker names endpoints (GIE proposal 004)."""


class Pool(StrEnum):
    """The two pools behind a gateway under exam, by what becomes of a request whose picker does not answer."""

    OPEN = "open"
    """Any of the pool's servers serves it (failureMode FailOpen)."""
    CLOSE = "close"
    """The client gets an error (failureMode FailClose)."""


HOSTS: dict[Pool, str] = {Pool.OPEN: "open.test", Pool.CLOSE: "close.test"}
"""The host name of each pool's route."""


class Pick(msgspec.Struct, frozen=True):
    """A picker's answer: endpoints, the first choice first, and what it changes on the way there and back."""

    endpoints: tuple[str, ...]
    set_headers: dict[str, str] = {}
    remove_headers: tuple[str, ...] = ()
    body: bytes | None = None
    response_headers: dict[str, str] = {}
    response_body: bytes | None = None


class Immediate(msgspec.Struct, frozen=True):
    """A picker's answer to the client in place of a model server's."""

    status: int
    headers: dict[str, str] = {}
    body: bytes = b""


class Trouble(Enum):
    """What a picker does in place of an answer."""

    HANG = "says nothing"
    ABORT = "ends the stream with an error"
    CLOSE = "ends the stream with OK, without an answer"


class Reply(msgspec.Struct, frozen=True):
    """A model server's answer. `held`: each piece but the first waits until it is let go; `cut`: it ends in a reset."""

    pieces: tuple[bytes, ...] = (b"{}",)
    status: int = 200
    headers: dict[str, str] = {}
    stream: bool = False
    held: bool = False
    cut: bool = False

    @property
    def body(self) -> bytes:
        """All of it."""
        return b"".join(self.pieces)


class Asked:
    """A picker was asked: what it was sent so far, and whether its stream is over."""

    def __init__(self, pool: Pool, headers: Mapping[str, str]) -> None:
        self.pool = pool
        self.headers = headers
        self.body = bytearray()
        self.body_ended = False
        self.served: str | None = None
        """The endpoint that served, as the gateway says with the response."""
        self.over = asyncio.Event()


class Arrival:
    """A model server got the request."""

    def __init__(self, server: str, method: str, path: str, headers: Mapping[str, str]) -> None:
        self.server = server
        self.method = method
        self.path = path
        self.headers = headers
        self.body = b""
        self.left = asyncio.Event()
        """Whether the gateway hung up before the answer was complete."""


class Trial:
    """One request; `pick` is what its picker does, None that it names the first server of its pool.

    `replies` is what certain servers answer, `reply` what all others do.
    """

    def __init__(
        self, name: str, pick: Pick | Immediate | Trouble | None, reply: Reply, replies: Mapping[str, Reply] | None = None
    ) -> None:
        self.name = name
        self.pick = pick
        self.reply = reply
        self.replies = dict(replies or {})
        self.asked: list[Asked] = []
        self.arrived: list[Arrival] = []
        self.exchange = Exchange(method="", url="")
        self._let_go = asyncio.Semaphore(0)

    def let_go(self, pieces: int = 1) -> None:
        """Let a held reply go on by so many pieces."""
        for _ in range(pieces):
            self._let_go.release()

    async def wait(self) -> None:
        """Wait until the next piece is let go."""
        await self._let_go.acquire()

    @property
    def question(self) -> Asked:
        """What the first picker saw; raises Mismatch if none was asked."""
        if not self.asked:
            raise Mismatch("a question to a picker", self.said())
        return self.asked[0]

    @property
    def arrival(self) -> Arrival:
        """What the first server saw; raises Mismatch if there is none."""
        if not self.arrived:
            raise Mismatch("the request at a model server", self.said())
        return self.arrived[0]

    @property
    def servers(self) -> list[str]:
        """Who got the request, in order."""
        return [arrival.server for arrival in self.arrived]

    def said(self) -> str:
        """What became of it, in words."""
        questions = {0: "never", 1: "once"}.get(len(self.asked), f"{len(self.asked)} times")
        return (
            f"HTTP {self.exchange.status}; servers reached: {', '.join(self.servers) or 'none'}; a picker was asked {questions}"
        )

    def expect_served(self, *servers: str, status: int = 200) -> None:
        """Raise Mismatch unless these servers got it, in this order, and the client its answer."""
        if self.servers != list(servers) or self.exchange.status != status:
            wanted = f"HTTP {status} by {', then '.join(servers)}"
            raise Mismatch(wanted, self.said())
