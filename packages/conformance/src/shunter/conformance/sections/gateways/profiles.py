"""The kinds of gateways, and what each lacks."""

from collections.abc import Mapping

import msgspec

from shunter.conformance.core.profile import KnownFailure
from shunter.conformance.sections.gateways.profile import (
    BODY_MODELS,
    FAIL_OPEN,
    MIDWAY_OPEN,
    RESPONSE_BODY,
    RESPONSE_HEADERS,
    SERVED,
    STREAMS_CLOSE,
    STREAMS_OPEN,
    GatewayProfile,
)

__all__ = ["PROFILES"]

_UNSENT = "this profile sends the picker nothing of responses"
_HEADERS_ONLY = "this profile sends the picker the headers of responses only"
_HANGS_ON = "this profile keeps the picker's stream to the end of the request, and cuts what hangs on it"
_GIVEN_AWAY = (
    "this profile sends the body to the picker and keeps none of it, so it cannot serve what the picker has begun to read"
)
_STRICT = "this profile fails closed in every pool"

_NOTHING_BACK = {SERVED: _UNSENT, RESPONSE_HEADERS: _UNSENT, RESPONSE_BODY: _UNSENT}

# Envoy takes the end of a stream for "nothing to change" (it counts server_half_closed); seen in 1.36.2 to 1.40.0.
_MEASURED = "Envoy ext_proc, statistic server_half_closed; measured on 1.36.2, 1.37.0, 1.38.3, 1.39.3 and 1.40.0"
_SILENT = KnownFailure(
    "gw.failure.close-silent",
    "Envoy goes on with a request whose picker ends its stream with OK and no answer, as its load balancing chooses",
    _MEASURED,
)
_EMPTIED = KnownFailure(
    "gw.failure.open-silent",
    "the body is at the picker, and Envoy goes on with an empty one when the picker ends its stream with OK and no answer",
    _MEASURED,
)


def _ours(name: str, lacks: dict[str, str], *known: KnownFailure) -> GatewayProfile:
    """An Envoy that `shunter envoyconf` configured, by the profile of its intent."""
    return GatewayProfile(name=f"shunter-{name}", intent={"profile": name}, lacks=lacks, known_failures=(_SILENT, *known))


_BODIES_UNREAD = "Envoy Gateway does not read bodies, so a model can be named in a header only"

_REFUSED = "Envoy Gateway refuses to fail open where bodies are streamed to the picker"
_UNTOLD = "Envoy Gateway cannot be told to tell the picker who served"


def _envoy_gateway(ours: GatewayProfile, name: str, lacks: Mapping[str, str] | None = None) -> GatewayProfile:
    """An Envoy Gateway that got the manifests of such an intent."""
    return msgspec.structs.replace(
        ours,
        name=name,
        intent={**ours.intent, "kubernetes": {"namespace": "llm"}},
        lacks={**ours.lacks, BODY_MODELS: _BODIES_UNREAD, **(lacks or {})},
        known_failures=(_SILENT,),
    )


_LEAN = _ours("lean", _NOTHING_BACK | {STREAMS_CLOSE: _HANGS_ON})
_FULL = _ours("full", {MIDWAY_OPEN: _GIVEN_AWAY, STREAMS_OPEN: _HANGS_ON, STREAMS_CLOSE: _HANGS_ON}, _EMPTIED)

PROFILES: tuple[GatewayProfile, ...] = (
    GatewayProfile(name="generic"),
    _LEAN,
    _ours("usage", _NOTHING_BACK | {STREAMS_CLOSE: _HANGS_ON}),
    _ours("strict", _NOTHING_BACK | {FAIL_OPEN: _STRICT}),
    _ours("headers", {RESPONSE_BODY: _HEADERS_ONLY, MIDWAY_OPEN: _GIVEN_AWAY}, _EMPTIED),
    _FULL,
    _envoy_gateway(_LEAN, "envoy-gateway-lean"),
    _envoy_gateway(_FULL, "envoy-gateway-full", {FAIL_OPEN: _REFUSED, SERVED: _UNTOLD}),
)
