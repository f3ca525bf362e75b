"""The filter that asks a pool's picker, in each profile."""

from collections.abc import Iterable

from shunter.envoyconf.core.envoy.retry import question_retries
from shunter.envoyconf.core.intent import FailureMode, Limits, Pool, Profile
from shunter.envoyconf.core.names import (
    NAMESPACE,
    OWN_NAMESPACE,
    POOL,
    picker_cluster_name,
    picker_filter_name,
)
from shunter.envoyconf.core.protojson import Resource, duration, extension, typed

__all__ = ["PROCESSING_MODES", "REQUEST_ONLY", "end_by_record", "leave_out", "picker_filter"]

# The picker is sent nothing of the response. SEND for trailers, which plain HTTP responses do not have, keeps the stream
# open until the request ends: its close tells the picker so, without a message, on every Envoy from 1.37 to 1.40.
REQUEST_ONLY: Resource = {
    "request_header_mode": "SEND",
    "request_body_mode": "BUFFERED",
    "request_trailer_mode": "SKIP",
    "response_header_mode": "SKIP",
    "response_body_mode": "NONE",
    "response_trailer_mode": "SEND",
}

PROCESSING_MODES: dict[Profile, Resource] = {
    Profile.LEAN: REQUEST_ONLY,
    Profile.USAGE: REQUEST_ONLY,
    # Envoy closes the stream right after the pick: a picker that fails closed would, when it dies, cut every request whose
    # stream it still has. The question can be put to another worker until the pick, for bodies up to about 64 KiB.
    Profile.STRICT: {
        **REQUEST_ONLY,
        "request_body_mode": "FULL_DUPLEX_STREAMED",
        "request_trailer_mode": "SEND",
        "response_trailer_mode": "SKIP",
    },
    # What the endpoint picker protocol demands; Envoy demands the trailers with it.
    Profile.FULL: {
        "request_header_mode": "SEND",
        "request_body_mode": "FULL_DUPLEX_STREAMED",
        "request_trailer_mode": "SEND",
        "response_header_mode": "SEND",
        "response_body_mode": "FULL_DUPLEX_STREAMED",
        "response_trailer_mode": "SEND",
    },
}


# A picker that lets a request wait asks for a second more than the wait may last; Envoy ignores who asks for more than this.
GRACE_SECONDS = 2

FORWARDED = {Profile.FULL: NAMESPACE, Profile.STRICT: OWN_NAMESPACE}


def end_by_record() -> Resource:
    """Return the filter that has Envoy say that streams end before their requests do: the picker cannot see it from them.

    A picker that took the end of the stream for that of the request would account for nothing that is under way.
    """
    return extension(
        "envoy.filters.http.set_metadata",
        "extensions.filters.http.set_metadata.v3.Config",
        metadata=[{"metadata_namespace": OWN_NAMESPACE, "value": {"end": "record"}}],
    )


def leave_out(pools: Iterable[Pool]) -> Resource:
    """Return what a route says of these pools' filters: not to be asked, even where they were set up before."""
    left_out = typed("extensions.filters.http.ext_proc.v3.ExtProcPerRoute", disabled=True)
    return {picker_filter_name(pool.name): left_out for pool in pools}


def picker_filter(pool: Pool, profile: Profile, limits: Limits, *, disabled: bool) -> Resource:
    """Return the ext_proc filter of one pool, ``disabled`` until a route to that pool enables it.

    Envoy decides once, when a request's headers have come, which filters there will be. Where routes go by the model, none
    is known by then; each filter is there, and looks at the route when its turn comes (see ``leave_out``).

    Without receiving_namespaces Envoy drops the pick in silence, and load balancing would take over with every answer a 200.
    A picker that closes its stream with OK before it has picked makes Envoy go on with an empty body, in both failure
    modes; no setting prevents it, only the picker can.
    """
    metadata: Resource = {"receiving_namespaces": {"untyped": [NAMESPACE]}}
    if forwarded := FORWARDED.get(profile):
        metadata["forwarding_namespaces"] = {"untyped": [forwarded]}
    patience: Resource = {}
    if limits.queue_seconds:
        patience = {"max_message_timeout": duration(limits.queue_seconds + GRACE_SECONDS)}
    named = extension(
        picker_filter_name(pool.name),
        "extensions.filters.http.ext_proc.v3.ExternalProcessor",
        grpc_service={
            "envoy_grpc": {"cluster_name": picker_cluster_name(pool.name)},
            "retry_policy": question_retries(),
            **({"initial_metadata": [{"key": POOL, "value": pool.inference_pool}]} if pool.inference_pool else {}),
        },
        failure_mode_allow=pool.picker.failure_mode is FailureMode.OPEN,
        status_on_error={"code": "ServiceUnavailable"},
        message_timeout=duration(limits.pick_timeout_seconds),
        **patience,
        processing_mode=PROCESSING_MODES[profile],
        metadata_options=metadata,
    )
    return {**named, "disabled": True} if disabled else named
