"""What a session says in each body mode: the forms of a pick, of a refusal and of a body that goes on.

A form that the mode does not know is an error to Envoy, and the client gets a 5xx (measured on Envoy 1.40:
``streamed_response`` in mode BUFFERED fails every request, in STREAMED it stalls a stream of events).
"""

from collections.abc import Mapping, Sequence
from typing import cast

import msgspec

from shunter.picker.core.events import (
    BodyMode,
    BodyReply,
    HeadersReply,
    Immediate,
    Metadata,
    Mutation,
    Reply,
    Side,
)
from shunter.picker.core.judgement import Overflow, Pick, Refusal

__all__ = [
    "BASE_MODEL",
    "CHUNK_BYTES",
    "DESTINATION",
    "MODEL",
    "OVERFLOW",
    "RETRY_AFTER_S",
    "answer_body",
    "answer_response_headers",
    "pick_overflow",
    "read_lasting",
    "read_overflow",
    "read_served",
    "read_subset",
    "refuse",
    "stream",
    "tell_metadata",
    "tell_mutation",
]

DESTINATION = "x-gateway-destination-endpoint"
SERVED = "x-gateway-destination-endpoint-served"
SUBSET = "x-gateway-destination-endpoint-subset"
METADATA = "envoy.lb"
SUBSET_METADATA = "envoy.lb.subset_hint"
OWN_METADATA = "shunter"  # what shunter envoyconf lets a gateway say of itself
DROP_REASON = "x-llm-d-request-dropped-reason"
REQUEST_ID = "x-request-id"
OVERFLOW = "x-shunter-overflow"  # of the call: cluster and statuses; of the request then: the cluster

# As the reference picker: gateways failed with more than 128 KB of body in one message, so it keeps each below 64 KiB.
CHUNK_BYTES = 62_000

# Pools drain within seconds, and a client that waits longer than needed loses more than one that asks twice.
RETRY_AFTER_S = 1

# What the picker reads, or alone may say: the backend gets none of it from a client. Each of the first group has an older name;
# those of prefillers, encoders, ranks and sources name hosts to which llm-d's sidecar connects.
CONTROL_HEADERS = frozenset(
    {
        "x-llm-d-inference-fairness-id",
        "x-gateway-inference-fairness-id",
        "x-llm-d-inference-objective",
        "x-gateway-inference-objective",
        "x-llm-d-model-name-rewrite",
        "x-gateway-model-name-rewrite",
        "x-llm-d-slo-ttft-ms",
        "x-slo-ttft-ms",
        "x-llm-d-slo-tpot-ms",
        "x-slo-tpot-ms",
        "x-llm-d-audio-duration-seconds",
        "x-llm-d-video-fps",
        "x-llm-d-video-duration-seconds",
        "x-llm-d-video-resolution",
        "x-prefiller-url",
        "x-llm-d-prefiller-host-port",
        "x-prefiller-host-port",
        "x-llm-d-encoder-hosts-ports",
        "x-encoder-hosts-ports",
        "x-data-parallel-host-port",
        "x-llm-d-kv-cache-source-host-port",
        "x-kv-cache-source-host-port",
        SUBSET,
        SERVED,
        DROP_REASON,
    }
)

# What body-based routing says of a request, and nobody else may.
MODEL = "x-gateway-model-name"
BASE_MODEL = "x-gateway-base-model-name"
MODEL_HEADERS = frozenset({MODEL, BASE_MODEL})

# The vocabulary of OpenAI's error object, which its client libraries map to exceptions.
_JSON = (("content-type", "application/json"),)
_ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}


def tell_mutation(pick: Pick, headers: Mapping[str, str], body_bytes: int | None = None) -> Mutation:
    """Return the header changes of a pick: the destination in, control headers out; ``body_bytes`` if the length is to be said.

    The route is chosen again, since a gateway may match it on what the picker sets. A pick of nobody is body-based routing's:
    it names the model, and another picker will read the control headers.
    """
    set_headers, owned = pick.set_headers, CONTROL_HEADERS
    if pick.endpoints:
        set_headers += ((DESTINATION, ",".join(pick.endpoints)),)
        if not headers.get(REQUEST_ID):
            set_headers += ((REQUEST_ID, pick.request_id),)
    else:
        owned = MODEL_HEADERS.difference(name for name, _ in set_headers)
    if body_bytes is not None:
        set_headers += (("content-length", str(body_bytes)),)
    removed: tuple[str, ...] = ()
    if not owned.isdisjoint(headers):  # Envoy removes first and sets then, others may not
        removed = tuple(sorted((owned & headers.keys()).difference(name for name, _ in set_headers)))
    return Mutation(set_headers, removed, clear_route_cache=True)


