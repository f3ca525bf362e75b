"""What arrives and what became of it: prompts as runs of tokens, arrivals, and requests that have ended.

In virtual time nobody needs the tokens themselves, only to know which prompts begin alike. So a prompt is a sequence of
*segments*: equal ids mean equal tokens, different ids differ from their first token on. The answer of an earlier turn is a
segment of the next turn's prompt like any other.
"""

import msgspec

__all__ = ["Arrival", "Finished", "Segment"]


class Segment(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A run of tokens. One id has one length, wherever it occurs."""

    id: int
    tokens: int


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """One request that will be sent."""

    at_s: float = 0.0
    prompt: tuple[Segment, ...]
    output: Segment
    """The answer that it will get, however long the client would have let it become."""
    session: str = ""
    model: str = "m"
    adapter: str | None = None
    max_tokens: int | None = None
    """What the client asks for. None: nothing, and the picker does not learn the length of the answer beforehand."""
    priority: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    after: int | None = None
    """Index of an earlier arrival: this one comes `think_s` after that one has ended, and `at_s` does not count."""
    think_s: float = 0.0

    @property
    def prompt_tokens(self) -> int:
        return sum(segment.tokens for segment in self.prompt)


class Finished(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One request that has ended, one way or the other. Times are seconds of the simulation."""

    index: int
    """Of its arrival."""
    endpoint: int
    """Position in the fleet; -1: it was refused or nobody took it."""
    arrived_s: float
    first_s: float
    """When its first token was there; of a request without any token the same as `ended_s`."""
    ended_s: float
    prompt_tokens: int
    prefilled_by: int = -1
    """Position of the endpoint that computed its prompt, if that was another one."""
    cached_tokens: int = 0
    """Of its prompt, those that the engine did not have to compute."""
    output_tokens: int = 0
    refused: int | None = None
    """The HTTP status of a refusal, by the picker or by the engine."""
    failed: bool = False
    """The engine died under it, or no engine was there to take it."""

    @property
    def ttft_s(self) -> float:
        return self.first_s - self.arrived_s

    @property
    def tpot_s(self) -> float:
        """Seconds per output token after the first; 0 for an answer of one token."""
        return (self.ended_s - self.first_s) / (self.output_tokens - 1) if self.output_tokens > 1 else 0.0
