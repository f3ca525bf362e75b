"""What a person should be told of a picker, as Prometheus alerts: each a value, and each with its section in docs/runbook.md.

An alert is *critical* if requests suffer now and somebody has to get up, else a *warning*, which can wait for the morning. Its
expression keeps the labels of the target (``job``, ``instance`` …), so that its summary can name which picker it is about. A
condition has to last longer than the picker needs to mend what it can mend: a dead worker is there again after 0.3 s, a hung
one is killed after 3 s, a reload takes some seconds for each worker.

A ratio of two rates is NaN while nothing happens, and NaN is above nothing: a picker that is not used does not complain.
"""

from enum import Enum

import msgspec

from shunter.picker.core.thresholds import (
    BYPASSED_SHARE,
    EXPIRES_S,
    FAILED_SHARE,
    HIDDEN_REQUESTS,
    HITS_LOST,
    LOUD,
    REFUSED_SHARE,
    SATURATED,
    SHED,
    SNAPSHOT_LOST_S,
    STRANGE_SHARE,
    WORTH_CACHING,
)

__all__ = ["ALERTS", "Alert", "Severity"]


class Severity(Enum):
    """Whether it can wait."""

    CRITICAL = "critical"
    WARNING = "warning"


class Alert(msgspec.Struct, frozen=True):
    """One alert; ``summary`` is a sentence in Prometheus' templates that names the thing."""

    name: str
    severity: Severity
    lasts: str  # how long it has to be so, in Prometheus' words; "": told at once
    expr: str
    summary: str

    @property
    def anchor(self) -> str:
        """Where in the runbook its section is, whose heading is its name."""
        return self.name.lower()


_CRITICAL, _WARNING = Severity.CRITICAL, Severity.WARNING

