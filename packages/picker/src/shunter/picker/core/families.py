"""Every metric that the picker shows, as a value: what reads it, rules, dashboards and the reference, reads it here.

Names that begin with ``llm_d_epp_`` are the reference's, with its labels and buckets, where the meaning agrees; ours begin with
``shunter_picker_``. A *twin* is the name that an older release of the reference has for the same thing, with fewer labels as a
rule: then it is the sum over those that it lacks.

What a family *needs* to be known of a request:

========== =============================================================================================================
records    the end of the request in Envoy's words: a collector (``--collector-port``), or the profile full
usage      token counts: the profile usage with a collector, or the profile full
response   the response itself: the profile full
========== =============================================================================================================
"""

from typing import Literal

import msgspec

from shunter.picker.core.buckets import (
    CACHED_TOKENS,
    COMPLETION_TOKENS,
    DURATION_S,
    HIT_RATIO,
    NTPOT_S,
    PROCESSING_S,
    PROMPT_TOKENS,
    REQUEST_BYTES,
    RESPONSE_BYTES,
    SCHEDULER_S,
    TPOT_S,
    TTFT_S,
    WAITS_S,
)

__all__ = ["CLASS", "Family", "Kind", "Needs", "Twin", "families"]

Kind = Literal["counter", "gauge", "histogram", "summary"]
Needs = Literal["", "records", "usage", "response"]


