"""What a case may do with a gateway under exam: ask it as a client, and be the pickers and model servers behind it."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from shunter.conformance.core.case import Bound
from shunter.conformance.sections.gateways.profile import GatewayProfile
from shunter.conformance.sections.gateways.trial import Immediate, Pick, Pool, Reply, Trial, Trouble

__all__ = ["CHAT", "ENOUGH", "PROMPT", "RECOVERS", "Outage", "Stream", "Target"]

CHAT = "/v1/chat/completions"
"""What is asked for unless a case says otherwise."""

PROMPT = b'{"model":"exam","messages":[{"role":"user","content":"which track?"}]}'
"""The body that is sent unless a case says otherwise."""

ENOUGH = Reply()
"""What a model server answers unless a case says otherwise."""

RECOVERS = Bound(
    "recovers",
    20.0,
    "a gateway that checks its pickers' health looks every few seconds; longer, and an outage outlasts its cause",
    scales=False,
)


class Stream(Protocol):
    """An answer that is read piece by piece."""

    @property
    def trial(self) -> Trial:
        """The request."""
        ...

    async def read(self, size_bytes: int, bound: Bound) -> bytes:
        """Read so many bytes of the body; raises Mismatch if they do not come in time, Unanswered if the body ends before."""
        ...

    async def rest(self) -> bytes:
        """Read to the end; raises Unanswered if there is none."""
        ...

    def hang_up(self) -> None:
        """Close the connection, as a client does that wants no more."""
        ...


class Outage:
    """A picker's absence. `asked_again`: once it is back, whether it was asked within `RECOVERS`."""

    asked_again = False


class Target(Protocol):
    """What a case may do."""

    @property
    def outside(self) -> str:
        """A model server that belongs to no pool."""
        ...

    @property
    def profile(self) -> GatewayProfile:
        """What kind of gateway this is taken for."""
        ...

    def servers(self, pool: Pool) -> tuple[str, ...]:
        """The model servers of a pool, `host:port`."""
        ...

    def seconds(self, bound: Bound) -> float:
        """A bound in seconds."""
        ...

    async def ask(
        self,
        where: Pool | str,
        pick: Pick | Immediate | Trouble | str | None = None,
        *,
        method: str = "POST",
        path: str = CHAT,
        body: bytes = PROMPT,
        headers: Mapping[str, str] | None = None,
        reply: Reply = ENOUGH,
        replies: Mapping[str, Reply] | None = None,
    ) -> Trial:
        """Send a request to a pool's host, or another, and read the whole answer; raises Unanswered.

        `pick` is what the picker does; a text is the endpoint that it names, None the first server of the pool that asks.
        """
        ...

    async def ask_in_turn(self, where: Pool, picks: tuple[str, ...]) -> tuple[Trial, ...]:
        """Send requests one after the other over one connection; raises Skip if the gateway closes it after each."""
        ...

    async def ask_http2(self, where: Pool, pick: str) -> Trial:
        """Send a request in HTTP/2 without TLS, with prior knowledge; raises Unanswered."""
        ...

    def streaming(
        self,
        where: Pool,
        pick: Pick | Trouble | str | None = None,
        *,
        reply: Reply = ENOUGH,
    ) -> AbstractAsyncContextManager[Stream]:
        """Send a request whose answer is read piece by piece; at the end of the block its client hangs up."""
        ...

    async def until(self, holds: Callable[[], bool], bound: Bound, wanted: str) -> float:
        """Wait until something holds, and return after how many seconds it did; raises Mismatch."""
        ...

    def picker_down(self, pool: Pool) -> AbstractAsyncContextManager[Outage]:
        """Reset the connections of a pool's picker and refuse new ones; afterwards it is back, and waited for to be asked."""
        ...

    def server_down(self, *servers: str) -> AbstractAsyncContextManager[None]:
        """Let model servers refuse connections, and close those they have."""
        ...
