"""The metrics of the reference picker (llm-d) as its releases of 2026 have them, and why some are missing here.

Names stand without ``llm_d_epp_``. For what we do not show, or show without some of its labels, the reason is told; the page of
metrics prints it and a test holds it against ``shunter.picker.core.families``.
"""

from typing import NamedTuple

__all__ = ["METRICS", "PREFIX", "Metric"]

PREFIX = "llm_d_epp_"

CLASS = "model_name target_model_name fairness_id priority"
PLUGIN = "plugin_name plugin_type"
MODELS = "model_name target_model_name"
BAND = "priority inference_pool"

# Reasons that several have in common.
CLIENTS = "clients choose fairness ids and models, and a series for each would last as long as its flow"
SLO = "thresholds belong to [service levels](../slo.md), not to a plugin"
SPANS = "two looks at a clock cost more than most plugins; `/debug/decisions` says what each of them said"
FETCH = "the scraper is another process: `shunter scraper` has its own"


class Metric(NamedTuple):
    """One of the reference's; ``why`` it is missing, or has fewer labels."""

    name: str
    kind: str
    labels: str = ""
    why: str = ""


METRICS = (
    Metric("request_total", "counter", CLASS),
    Metric("request_error_total", "counter", f"{CLASS} error_code"),
    Metric("request_duration_seconds", "histogram", CLASS),
    Metric("request_size_bytes", "histogram", CLASS),
    Metric("response_size_bytes", "histogram", CLASS),
    Metric("request_input_tokens", "histogram", CLASS),
    Metric("request_cached_tokens", "histogram", CLASS),
    Metric("request_output_tokens", "histogram", CLASS),
    Metric("request_running", "gauge", CLASS),
    Metric("request_ntpot_seconds", "histogram", CLASS),
    Metric("request_ttft_seconds", "histogram", f"{CLASS} streaming"),
    Metric("request_streaming_tpot_seconds", "histogram", CLASS),
    Metric(
        "request_streaming_itl_seconds", "histogram", CLASS, "a look at each piece of a response; TPOT is the same on average"
    ),
    Metric("average_kv_cache_utilization", "gauge", "name"),
    Metric("average_queue_size", "gauge", "name"),
    Metric("average_running_requests", "gauge", "name"),
    Metric("std_dev_kv_cache_utilization", "gauge", "name"),
    Metric("std_dev_queue_size", "gauge", "name"),
    Metric("std_dev_running_requests", "gauge", "name"),
    Metric("ready_endpoints", "gauge", "name"),
    Metric("per_endpoint_queue_size", "gauge", "name model_server_endpoint"),
    Metric("scheduler_e2e_duration_seconds", "histogram"),
    Metric("plugin_duration_seconds", "histogram", f"extension_point {PLUGIN}", SPANS),
    Metric(
        "scheduler_attempts_total",
        "counter",
        "status target_model_name endpoint_name namespace port",
        "a series for each model at each endpoint; `request_total` has the models, `shunter_picker_picks_total` the endpoints",
    ),
    Metric(
        "plugin_data_scope_violations_total",
        "counter",
        f"extension_point {PLUGIN} access",
        "plugins are shown values, and cannot reach further",
    ),
    Metric("request_processing_duration_seconds", "histogram"),
    Metric("response_processing_duration_seconds", "histogram", "", "in most profiles the picker is not shown responses"),
    Metric("info", "gauge", "commit build_ref"),
    Metric("model_rewrite_decisions_total", "counter", "model_rewrite_name model_name target_model"),
    Metric("datalayer_poll_errors_total", "counter", "source_type", FETCH),
    Metric("datalayer_extract_errors_total", "counter", "source_type extractor_type", FETCH),
    Metric(
        "prefix_indexer_size",
        "gauge",
        PLUGIN,
        "each worker has an index of its own, bounded by its configuration; what they know is the same",
    ),
    Metric(
        "prefix_indexer_hit_ratio",
        "histogram",
        PLUGIN,
        "of several producers requests go by the first one, which is what is counted",
    ),
    Metric(
        "prefix_indexer_hit_bytes", "histogram", PLUGIN, "`shunter_picker_prefix_hit_blocks_total` counts blocks, by endpoint"
    ),
    Metric("encoder_cache_queries_total", "counter", PLUGIN, "no plugin of ours keeps such a cache"),
    Metric("encoder_cache_hits_total", "counter", f"{PLUGIN} modality pod", "as above"),
    Metric("encoder_cache_hit_ratio", "histogram", PLUGIN, "as above"),
    Metric("program_aware_jains_fairness_index", "gauge", "program_id", CLIENTS),
    Metric("program_aware_avg_wait_time_milliseconds", "gauge", "program_id", CLIENTS),
    Metric("program_aware_attained_service_tokens", "gauge", "program_id", CLIENTS),
    Metric(
        "inference_request_metric",
        "gauge",
        f"{PLUGIN} {MODELS} type",
        "the last request's figure is chance; histograms have all",
    ),
    Metric(
        "request_predicted_ttft_seconds",
        "histogram",
        f"{PLUGIN} {MODELS}",
        "`/debug/fleet` has what predictors say of themselves",
    ),
    Metric("request_ttft_prediction_duration_seconds", "histogram", f"{PLUGIN} {MODELS}", SPANS),
    Metric("request_predicted_tpot_seconds", "histogram", f"{PLUGIN} {MODELS}", "as for TTFT"),
    Metric("request_tpot_prediction_duration_seconds", "histogram", f"{PLUGIN} {MODELS}", SPANS),
    Metric("request_slo_violation_total", "counter", f"{PLUGIN} {MODELS} type", SLO),
    Metric(
        "disagg_decision_total",
        "counter",
        f"{PLUGIN} model_name decision_type",
        "there is one handler, and the configuration says which",
    ),
    Metric("pd_decision_total", "counter", f"{PLUGIN} model_name decision_type", "a former name of `disagg_decision_total`"),
    Metric("disaggregatedset_strict_header_no_match_total", "counter", "", "`/debug/decisions` says which filter left nobody"),
    Metric("disaggregatedset_revision_gating_share", "gauge", "", "as above"),
    Metric("flow_control_request_queue_duration_seconds", "histogram", f"fairness_id outcome {BAND} {MODELS}", CLIENTS),
    Metric("flow_control_queue_size", "gauge", f"fairness_id {BAND} {MODELS}", CLIENTS),
    Metric("flow_control_queue_bytes", "gauge", f"fairness_id {BAND} {MODELS}", CLIENTS),
    Metric(
        "flow_control_dispatch_cycle_duration_seconds",
        "histogram",
        "",
        "requests are let in when something has changed, not in cycles",
    ),
    Metric(
        "flow_control_request_enqueue_duration_seconds",
        "histogram",
        "fairness_id priority outcome",
        "entering a line takes microseconds and waits for nobody",
    ),
    Metric("flow_control_pool_saturation", "gauge", "inference_pool stage"),
    Metric(
        "flow_control_stale_endpoints",
        "gauge",
        "detector",
        "`shunter_picker_snapshot_age_seconds`, and `/debug/fleet` by endpoint",
    ),
    Metric("flow_control_capacity_utilization_requests", "gauge", BAND),
    Metric("flow_control_capacity_utilization_bytes", "gauge", BAND),
    Metric("flow_control_global_capacity_utilization_requests", "gauge", "inference_pool"),
    Metric("flow_control_global_capacity_utilization_bytes", "gauge", "inference_pool"),
    Metric("flow_control_requests_total", "counter", f"outcome {BAND}"),
    Metric("flow_control_revocations_issued_total", "counter", BAND, '`shunter_picker_refusals_total{reason="evicted"}`'),
    Metric("flow_control_revocations_total", "counter", "outcome inference_pool", "as above"),
    Metric("flow_control_reclaim_target", "gauge", "inference_pool", "room is made at once, there is no target to approach"),
    Metric("flow_control_pending_reclaim", "gauge", "inference_pool", "as above"),
    Metric("flow_control_revocation_confirmation_seconds", "histogram", "inference_pool", "as above"),
    Metric("extproc_streams_inflight", "gauge"),
    Metric(
        "extproc_stream_duration_seconds", "histogram", "", "`request_duration_seconds` is the same in all profiles but strict"
    ),
    Metric("extproc_streams_total", "counter", "code", "`request_total` and `request_error_total`: a stream is a request"),
    Metric(
        "inflight_requests",
        "gauge",
        "endpoint_name namespace producer_name fairness_id priority",
        "`shunter_picker_in_flight_requests`, by endpoint; " + CLIENTS,
    ),
    Metric(
        "inflight_tokens",
        "gauge",
        "endpoint_name namespace producer_name fairness_id priority",
        "`/debug/fleet` has the tokens of each endpoint",
    ),
    Metric(
        "kv_cache_index_admissions_total",
        "counter",
        "",
        "the index of [engines' caches](../prefix.md) says in `/debug/fleet` what it knows",
    ),
    Metric("kv_cache_index_evictions_total", "counter", "", "as above"),
    Metric("kv_cache_index_lookup_requests_total", "counter", "", "as above"),
    Metric("kv_cache_index_lookup_hits_total", "counter", "", "as above"),
    Metric("kv_cache_index_max_pod_hit_count_total", "counter", "", "as above"),
    Metric("kv_cache_index_lookup_latency_seconds", "histogram", "", "as above"),
    Metric("kv_cache_events_dedup_removed_hashes_suppressed_total", "counter", "", "as above"),
    Metric("kv_cache_events_dedup_removed_hashes_forwarded_total", "counter", "", "as above"),
)
