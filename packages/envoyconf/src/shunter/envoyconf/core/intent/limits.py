"""Sizes, times and counts that hold for every request."""

from typing import Annotated

from msgspec import Meta

from shunter.envoyconf.core.intent.parts import Part, Seconds
from shunter.envoyconf.errors import IntentError

__all__ = ["LONGEST_QUEUE_SECONDS", "Limits"]

# What Envoy buffers per connection in any case; measured, it enforces no smaller limit of a route.
SMALLEST_BODY_LIMIT = 1 << 20

# Envoy waits an hour for a message at most, and the picker asks for a second more than a request may wait.
LONGEST_QUEUE_SECONDS = 3598


class Limits(Part, frozen=True):
    """Sizes, times and counts."""

    body_bytes: Annotated[
        int,
        Meta(
            ge=SMALLEST_BODY_LIMIT,
            le=1 << 30,
            description="Largest request body that is buffered. In the profiles lean and usage, and where bodies are "
            "read for a model or a session's key, a larger one is answered 413; in strict, headers and full it passes, but "
            "cannot be tried again elsewhere. Give the picker the same number.",
        ),
    ] = 32 << 20
    connect_timeout_seconds: Annotated[Seconds, Meta(description="Longest time to connect to a model server or picker.")] = 2
    idle_timeout_seconds: Annotated[
        Seconds,
        Meta(
            description="Longest silence on a request. Must exceed the longest generation that is not streamed. In the "
            "profiles strict, headers and full it is also what ends a request whose picker hangs, after twice this time.",
        ),
    ] = 300
    pick_timeout_seconds: Annotated[
        Seconds,
        Meta(
            description="Longest wait for the picker. Strict, headers and full have no such limit: Envoy enforces none there."
        ),
    ] = 1
    queue_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=LONGEST_QUEUE_SECONDS,
            description="Longest time that the picker's flow control lets a request wait, 0 without flow control: the longest "
            "of its defaultRequestTTL (each band's too) and noEndpointRequestTTL. The picker asks for all of it at once; asked "
            "for more than this Envoy grants nothing, and goes on after pickTimeoutSeconds without a pick. Must be below "
            "idleTimeoutSeconds.",
        ),
    ] = 0
    retries: Annotated[
        int,
        Meta(ge=0, le=10, description="How often a request that no model server has taken is tried again on the next choice."),
    ] = 2

    def __post_init__(self) -> None:
        if self.queue_seconds >= self.idle_timeout_seconds:
            raise IntentError(
                f"queueSeconds {self.queue_seconds:g} is not below idleTimeoutSeconds {self.idle_timeout_seconds:g}, after "
                "which Envoy gives up on a request that waits; raise the latter, or let the picker's requests wait less long",
            )
