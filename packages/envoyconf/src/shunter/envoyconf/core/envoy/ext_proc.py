"""The filter that asks a pool's picker, in each profile."""

from shunter.envoyconf.core.envoy.retry import question_retries
from shunter.envoyconf.core.intent import FailureMode, Intent, Pool, Profile
from shunter.envoyconf.core.names import (
    NAMESPACE,
    OVERFLOW,
    OWN_NAMESPACE,
    POOL,
    overflow_cluster_name,
    picker_cluster_name,
    picker_filter_name,
)
from shunter.envoyconf.core.protojson import Resource, duration, extension

__all__ = [
    "ENDS_BY_RECORD",
    "PROCESSING_MODES",
    "REQUEST_ONLY",
    "STREAMS_BODIES",
    "TELLS_SERVED",
    "end_by_record",
    "filter_name",
    "picker_filter",
]

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
    # Envoy closes the stream once the response's headers are answered: from then on nothing depends on the picker.
    Profile.HEADERS: {
        **REQUEST_ONLY,
        "request_body_mode": "FULL_DUPLEX_STREAMED",
        "request_trailer_mode": "SEND",
        "response_header_mode": "SEND",
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

# In which the stream ends before the request does, and who is told of its end is the collector.
ENDS_BY_RECORD = {Profile.STRICT, Profile.HEADERS}

# In which the picker is told, with the response's headers, who served.
TELLS_SERVED = {Profile.HEADERS, Profile.FULL}

# In which the body goes to the picker piece by piece, and is lost with it.
STREAMS_BODIES = {profile for profile, mode in PROCESSING_MODES.items() if mode["request_body_mode"] == "FULL_DUPLEX_STREAMED"}

# A picker that lets a request wait asks for a second more than the wait may last; Envoy ignores who asks for more than this.
GRACE_SECONDS = 2


def end_by_record() -> Resource:
    """Return the filter that has Envoy say that streams end before their requests do: the picker cannot see it from them.

    A picker that took the end of the stream for that of the request would account for nothing that is under way. It is said of
    every request, and passed on where it is true.
    """
    return extension(
        "envoy.filters.http.set_metadata",
        "extensions.filters.http.set_metadata.v3.Config",
        metadata=[{"metadata_namespace": OWN_NAMESPACE, "value": {"end": "record"}}],
    )


def filter_name(pool: Pool, profile: Profile, intent: Intent) -> str:
    """Return the name of the filter that asks a pool's picker in that profile."""
    several = sum(each.asks for each in intent.profiles_of(pool)) > 1
    return picker_filter_name(pool.name, profile.value if several else None)


def picker_filter(pool: Pool, profile: Profile, intent: Intent) -> Resource:
    """Return the ext_proc filter of one pool in one profile.

    Without receiving_namespaces Envoy drops the pick in silence, and load balancing would take over with every answer a 200.
    A picker that closes its stream with OK before it has picked makes Envoy go on with an empty body, in both failure
    modes; no setting prevents it, only the picker can.
    """
    limits = intent.limits
    metadata: Resource = {"receiving_namespaces": {"untyped": [NAMESPACE]}}
    told = {NAMESPACE: profile in TELLS_SERVED, OWN_NAMESPACE: profile in ENDS_BY_RECORD}
    if forwarded := [namespace for namespace, wanted in told.items() if wanted]:
        metadata["forwarding_namespaces"] = {"untyped": forwarded}
    call = {POOL: pool.inference_pool} if pool.inference_pool else {}
    if pool.overflow:
        call[OVERFLOW] = " ".join(map(str, (overflow_cluster_name(pool.name), *pool.overflow.statuses)))
    patience: Resource = {}
    if limits.queue_seconds:
        patience = {"max_message_timeout": duration(limits.queue_seconds + GRACE_SECONDS)}
    return extension(
        filter_name(pool, profile, intent),
        "extensions.filters.http.ext_proc.v3.ExternalProcessor",
        grpc_service={
            "envoy_grpc": {"cluster_name": picker_cluster_name(pool.name)},
            "retry_policy": question_retries(),
            **({"initial_metadata": [{"key": key, "value": value} for key, value in call.items()]} if call else {}),
        },
        failure_mode_allow=pool.picker.failure_mode is FailureMode.OPEN,
        status_on_error={"code": "ServiceUnavailable"},
        message_timeout=duration(limits.pick_timeout_seconds),
        **patience,
        processing_mode=PROCESSING_MODES[profile],
        metadata_options=metadata,
    )
