"""The endpoint picker under exam as its cases see it: streams to it, and the model servers that it has to choose from."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from shunter.conformance.core.case import Bound
from shunter.conformance.core.exchange import Exchange
from shunter.conformance.sections.pickers.messages import Ended, Message, Mode, Reply
from shunter.conformance.sections.pickers.profile import PickerProfile

__all__ = ["PICKED", "Control", "Proxy", "Server", "Stream", "Target"]

PICKED = "x-exam-picked"
"""Header of the proxy's answers: what the picker said in its metadata."""


class Server(Protocol):
    """A model server that the exam plays: what its metrics say is set here, and who asked for them is counted."""

    address: str
    """`host:port`, an IPv6 host in brackets: what a picker calls it."""

    waiting: int
    running: int
    kv_usage: float
    adapters: tuple[str, ...]
    """LoRA adapters that run."""

    max_adapters: int

    scrapes: int
    """Metrics pages given away so far."""


class Stream(Protocol):
    """One ext_proc stream: one HTTP request, as a proxy tells it."""

    async def send(self, *messages: Message) -> None:
        """Send messages; those for which the picker has no ear any more are lost, as Envoy's would be."""
        ...

    async def receive(self, bound: Bound) -> Reply | Ended:
        """Return the next answer, or how the picker ended the stream; raises Unanswered if neither comes in time."""
        ...

    async def finish(self) -> None:
        """Say that nothing follows."""
        ...


class Control(Protocol):
    """Power over the picker's process and over what it knows; only who launched it has it."""

    async def terminate(self) -> None:
        """Ask it to end, as Kubernetes does (SIGTERM)."""
        ...

    async def ended(self, within_s: float) -> bool:
        """Wait until all of it has ended; False if it has not in time."""
        ...

    async def restart(self) -> None:
        """End what is left of it, start it again and wait until it picks."""
        ...

    async def offer(self, servers: Sequence[Server]) -> None:
        """Tell it that these are all the endpoints there are."""
        ...


class Proxy(Protocol):
    """A real Envoy before the picker; what it sends to a model server is answered with `answer`, and its body is kept."""

    answer: bytes

    async def send(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Exchange:
        """Send a request and read the whole answer; raises Unanswered."""
        ...

    def arrived(self) -> Sequence[tuple[str, bytes]]:
        """Where the last request arrived, with which body: addresses and bodies."""
        ...


class Target(Protocol):
    """What a case may do with the picker under exam; every stream is recorded as evidence."""

    @property
    def profile(self) -> PickerProfile:
        """What kind of picker this is taken for."""
        ...

    @property
    def servers(self) -> Sequence[Server]:
        """The model servers it has to choose from."""
        ...

    @property
    def control(self) -> Control:
        """Power over its process; raises Skip when all there is is an address."""
        ...

    @property
    def proxy(self) -> Proxy:
        """A real Envoy before it; raises Skip when there is none."""
        ...

    def seconds(self, bound: Bound) -> float:
        """A bound in seconds."""
        ...

    def stream(self, mode: Mode = Mode.FULL_DUPLEX_STREAMED) -> AbstractAsyncContextManager[Stream]:
        """Open a stream whose bodies come in this mode; leaving it resets what is still open."""
        ...

    async def health(self, service: str) -> str:
        """Ask the gRPC health service: SERVING, NOT_SERVING or UNKNOWN, or the gRPC status of a refusal; raises Unanswered."""
        ...

    async def metrics(self) -> Exchange:
        """GET its metrics page; raises Unanswered, or Skip when nobody said where it is."""
        ...

    async def alpn(self) -> str:
        """The protocol that a new TLS connection settles on, if any; raises Skip without TLS, Unanswered."""
        ...
