"""The contract between a session, which speaks the protocol, and a judge, which chooses the endpoint.

A session asks ``decide`` once, when the request is complete, or tells ``note`` that it never will be; of a pick it tells
``served`` as soon as it knows who answers, and ``release`` once, however the request ends. If the request is parked, the
verdict comes from ``dispatch``, which whoever owns the sessions asks every few milliseconds while anybody is parked; a session
that does not want to wait any longer says ``leave``. All are synchronous and quick; none raises.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

__all__ = ["Ask", "DropReason", "Judge", "Outcome", "Overflow", "Parked", "Pick", "Refusal", "ResponseHeader"]


class DropReason(StrEnum):
    """Values of the response header ``x-llm-d-request-dropped-reason``, the reference's."""

    SATURATED = "rejected-saturated"
    NO_ENDPOINTS = "rejected-no-endpoints"
    TTL_EXPIRED = "rejected-ttl-expired"
    CONTEXT_CANCELLED = "rejected-context-cancelled"
    SHUTTING_DOWN = "rejected-shutting-down"
    EVICTED = "evicted"
    EVICTED_QUEUE_PRESSURE = "evicted-queue-pressure"
    EVICTED_PRIORITY = "evicted-priority"


class Ask(msgspec.Struct, frozen=True):
    """One complete HTTP request that wants an endpoint."""

    headers: Mapping[str, str]  # lower-case names, pseudo headers included; of a repeated header the first
    body: bytes | bytearray  # empty for a request without one; nobody changes it
    subset: tuple[str, ...] | None = None  # the gateway's hint, "ip" or "ip:port"; None: the whole pool; (): nobody
    has_body: bool = True  # False: none, or the mode hides it (STREAMED, NONE, a part of it): decide by the headers
    pool: str | None = None  # whose request it is, if the gateway says so
    traceparent: str | None = None  # of the trace it belongs to, as somebody wrote it: see core.tracecontext
    began_s: float | None = None  # when the first of it came, monotonic; None: at once


ResponseHeader = tuple[str, str | Mapping[str, str]]
"""A lower-case name and its value, or its value by who serves, ``ip:port``: of anybody else the response goes without it.

Where the gateway does not tell who serves the value is that of "", or else that of the first choice.
"""


class Pick(msgspec.Struct, frozen=True):
    """Where the request goes. ``endpoints`` are ``ip:port``, best first; the rest are the fallbacks in order."""

    endpoints: tuple[str, ...]
    ticket: int  # given back to ``release``; also the id in the decision log
    request_id: str
    model: str | None = None  # what the client asked for
    target_model: str | None = None  # what the engine is asked for, when it differs
    body: bytes | None = None  # the rewritten body, when it changed
    set_headers: tuple[tuple[str, str], ...] = ()  # of the request, on its way to the engine
    response_headers: tuple[ResponseHeader, ...] = ()  # to add to the response's
    metadata: Mapping[str, object] = {}  # further keys for namespace envoy.lb (scores, …)
    evictable: bool = False  # dispatch may still refuse it


class Refusal(msgspec.Struct, frozen=True):
    """Why nobody gets the request; ``status`` and ``code`` (BadRequest, …) are the reference's.

    Perhaps because the picker itself has the answer: ``content``, JSON.
    """

    status: int
    code: str
    message: str
    reason: DropReason | None = None
    content: bytes | None = None


class Overflow(msgspec.Struct, frozen=True):
    """Where the gateway would rather send what is refused, and for which statuses: a cluster of its own."""

    cluster: str
    statuses: frozenset[int]


class Parked(msgspec.Struct, frozen=True):
    """The request waits for room; ``dispatch`` will tell what becomes of it, at the latest at ``until_s`` (monotonic)."""

    ticket: int
    until_s: float


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """How a picked request ended, as far as the profile lets the session see it."""

    complete: bool  # the response ended regularly; False: client gone, reset, picker draining
    status: int | None = None
    served: str | None = None  # ip:port that really answered
    first_token_s: float | None = None
    duration_s: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    first_byte_s: float | None = None  # of the response's body, streamed or not
    sent_bytes: int | None = None  # of it; None: whoever tells has not seen it
    lasts: bool = False  # the stream is over, the request is not: its record will tell, and is waited for

    def after(self, earlier: "Outcome | None") -> "Outcome":
        """Return this with what only the one before it told: who sees the response may know more than the record of it."""
        if earlier is None or earlier.status is None:  # nobody saw a response
            return self
        known = {name: told for name in SEEN if getattr(self, name) is None and (told := getattr(earlier, name)) is not None}
        return msgspec.structs.replace(self, **known) if known else self


SEEN = ("first_token_s", "prompt_tokens", "completion_tokens", "cached_tokens")
"""What is known of a response by reading it."""


class Judge(Protocol):
    """Chooses endpoints and keeps account of what they were given."""

    def decide(self, ask: Ask, now_s: float) -> Pick | Refusal | Parked:
        """Choose for one request and book it on the chosen endpoint at once. ``now_s`` is monotonic."""
        ...

    def dispatch(self, now_s: float) -> Sequence[tuple[int, Pick | Refusal]]:
        """Return, by ticket, what becomes of parked requests whose time has come, and refusals of picks that were evictable."""
        ...

    def leave(self, ticket: int, now_s: float, refusal: Refusal | None = None) -> None:
        """Forget a parked request, for that ``refusal`` or because its client is gone; release one just dispatched."""
        ...

    def release(self, ticket: int, outcome: Outcome, now_s: float) -> None:
        """Undo the booking of ``ticket``; called exactly once per Pick."""
        ...

    def served(self, ticket: int, endpoint: str) -> None:
        """Take notice of who, ``ip:port``, really serves a request in flight: the gateway may have fallen back."""
        ...

    def note(self, ask: Ask, refusal: Refusal, now_s: float) -> None:
        """Take notice of a request that the session itself refused: too large, too late. Its body is not there."""
        ...

    def needs(self) -> Sequence[str]:
        """What the configured plugins need from the response: any of "headers", "body"."""
        ...
