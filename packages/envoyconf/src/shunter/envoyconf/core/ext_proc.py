"""The filter that asks a pool's picker, in each profile."""

from shunter.envoyconf.core.intent import FailureMode, Limits, Pool, Profile
from shunter.envoyconf.core.names import NAMESPACE, picker_cluster
from shunter.envoyconf.core.names import picker_filter as filter_name
from shunter.envoyconf.core.protojson import Resource, duration, extension

__all__ = ["PROCESSING_MODES", "picker_filter"]

PROCESSING_MODES: dict[Profile, Resource] = {
    # The picker is sent nothing of the response. SEND for trailers, which plain HTTP responses do not have, keeps the stream
    # open until the request ends: its close tells the picker so, without a message, on every Envoy from 1.36 to 1.40.
    Profile.LEAN: {
        "request_header_mode": "SEND",
        "request_body_mode": "BUFFERED",
        "request_trailer_mode": "SKIP",
        "response_header_mode": "SKIP",
        "response_body_mode": "NONE",
        "response_trailer_mode": "SEND",
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

# Repeats a question whose worker died before it answered, and asks another worker than before: with this, workers killed
# under load cost no request in lean and 1 to 16 picks of two thousand. `reset` covers the questions that were in flight;
# without previous_hosts the retry meets the dead worker again. Short back-offs, since a person waits.
RETRY_POLICY: Resource = {
    "retry_on": "connect-failure,refused-stream,reset-before-request,reset,unavailable",
    "num_retries": 2,
    "retry_back_off": {"base_interval": "0.005s", "max_interval": "0.020s"},
    "retry_host_predicate": [
        extension(
            "envoy.retry_host_predicates.previous_hosts", "extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
        ),
    ],
    "host_selection_retry_max_attempts": 3,
}


def picker_filter(pool: Pool, profile: Profile, limits: Limits) -> Resource:
    """Return the ext_proc filter of one pool. It is disabled until a route to that pool enables it.

    Without receiving_namespaces Envoy drops the pick in silence, and load balancing would take over with every answer a 200.
    A picker that closes its stream with OK before it has picked makes Envoy go on with an empty body, in both failure
    modes; no setting prevents it, only the picker can.
    """
    metadata: Resource = {"receiving_namespaces": {"untyped": [NAMESPACE]}}
    if profile is Profile.FULL:
        metadata["forwarding_namespaces"] = {"untyped": [NAMESPACE]}
    named = extension(
        filter_name(pool.name),
        "extensions.filters.http.ext_proc.v3.ExternalProcessor",
        grpc_service={"envoy_grpc": {"cluster_name": picker_cluster(pool.name)}, "retry_policy": RETRY_POLICY},
        failure_mode_allow=pool.picker.failure_mode is FailureMode.OPEN,
        status_on_error={"code": "ServiceUnavailable"},
        message_timeout=duration(limits.pick_timeout_seconds),
        processing_mode=PROCESSING_MODES[profile],
        metadata_options=metadata,
    )
    return {**named, "disabled": True}
