"""The model server under exam as its cases see it: what they may ask of it, and what the examiner has beside its URL."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from shunter.conformance.core.case import Bound
from shunter.conformance.core.exchange import Exchange
from shunter.conformance.core.kvevents import KvMessage
from shunter.conformance.sections.servers.profile import ServerProfile

__all__ = ["Adapter", "Control", "KvListener", "Line", "Means", "Target"]


class Adapter(msgspec.Struct, frozen=True):
    """A LoRA adapter that the server can load: the name to give it, and where the server finds it."""

    name: str
    path: str


class Means(msgspec.Struct, frozen=True, kw_only=True):
    """What the examiner has beside the URL; a case that needs more than there is raises Skip and says which option gives it.

    `adapters` can be loaded and are not loaded yet. `kv_events` and `kv_replay` are ZMQ endpoints of the server, `prefill_url`
    is a second server that computes prompts for this one.
    """

    adapters: tuple[Adapter, ...] = ()
    kv_events: str = ""
    kv_replay: str = ""
    prefill_url: str = ""


class Control(Protocol):
    """Power over the server's process, container or pod, for cases that end it; the URL stays the same."""

    grace_s: float
    """How long it was told to let requests finish after it has been asked to end."""

    async def terminate(self) -> None:
        """Ask it to end, as Kubernetes does: SIGTERM, or the deletion of the pod."""
        ...

    async def kill_engine(self) -> None:
        """Kill the part that generates and leave the one that answers; raises Skip where they are one."""
        ...

    async def ended(self, within_s: float) -> bool:
        """Wait until all of it has ended; False if it has not in time."""
        ...

    async def restart(self) -> None:
        """End what is left of it and start it again; returns at once, long before it is ready."""
        ...


class Line(Protocol):
    """A client that keeps its connection as long as the server does."""

    @property
    def connections(self) -> int:
        """How many it has made."""
        ...

    async def post(self, path: str, body: bytes | dict[str, object]) -> Exchange:
        """POST JSON; raises Unanswered."""
        ...


class KvListener(Protocol):
    """A subscription to what a server publishes of its cache."""

    async def receive(self, within_s: float) -> KvMessage | None:
        """Return the next message, None if none comes in time; raises FormatError for one that is none."""
        ...


class Target(Protocol):
    """What a case may do with the server under exam; every exchange is recorded as evidence."""

    capacity: int | None
    """How many requests run at once, as far as a case has found out."""
    patience: int
    """How many times as long as usual requests last, for an examiner that was too slow to look at them."""

    @property
    def profile(self) -> ServerProfile:
        """What kind of server this is taken for."""
        ...

    @property
    def model(self) -> str:
        """The model to ask for; raises Skip when the server names none and the examiner did not either."""
        ...

    @property
    def served(self) -> tuple[str, ...]:
        """Every name in the server's model list."""
        ...

    @property
    def step_s(self) -> float | None:
        """Seconds that the target takes for one token, as calibrated; None if it could not be measured."""
        ...

    async def adapt(self) -> None:
        """Calibrate it anew, for a case that could take an answer which came early for one that was given up."""
        ...

    def seconds(self, bound: Bound) -> float:
        """A bound in seconds, scaled by the calibration where it scales."""
        ...

    @property
    def means(self) -> Means:
        """What the examiner has beside the URL."""
        ...

    @property
    def control(self) -> Control:
        """Power over the server's process; raises Skip when all there is is a URL."""
        ...

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Exchange:
        """GET a path of the server; raises Unanswered."""
        ...

    async def post(self, path: str, body: bytes | dict[str, object], headers: Mapping[str, str] | None = None) -> Exchange:
        """POST JSON, or raw bytes that claim to be JSON; raises Unanswered."""
        ...

    def line(self) -> AbstractAsyncContextManager[Line]:
        """Open a client that keeps its connection; every other exchange has a connection of its own."""
        ...

    async def abandon(self, path: str, body: bytes, promised_bytes: int) -> None:
        """POST a beginning of the promised JSON and hang up; raises Unanswered."""
        ...

    def first_metrics(self) -> Exchange:
        """The metrics page from before this exam made the server generate anything; raises Skip if there was none."""
        ...

    async def metrics(self, method: str = "GET", headers: Mapping[str, str] | None = None) -> Exchange:
        """Ask for the metrics page, wherever the profile or the examiner says it is; raises Unanswered."""
        ...

    async def prefill(self, path: str, body: dict[str, object]) -> Exchange:
        """POST to the server that computes prompts for this one; raises Skip where there is none, and Unanswered."""
        ...

    def kv_events(self) -> AbstractAsyncContextManager[KvListener]:
        """Listen to its KV events while a block runs; raises Skip where the examiner does not say where they are."""
        ...

    async def kv_replay(self, start: int, within_s: float) -> Sequence[KvMessage]:
        """Ask for the KV events from a number on; raises Skip like the other, and FormatError."""
        ...

    def plot(self, name: str, points: Sequence[tuple[float, float]]) -> None:
        """Keep what a gauge said over time, in seconds since the case began, for whoever reads the report."""
        ...
