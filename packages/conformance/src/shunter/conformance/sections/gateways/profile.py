"""Profiles of gateways: how one is told of the exam's pools, beside what it lacks."""

import msgspec

from shunter.conformance.core.profile import Profile

__all__ = [
    "BODY_MODELS",
    "FAIL_OPEN",
    "FALLBACK",
    "HTTP2",
    "MIDWAY_OPEN",
    "RESPONSE_BODY",
    "RESPONSE_HEADERS",
    "SERVED",
    "STREAMS_CLOSE",
    "STREAMS_OPEN",
    "WEIGHTED",
    "GatewayProfile",
]

FAIL_OPEN = "fail-open"
"""A pool whose requests are served when its picker is away."""

MIDWAY_OPEN = "fail-open-midway"
"""Failing open also for a request whose picker fails after it was asked."""

FALLBACK = "fallback"
"""Trying the next endpoint of a picker's list."""

SERVED = "served-endpoint"
"""Telling the picker who served."""

RESPONSE_HEADERS = "response-headers"
"""Letting the picker change the headers of responses."""

RESPONSE_BODY = "response-body"
"""Letting the picker change the bodies of responses."""

STREAMS_OPEN = "streams-outlive-picker-open"
"""Responses under way that a picker's death does not touch, in the pool that fails open."""

STREAMS_CLOSE = "streams-outlive-picker-close"
"""The same in the pool that fails closed."""

WEIGHTED = "weighted-pools"
"""A route with several pools, each with a picker of its own."""

BODY_MODELS = "body-models"
"""Routes that are chosen by the model in the body."""

HTTP2 = "h2c"
"""HTTP/2 without TLS."""


class GatewayProfile(Profile, frozen=True, kw_only=True):
    """One kind of gateway. `intent` is what a `shunter envoyconf` intent of the exam's pools says beside them."""

    intent: dict[str, object] = msgspec.field(default_factory=dict[str, object])