class Twin(msgspec.Struct, frozen=True):
    """An older name: its labels, and which of the family's those are where they were called something else."""

    name: str
    labels: tuple[str, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()  # the twin's name for it, the family's

    @property
    def sources(self) -> tuple[str, ...]:
        """For each label the family's."""
        ours = dict(self.renamed)
        return tuple(ours.get(label, label) for label in self.labels)


class Family(msgspec.Struct, frozen=True):
    """One metric."""

    name: str  # as queries have it: a counter's ends with _total
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    twins: tuple[Twin, ...] = ()
    needs: Needs = ""


CLASS = ("model_name", "target_model_name", "fairness_id", "priority")
"""What a class of requests is told apart by; see ``core.account_book``."""

_MODELS = ("model_name", "target_model_name")
_POOL = ("name",)
_BAND = ("priority", "inference_pool")


def _objective(name: str, *labels: str) -> tuple[Twin, ...]:
    return (Twin(f"inference_objective_{name}", labels or _MODELS),)


def _pool(name: str) -> tuple[Twin, ...]:
    return (Twin(f"inference_pool_{name}", _POOL),)


def _extension(name: str, *labels: str) -> tuple[Twin, ...]:
    return (Twin(f"inference_extension_{name}", labels),)


# -- requests by class -----------------------------------------------------------------------------------------------------

REQUESTS = Family(
    "llm_d_epp_request_total",
    "counter",
    "Requests that were sent to an endpoint.",
    CLASS,
    twins=_objective("request_total", *_MODELS, "priority"),
)
REQUEST_ERRORS = Family(
    "llm_d_epp_request_error_total",
    "counter",
    "Requests that were refused, by the error's code; and those that ended with a status from 400 on: ModelServerError.",
    (*CLASS, "error_code"),
    twins=_objective("request_error_total", *_MODELS, "error_code"),
)
RUNNING = Family(
    "llm_d_epp_request_running",
    "gauge",
    "Requests sent to an endpoint and not ended.",
    CLASS,
    twins=_objective("running_requests", "model_name"),
)
DURATION = Family(
    "llm_d_epp_request_duration_seconds",
    "histogram",
    "From the request's arrival to its end.",
    CLASS,
    DURATION_S,
    _objective("request_duration_seconds"),
)
TTFT = Family(
    "llm_d_epp_request_ttft_seconds",
    "histogram",
    "From the request's arrival to the first byte of the response's body.",
    (*CLASS, "streaming"),
    TTFT_S,
    _objective("request_ttft_seconds"),
    "records",
)
TPOT = Family(
    "llm_d_epp_request_streaming_tpot_seconds",
    "histogram",
    "Of streamed responses, per output token after the first.",
    CLASS,
    TPOT_S,
    needs="usage",
)
NTPOT = Family(
    "llm_d_epp_request_ntpot_seconds",
    "histogram",
    "Duration per output token.",
    CLASS,
    NTPOT_S,
    _objective("normalized_time_per_output_token_seconds"),
    "usage",
)
INPUT_TOKENS = Family(
    "llm_d_epp_request_input_tokens",
    "histogram",
    "Of prompts, where a response told.",
    CLASS,
    PROMPT_TOKENS,
    _objective("input_tokens"),
    "usage",
)
CACHED_INPUT_TOKENS = Family(
    "llm_d_epp_request_cached_tokens",
    "histogram",
    "Of prompts, served by the engine's cache.",
    CLASS,
    CACHED_TOKENS,
    _objective("prompt_cached_tokens"),
    "usage",
)
OUTPUT_TOKENS = Family(
    "llm_d_epp_request_output_tokens",
    "histogram",
    "Of answers, where a response told.",
    CLASS,
    COMPLETION_TOKENS,
    _objective("output_tokens"),
    "usage",
)
REQUEST_SIZE = Family(
    "llm_d_epp_request_size_bytes",
    "histogram",
    "Bodies of requests.",
    CLASS,
    REQUEST_BYTES,
    _objective("request_sizes"),
)
RESPONSE_SIZE = Family(
    "llm_d_epp_response_size_bytes",
    "histogram",
    "Bodies of responses.",
    CLASS,
    RESPONSE_BYTES,
    _objective("response_sizes"),
    "records",
)
FOLDED = Family(
    "shunter_picker_folded_requests_total",
    "counter",
    'Requests counted under "other", because clients use more names than are told apart.',
)

GIVEN_UP = Family(
    "shunter_picker_untold_requests_total",
    "counter",
    "Requests that ended and of which no record came while thousands more did: no figure of their responses is counted, and no "
    "service level.",
)

# -- service levels --------------------------------------------------------------------------------------------------------

_SIGNAL = ("level", "signal")

LEVEL_REQUESTS = Family(
    "shunter_picker_service_level_requests_total",
    "counter",
    "Requests of a service level whose signal (ttft, tpot, e2e) is known, failed ones included.",
    _SIGNAL,
    needs="records",
)
LEVEL_GOOD = Family(
    "shunter_picker_service_level_good_total",
    "counter",
    "Of these, as fast as the level promises.",
    _SIGNAL,
    needs="records",
)
LEVEL_TARGET = Family(
    "shunter_picker_service_level_target_ratio", "gauge", "The share of requests that is to be good, 0 to 1.", _SIGNAL
)
LEVEL_THRESHOLD = Family("shunter_picker_service_level_threshold_seconds", "gauge", "What is fast enough.", _SIGNAL)

# -- picking ---------------------------------------------------------------------------------------------------------------

SCHEDULER = Family(
    "llm_d_epp_scheduler_e2e_duration_seconds",
    "histogram",
    "From a request that is read to its endpoint.",
    buckets=SCHEDULER_S,
    twins=_extension("scheduler_e2e_duration_seconds"),
)
ATTEMPTS = Family(
    "llm_d_epp_scheduler_attempts_total",
    "counter",
    "Choices of an endpoint: success; failure: filters left none.",
    ("status",),
    twins=_extension("scheduler_attempts_total", "status"),
)
PROCESSING = Family(
    "llm_d_epp_request_processing_duration_seconds",
    "histogram",
    "From a request's first byte to its endpoint: its body, and room for it, waited for.",
    buckets=PROCESSING_S,
)
PICKS = Family("shunter_picker_picks_total", "counter", "Requests sent to an endpoint.", ("endpoint",))
IN_FLIGHT = Family("shunter_picker_in_flight_requests", "gauge", "Requests picked and not ended.", ("endpoint",))
ENDPOINT_RUNNING = Family(
    "shunter_picker_endpoint_running_requests",
    "gauge",
    "Requests that run there, as the engine says; not of endpoints that only prefill.",
    ("endpoint",),
)
PREFIX_BLOCKS = Family(
    "shunter_picker_prefix_blocks_total", "counter", "Prompt blocks of all requests sent to an endpoint.", ("endpoint",)
)
PREFIX_HIT_BLOCKS = Family(
    "shunter_picker_prefix_hit_blocks_total",
    "counter",
    "Prompt blocks that the chosen endpoint had seen before.",
    ("endpoint",),
)
HIT_RATIOS = Family(
    "llm_d_epp_prefix_indexer_hit_ratio",
    "histogram",
    "Which part of a prompt the chosen endpoint had seen before, 0 to 1.",
    buckets=HIT_RATIO,
    twins=_extension("prefix_indexer_hit_ratio"),
)
DISAGGREGATION = Family(
    "llm_d_epp_disagg_decision_total",
    "counter",
    "Which stages were done for the endpoint that decodes: decode-only, prefill-decode, encode-decode, encode-prefill-decode.",
    ("model_name", "decision_type"),
)
REWRITES = Family(
    "llm_d_epp_model_rewrite_decisions_total",
    "counter",
    "What InferenceModelRewrites and InferenceModels made of models; no model_name: the client's is in no resource.",
    ("model_rewrite_name", "model_name", "target_model"),
    twins=_extension("model_rewrite_decisions_total", "model_rewrite_name", "model_name", "target_model"),
)
REFUSALS = Family(
    "shunter_picker_refusals_total", "counter", "Requests refused, by the reason given to the client.", ("reason",)
)
RELEASED = Family("shunter_picker_released_total", "counter", "Picked requests that ended.")
INCOMPLETE = Family(
    "shunter_picker_incomplete_total", "counter", "Picked requests that were cut short: the client left, a reset, a drain."
)
MODEL_REWRITES = Family("shunter_picker_model_rewrites_total", "counter", "Requests whose model name was rewritten.")
PLUGIN_ERRORS = Family("shunter_picker_plugin_errors_total", "counter", "Errors of plugins, and of what only looks on.")
COMPLAINTS = Family(
    "shunter_picker_plugin_complaints",
    "gauge",
    "Plugins, or what only looks on, that did something wrong or are not shown what they need; the fleet's page says what.",
    ("plugin",),
)
TURNED_AWAY = Family("shunter_picker_streams_turned_away_total", "counter", "Streams that were too many for a worker.")
LAPS = Family("shunter_picker_laps_total", "counter", "Times a worker lost the trail of another one's bookings.")
NAMED = Family(
    "shunter_picker_models_named_total", "counter", "Requests whose model was named in headers, by body-based routing."
)
NOT_NAMED = Family("shunter_picker_models_not_named_total", "counter", "Requests in which body-based routing found no model.")
TOKENISED = Family("shunter_picker_prompts_tokenised_total", "counter", "Prompts whose tokens an engine told.")
UNTOKENISED = Family(
    "shunter_picker_prompts_untokenised_total", "counter", "Prompts whose tokens were wanted and did not come."
)
SPANS = Family(
    "shunter_picker_spans_total",
    "counter",
    "Spans of traces by what became of them: exported; failed: the collector did not take them; full: too many waited for it.",
    ("result",),
)

# -- the pool --------------------------------------------------------------------------------------------------------------

READY = Family("llm_d_epp_ready_endpoints", "gauge", "Endpoints that may get requests.", _POOL, twins=_pool("ready_pods"))
AVERAGE_QUEUE = Family(
    "llm_d_epp_average_queue_size",
    "gauge",
    "Requests waiting, per endpoint.",
    _POOL,
    twins=_pool("average_queue_size"),
)
AVERAGE_RUNNING = Family(
    "llm_d_epp_average_running_requests",
    "gauge",
    "Requests running, per endpoint.",
    _POOL,
    twins=_pool("average_running_requests"),
)
AVERAGE_KV = Family(
    "llm_d_epp_average_kv_cache_utilization",
    "gauge",
    "KV cache in use, 0 to 1.",
    _POOL,
    twins=_pool("average_kv_cache_utilization"),
)
DEVIATION_QUEUE = Family("llm_d_epp_std_dev_queue_size", "gauge", "How much endpoints' queues differ.", _POOL)
DEVIATION_RUNNING = Family("llm_d_epp_std_dev_running_requests", "gauge", "How much their running requests do.", _POOL)
DEVIATION_KV = Family("llm_d_epp_std_dev_kv_cache_utilization", "gauge", "How much their KV caches do.", _POOL)
ENDPOINT_QUEUE = Family(
    "llm_d_epp_per_endpoint_queue_size",
    "gauge",
    "Requests waiting at an endpoint.",
    ("name", "model_server_endpoint"),
    twins=(
        Twin(
            "inference_pool_per_pod_queue_size",
            ("name", "model_server_pod"),
            (("model_server_pod", "model_server_endpoint"),),
        ),
    ),
)
DESIRED_REPLICAS = Family(
    "shunter_picker_desired_replicas", "gauge", "How many endpoints of a role the load asks for.", ("role",)
)
SNAPSHOT_AGE = Family("shunter_picker_snapshot_age_seconds", "gauge", "Time since the scraper was last heard of.")

# -- flow control ----------------------------------------------------------------------------------------------------------

_FLOW = "llm_d_epp_flow_control_"

QUEUE_SIZE = Family(f"{_FLOW}queue_size", "gauge", "Requests that wait.", _BAND)
QUEUE_BYTES = Family(f"{_FLOW}queue_bytes", "gauge", "Bytes of their bodies.", _BAND)
BAND_REQUESTS = Family(f"{_FLOW}capacity_utilization_requests", "gauge", "Of what may wait, how much does.", _BAND)
BAND_BYTES = Family(f"{_FLOW}capacity_utilization_bytes", "gauge", "Of what may wait, how much does.", _BAND)
GLOBAL_REQUESTS = Family(
    f"{_FLOW}global_capacity_utilization_requests",
    "gauge",
    "Of what may wait of all priorities, how much does; 0 without a bound.",
    ("inference_pool",),
)
GLOBAL_BYTES = Family(
    f"{_FLOW}global_capacity_utilization_bytes",
    "gauge",
    "Of what may wait of all priorities, how much does; 0 without a bound.",
    ("inference_pool",),
)
FLOW_REQUESTS = Family(f"{_FLOW}requests_total", "counter", "Requests, by what became of them.", ("outcome", *_BAND))
QUEUE_DURATION = Family(
    f"{_FLOW}request_queue_duration_seconds",
    "histogram",
    "How long those waited who went on.",
    ("outcome", *_BAND),
    WAITS_S,
    _extension("flow_control_request_queue_duration_seconds", "outcome", *_BAND),
)
SATURATION = Family(
    f"{_FLOW}pool_saturation",
    "gauge",
    "How full the pool was when a worker looked last.",
    ("inference_pool", "stage"),
    twins=_extension("flow_control_pool_saturation", "inference_pool"),
)

# -- what Envoy's records tell of all requests, picked or not ----------------------------------------------------------------

RECORDS = Family("shunter_picker_records_total", "counter", "Requests that Envoy told the collector of.")
UNREAD = Family("shunter_picker_unread_records_total", "counter", "Entries that could not be read.")
REFUSED_PEERS = Family(
    "shunter_picker_refused_peers_total", "counter", "Connections for records that were cut off: not the protocol, or too many."
)
STRANGERS = Family("shunter_picker_stranger_records_total", "counter", "Requests to endpoints that the snapshot does not have.")
BYPASSED = Family(
    "shunter_picker_bypassed_requests_total",
    "counter",
    "Requests that reached an endpoint without a pick, since the gateway fails open: the picker did not answer.",
    needs="records",
)
FALLBACKS = Family(
    "shunter_picker_fallbacks_total",
    "counter",
    "Requests that another endpoint served than the first one picked.",
    needs="records",
)
RETRIES = Family("shunter_picker_retries_total", "counter", "Attempts beyond each request's first.", needs="records")
ADOPTED = Family("shunter_picker_adopted_total", "counter", "Requests taken over from dead workers.", needs="records")
EXPIRED = Family(
    "shunter_picker_expired_total",
    "counter",
    "Requests given up since Envoy spoke of them no more: adopted ones, and those whose stream was over.",
    needs="records",
)
ADOPTING = Family("shunter_picker_adopted_requests", "gauge", "Adopted requests in flight.", needs="records")
RESPONSES = Family(
    "shunter_picker_responses_total",
    "counter",
    "Requests by status class; left: the client hung up before the response began; none: there was none.",
    ("status",),
    needs="records",
)
FLAGS = Family(
    "shunter_picker_response_flags_total", "counter", "Requests by Envoy's response flag, if any.", ("flag",), needs="records"
)
ENDPOINT_REQUESTS = Family(
    "shunter_picker_endpoint_requests_total", "counter", "Requests an endpoint ended.", ("endpoint",), needs="records"
)
ENDPOINT_FAILURES = Family(
    "shunter_picker_endpoint_failures_total", "counter", "Of these, failed.", ("endpoint",), needs="records"
)
ENDPOINT_TTFT = Family(
    "shunter_picker_endpoint_ttft_seconds", "summary", "Of streamed responses.", ("endpoint",), needs="records"
)
ENDPOINT_PREFILL = Family(
    "shunter_picker_endpoint_prefill_tokens_per_second",
    "gauge",
    "Prompt tokens computed, queueing included.",
    ("endpoint",),
    needs="usage",
)
ENDPOINT_DECODE = Family(
    "shunter_picker_endpoint_decode_tokens_per_second", "gauge", "Of one response.", ("endpoint",), needs="usage"
)
ENDPOINT_OUTLIER = Family(
    "shunter_picker_endpoint_outlier", "gauge", "1: much slower than others, or failing.", ("endpoint",), needs="records"
)

# -- the picker itself -------------------------------------------------------------------------------------------------------

INFO = Family(
    "llm_d_epp_info",
    "gauge",
    "1; which release this is.",
    ("commit", "build_ref"),
    twins=_extension("info", "commit", "build_ref"),
)
STREAMS = Family("llm_d_epp_extproc_streams_inflight", "gauge", "Open ext_proc streams of all workers.")
WORKER_UP = Family("shunter_picker_worker_up", "gauge", "Whether the worker is ready.", ("worker",))
WORKER_STREAMS = Family("shunter_picker_worker_streams", "gauge", "Open ext_proc streams.", ("worker",))
WORKER_CERTIFICATE = Family(
    "shunter_picker_worker_certificate_expiry_seconds",
    "gauge",
    "When its certificate expires, since 1970; none without TLS.",
    ("worker",),
)
WORKER_MEMORY = Family("shunter_picker_worker_resident_memory_bytes", "gauge", "Its resident memory.", ("worker",))
WORKER_CPU = Family("shunter_picker_worker_cpu_seconds_total", "counter", "CPU time of the process there now.", ("worker",))
WORKER_RESTARTS = Family(
    "shunter_picker_worker_restarts_total", "counter", "Processes that ended there, by the reason.", ("worker", "reason")
)
RELOADS = Family("shunter_picker_config_reloads_total", "counter", "Reloads of the configuration.", ("result",))
RELOADED = Family(
    "shunter_picker_config_last_reload_successful", "gauge", "1: the configuration that was read last is in force."
)
PAGE_DROPPED = Family(
    "shunter_picker_page_clients_dropped_total",
    "counter",
    "Viewers of the web page that did not take their news, or were too many.",
)
SHADOW_DECISIONS = Family(
    "shunter_picker_shadow_decisions_total", "counter", "What the shadow configuration made of requests.", ("result",)
)
SHADOW_SECONDS = Family("shunter_picker_shadow_seconds_total", "counter", "Time that workers spent on it.")


def families() -> tuple[Family, ...]:
    """Return all of them, in the order of this page."""
    return tuple(each for each in globals().values() if isinstance(each, Family))