def tell_metadata(pick: Pick) -> Metadata:
    """Return the dynamic metadata of a pick: the destination once more, the ticket for access logs, what plugins add."""
    if not pick.endpoints:
        return {}
    return {METADATA: {**pick.metadata, DESTINATION: ",".join(pick.endpoints), "id": str(pick.ticket)}}


def refuse(refusal: Refusal) -> Immediate:
    """Return the answer that Envoy gives the client: OpenAI's error object around the reference's wording, or what there is."""
    if refusal.content is not None:
        return Immediate(refusal.status, _JSON, refusal.content, "picker_answered")
    reason = refusal.reason.value if refusal.reason else None
    headers = [*_JSON]
    if reason:
        headers.append((DROP_REASON, reason))
    if refusal.status in {429, 503}:
        headers.append(("retry-after", str(RETRY_AFTER_S)))
    kind = _ERROR_TYPES.get(refusal.status, "invalid_request_error" if refusal.status < 500 else "server_error")
    error = {
        "message": f"inference error: {refusal.code} - {refusal.message}",
        "type": kind,
        "param": None,
        "code": refusal.code,
    }
    return Immediate(
        status=refusal.status,
        headers=tuple(headers),
        body=msgspec.json.encode({"error": error}),
        details=f"picker_refused{{{reason or refusal.code}}}",
    )


def stream(side: Side, data: bytes | bytearray, *, end_of_stream: bool) -> list[Reply]:
    """Return a body for FULL_DUPLEX_STREAMED, cut into chunks, views of it; an empty one says nothing but its end."""
    if len(data) <= CHUNK_BYTES:
        return [BodyReply(side, None, data, end_of_stream)] if data or end_of_stream else []
    last = (len(data) - 1) // CHUNK_BYTES * CHUNK_BYTES
    view = memoryview(data)
    return [
        BodyReply(side, streamed=view[at : at + CHUNK_BYTES], end_of_stream=end_of_stream and at == last)
        for at in range(0, len(data), CHUNK_BYTES)
    ]


def answer_body(side: Side, mode: BodyMode, seen: bytes, wanted: bytes) -> list[Reply]:
    """Return the reply, in the form of any other mode, that turns the piece of body ``seen`` into ``wanted``."""
    if wanted is seen or wanted == seen:
        return [BodyReply(side)]
    if mode is BodyMode.STREAMED:
        return [BodyReply(side, replaced=wanted)]
    length = Mutation(set_headers=(("content-length", str(len(wanted))),))
    return [BodyReply(side, length, replaced=wanted)]


def answer_response_headers(added: tuple[tuple[str, str], ...] = (), *, drop_length: bool) -> Reply:
    """Return the answer to response headers; ``drop_length`` if a body that goes on piece by piece may change its size."""
    if added:
        return HeadersReply(Side.RESPONSE, Mutation(_MARK + added, ("content-length",) if drop_length else ()))
    return _HEADERS_WITHOUT_LENGTH if drop_length else _HEADERS


_MARK = (("x-went-into-resp-headers", "true"),)  # as the reference picker marks what passed it
_HEADERS = HeadersReply(Side.RESPONSE, Mutation(set_headers=_MARK))
_HEADERS_WITHOUT_LENGTH = HeadersReply(Side.RESPONSE, Mutation(set_headers=_MARK, remove_headers=("content-length",)))


def read_subset(metadata: Metadata) -> tuple[str, ...] | None:
    """Return the endpoints to which the gateway restricts the choice: None says nothing, an empty tuple leaves nobody.

    Gateways write the hint as a list of strings or as one string with commas.
    """
    hint = metadata.get(SUBSET_METADATA, {}).get(SUBSET)
    entries: Sequence[object]
    if isinstance(hint, str):
        entries = hint.split(",")
    elif isinstance(hint, list):
        entries = cast("list[object]", hint)
    else:
        return None
    return tuple(stripped for entry in entries if isinstance(entry, str) and (stripped := entry.strip()))


def read_lasting(metadata: Metadata) -> bool:
    """Return whether the gateway says that requests outlast their streams, as it does in the profile strict."""
    return metadata.get(OWN_METADATA, {}).get("end") == "record"


def read_overflow(text: str) -> Overflow | None:
    """Return what the gateway says of refusals in a call's metadata: a cluster, then statuses; None for anything else."""
    cluster, *statuses = text.split() or ("",)
    try:
        return Overflow(cluster, frozenset(map(int, statuses))) if statuses else None
    except ValueError:
        return None


def pick_overflow(overflow: Overflow) -> Pick:
    """Return the pick of nobody here: the gateway finds the cluster in a header, and its route by that."""
    return Pick((), 0, "", set_headers=((OVERFLOW, overflow.cluster),))


def read_served(metadata: Metadata) -> str | None:
    """Return the endpoint that really answered, if the gateway forwards it."""
    served = metadata.get(METADATA, {}).get(SERVED)
    return served if isinstance(served, str) else None