ALERTS = (
    Alert(
        "PickerAbsent",
        _CRITICAL,
        "5m",
        "absent(shunter_picker_worker_up)",
        "Prometheus sees no picker at all: none is scraped, or none runs.",
    ),
    # Beside others that live, of the same pool or of another one. Whoever was taken out on purpose is no target any more.
    Alert(
        "PickerGone",
        _CRITICAL,
        "5m",
        "up == 0 and on (job, instance) present_over_time(shunter_picker_worker_up[1d])",
        "The picker {{ $labels.instance }} no longer answers Prometheus; it did within the last day.",
    ),
    Alert(
        "PickerDown",
        _CRITICAL,
        "1m",
        'sum without (worker) (shunter_picker_worker_up{worker=~"[0-9]+"}) == 0',
        "No worker of the picker {{ $labels.instance }} is ready.",
    ),
    # Of a dying worker's requests some may go without a pick, once; that is no reason to wake anybody.
    Alert(
        "PickerBypassed",
        _CRITICAL,
        "2m",
        f"rate(shunter_picker_bypassed_requests_total[5m]) / rate(shunter_picker_records_total[5m]) > {BYPASSED_SHARE:g}",
        "{{ $value | humanizePercentage }} of the requests behind the picker {{ $labels.instance }} are served without a pick.",
    ),
    # Picks that name nobody whom the gateway knows are not followed, and no request fails for it.
    Alert(
        "PicksNotFollowed",
        _CRITICAL,
        "10m",
        f"rate(shunter_picker_stranger_records_total[5m]) / rate(shunter_picker_records_total[5m]) > {STRANGE_SHARE:g}",
        "{{ $value | humanizePercentage }} of the requests behind the picker {{ $labels.instance }} go to endpoints that it"
        " does not know.",
    ),
    # A bypass in the gateway's own words, for when no collector lives to tell. Envoy counts idle streams of a worker that dies
    # too, so a single burst says nothing: it has to go on.
    Alert(
        "GatewayFailsOpen",
        _CRITICAL,
        "5m",
        "rate(envoy_http_ext_proc_failure_mode_allowed[2m]) > 0",
        "The Envoy {{ $labels.instance }} sends requests on although no picker answers.",
    ),
    Alert(
        "SnapshotOld",
        _CRITICAL,
        "1m",
        f"shunter_picker_snapshot_age_seconds > {SNAPSHOT_LOST_S:g}",
        "The picker {{ $labels.instance }} has not heard of its scraper for {{ $value | humanizeDuration }}.",
    ),
    Alert(
        "NoReadyEndpoints",
        _CRITICAL,
        "1m",
        "llm_d_epp_ready_endpoints == 0",
        "The pool {{ $labels.name }} has no endpoint that may get requests.",
    ),
    Alert(
        "ResponsesFail",
        _CRITICAL,
        "5m",
        'sum without (status) (rate(shunter_picker_responses_total{status=~"5xx|none"}[5m]))'
        f" / sum without (status) (rate(shunter_picker_responses_total[5m])) > {FAILED_SHARE:g}",
        "{{ $value | humanizePercentage }} of the requests behind the picker {{ $labels.instance }} fail.",
    ),
    Alert(
        "RequestsShed",
        _CRITICAL,
        "5m",
        f'sum without (reason) (rate(shunter_picker_refusals_total{{reason=~"{"|".join(SHED)}"}}[5m]))'
        " / (sum without (reason) (rate(shunter_picker_refusals_total[5m]))"
        f" + sum without (endpoint) (rate(shunter_picker_picks_total[5m]))) > {REFUSED_SHARE:g}",
        "The picker {{ $labels.instance }} refuses {{ $value | humanizePercentage }} of its requests for want of room.",
    ),
    Alert(
        "EndpointOutlier",
        _WARNING,
        "10m",
        "shunter_picker_endpoint_outlier == 1",
        "The endpoint {{ $labels.endpoint }} is much slower than the others, or fails.",
    ),
    Alert(
        "EndpointUnscraped",
        _WARNING,
        "2m",
        "shunter_scraper_row_age_seconds > 30",
        "The metrics of the endpoint {{ $labels.endpoint }} could not be read for {{ $value | humanizeDuration }}.",
    ),
    # Of an endpoint that others use, too, it is true; then whoever reads this knows why.
    Alert(
        "EndpointImplausible",
        _WARNING,
        "5m",
        "label_replace(max without (name) (llm_d_epp_per_endpoint_queue_size),"
        ' "endpoint", "$1", "model_server_endpoint", "(.*)") > 0'
        " and ignoring (model_server_endpoint) shunter_picker_in_flight_requests == 0",
        "The endpoint {{ $labels.endpoint }} says that {{ $value | humanize }} requests wait there; the picker has sent none.",
    ),
    # An engine that computes a prompt of a minute's length says so: of what it has, something runs.
    Alert(
        "EndpointHidesLoad",
        _WARNING,
        "5m",
        f"min_over_time(shunter_picker_in_flight_requests[2m]) >= {HIDDEN_REQUESTS}"
        " and max_over_time(shunter_picker_endpoint_running_requests[2m]) == 0",
        "The endpoint {{ $labels.endpoint }} says that it runs nothing, and has {{ $value | humanize }} requests.",
    ),
    Alert(
        "PoolSaturated",
        _WARNING,
        "10m",
        f'llm_d_epp_flow_control_pool_saturation{{stage="effective"}} >= {SATURATED:g}',
        "The pool {{ $labels.inference_pool }} is full: requests wait in the picker.",
    ),
    Alert(
        "QueueFilling",
        _WARNING,
        "2m",
        "llm_d_epp_flow_control_capacity_utilization_requests > 0.8",
        "The queue of the pool {{ $labels.inference_pool }} at priority {{ $labels.priority }} is full to"
        " {{ $value | humanizePercentage }}.",
    ),
    # Of a single tenant it is no news; so others have to be there.
    Alert(
        "TenantDominates",
        _WARNING,
        "5m",
        "sum without (model_name, target_model_name, priority) (rate(llm_d_epp_request_total[5m]))"
        " / ignoring (fairness_id) group_left"
        " sum without (model_name, target_model_name, priority, fairness_id) (rate(llm_d_epp_request_total[5m]))"
        f" > {LOUD:g} < 1 and ignoring (fairness_id) (max without (name) (llm_d_epp_average_queue_size) > 1"
        f" or max without (inference_pool, stage) (llm_d_epp_flow_control_pool_saturation) >= {SATURATED:g})",
        "{{ $value | humanizePercentage }} of requests are the tenant {{ $labels.fairness_id }}'s, and requests wait.",
    ),
    Alert(
        "PrefixHitsLost",
        _WARNING,
        "15m",
        "sum without (endpoint) (rate(shunter_picker_prefix_hit_blocks_total[15m]))"
        " / sum without (endpoint) (rate(shunter_picker_prefix_blocks_total[15m]))"
        f" < {HITS_LOST:g} * sum without (endpoint) (rate(shunter_picker_prefix_hit_blocks_total[6h] offset 1h))"
        " / sum without (endpoint) (rate(shunter_picker_prefix_blocks_total[6h] offset 1h))"
        " and sum without (endpoint) (rate(shunter_picker_prefix_hit_blocks_total[6h] offset 1h))"
        f" / sum without (endpoint) (rate(shunter_picker_prefix_blocks_total[6h] offset 1h)) > {WORTH_CACHING:g}",
        "Prompts behind the picker {{ $labels.instance }} are cached where they go to {{ $value | humanizePercentage }}:"
        " less than half of what was usual.",
    ),
    Alert(
        "WorkerCrashLoop",
        _CRITICAL,
        "",
        'sum without (reason) (increase(shunter_picker_worker_restarts_total{reason=~"signal|exit|failure|late"}[10m])) > 3',
        "Worker {{ $labels.worker }} of the picker {{ $labels.instance }} has ended {{ $value | humanize }}× in 10 minutes.",
    ),
    Alert(
        "WorkerHung",
        _WARNING,
        "",
        'increase(shunter_picker_worker_restarts_total{reason="hung"}[15m]) > 0',
        "Worker {{ $labels.worker }} of the picker {{ $labels.instance }} hung and was killed.",
    ),
    Alert(
        "ConfigRefused",
        _WARNING,
        "",
        "shunter_picker_config_last_reload_successful == 0",
        "The picker {{ $labels.instance }} goes on with its former configuration: it did not take the new one.",
    ),
    Alert(
        "PluginComplains",
        _WARNING,
        "5m",
        "shunter_picker_plugin_complaints > 0",
        "{{ $labels.plugin }} of the picker {{ $labels.instance }} fails, or is not shown what it needs.",
    ),
    Alert(
        "CertificateExpires",
        _WARNING,
        "1h",
        f"shunter_picker_worker_certificate_expiry_seconds - time() < {EXPIRES_S // 86_400} * 86400",
        "The certificate of worker {{ $labels.worker }} of the picker {{ $labels.instance }} is valid for"
        " {{ $value | humanizeDuration }} more.",
    ),
    # A server that is started again is away for seconds, and replicas ask for it every five at most.
    Alert(
        "ReplicasApart",
        _WARNING,
        "5m",
        'shunter_picker_worker_up{worker="sharer"} == 0',
        "The picker {{ $labels.instance }} cannot tell its other replicas what it sends where, nor hear of it.",
    ),
    Alert(
        "RecordsMissing",
        _WARNING,
        "10m",
        "rate(shunter_picker_records_total[5m]) == 0 and sum without (endpoint) (rate(shunter_picker_picks_total[5m])) > 0",
        "The picker {{ $labels.instance }} picks, and Envoy tells its collector of no request that ended.",
    ),
    Alert(
        "RecordsUnreadable",
        _WARNING,
        "",
        "increase(shunter_picker_unread_records_total[15m]) > 0",
        "The collector of the picker {{ $labels.instance }} could not read {{ $value | humanize }} of Envoy's records.",
    ),
    Alert(
        "RequestsUntold",
        _WARNING,
        "10m",
        "rate(shunter_picker_untold_requests_total[5m]) > 0 and rate(shunter_picker_records_total[5m]) > 0",
        "The collector of the picker {{ $labels.instance }} is not told of {{ $value | humanize }} requests per second:"
        " figures and service levels are of the others only.",
    ),
    Alert(
        "NamesFolded",
        _WARNING,
        "15m",
        "rate(shunter_picker_folded_requests_total[5m]) > 0",
        'The picker {{ $labels.instance }} counts requests as "other": clients use more names than are told apart.',
    ),
    Alert(
        "SpansDropped",
        _WARNING,
        "10m",
        'sum without (result) (rate(shunter_picker_spans_total{result!="exported"}[5m])) > 0',
        "The picker {{ $labels.instance }} loses spans: traces have holes, or there are none.",
    ),
)
