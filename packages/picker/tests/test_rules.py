"""Every alert fires when it should, does not when it should not, and says what it is about; a real promtool evaluates them."""

import re
from pathlib import Path

import msgspec
import pytest
from hack.observability import prometheus

from shunter.picker.core.alerts import ALERTS
from shunter.picker.core.rules import BURNS, rules

ROOT = Path(__file__).resolve().parents[3]
RUNBOOK = ROOT / "docs" / "runbook.md"
RULES = [rule for group in rules()["groups"] for rule in group["rules"]]
RECORDED = [rule for rule in RULES if "record" in rule]
NAMES = list(dict.fromkeys(rule["alert"] for rule in RULES if "alert" in rule))

# What Prometheus adds to every series of a target.
TARGET = {"job": "shunter", "instance": "picker:9090"}

# When promtool looks, and for how long there are samples, one a minute.
AT = "2h"
MINUTES = 150


def series(name, values, /, **labels):
    told = ",".join(f'{key}="{value}"' for key, value in (TARGET | labels).items())
    return {"series": f"{name}{{{told}}}", "values": values}


def gauge(name, value, /, **labels):
    return series(name, f"{value}x{MINUTES}", **labels)


def counter(name, per_minute, /, **labels):
    return series(name, f"0+{per_minute}x{MINUTES}", **labels)


def once(name, at, /, **labels):
    """A counter that counts one single event, after so many minutes."""
    return series(name, f"0x{at - 1} 1x{MINUTES - at}", **labels)


PREFIX_HITS = "shunter_picker_prefix_hit_blocks_total"

# By alert: series that make it fire, series that only look like it, what it says.
CASES = {
    "PickerAbsent": (
        [],
        [gauge("shunter_picker_worker_up", 0, worker="0")],
        {"": "Prometheus sees no picker at all: none is scraped, or none runs."},
    ),
    "PickerGone": (
        [gauge("up", 0), series("shunter_picker_worker_up", f"1x30 _x{MINUTES - 30}", worker="0")],
        [
            gauge("up", 1),
            gauge("shunter_picker_worker_up", 1, worker="0"),
            gauge("up", 0, instance="engine:8000"),
            series("shunter_picker_worker_up", f"1x30 _x{MINUTES - 30}", worker="0", instance="taken-out:9090"),
        ],
        {"": "The picker picker:9090 no longer answers Prometheus; it did within the last day."},
    ),
    "PickerDown": (
        [
            gauge("shunter_picker_worker_up", 0, worker="0"),
            gauge("shunter_picker_worker_up", 0, worker="1"),
            gauge("shunter_picker_worker_up", 1, worker="collector"),
            gauge("shunter_picker_worker_up", 1, worker="sharer"),
        ],
        [
            gauge("shunter_picker_worker_up", 0, worker="0"),
            gauge("shunter_picker_worker_up", 1, worker="1"),
            gauge("shunter_picker_worker_up", 0, worker="collector"),
        ],
        {"": "No worker of the picker picker:9090 is ready."},
    ),
    "PickerBypassed": (
        [counter("shunter_picker_records_total", 100), counter("shunter_picker_bypassed_requests_total", 25)],
        [counter("shunter_picker_records_total", 1000), once("shunter_picker_bypassed_requests_total", 115)],
        {"": "25% of the requests behind the picker picker:9090 are served without a pick."},
    ),
    "PicksNotFollowed": (
        [counter("shunter_picker_records_total", 100), counter("shunter_picker_stranger_records_total", 75)],
        [counter("shunter_picker_records_total", 100), counter("shunter_picker_stranger_records_total", 40)],
        {"": "75% of the requests behind the picker picker:9090 go to endpoints that it does not know."},
    ),
    "GatewayFailsOpen": (
        [counter("envoy_http_ext_proc_failure_mode_allowed", 6, instance="envoy:9901")],
        [once("envoy_http_ext_proc_failure_mode_allowed", 119, instance="envoy:9901")],
        {"instance": "The Envoy envoy:9901 sends requests on although no picker answers."},
    ),
    "SnapshotOld": (
        [gauge("shunter_picker_snapshot_age_seconds", 90)],
        [gauge("shunter_picker_snapshot_age_seconds", 2)],
        {"": "The picker picker:9090 has not heard of its scraper for 1m 30s."},
    ),
    "NoReadyEndpoints": (
        [gauge("llm_d_epp_ready_endpoints", 0, name="chat")],
        [gauge("llm_d_epp_ready_endpoints", 1, name="chat")],
        {"name": "The pool chat has no endpoint that may get requests."},
    ),
    "ResponsesFail": (
        [
            counter("shunter_picker_responses_total", 90, status="2xx"),
            counter("shunter_picker_responses_total", 10, status="5xx"),
        ],
        [
            counter("shunter_picker_responses_total", 90, status="2xx"),
            counter("shunter_picker_responses_total", 90, status="4xx"),
            counter("shunter_picker_responses_total", 1, status="5xx"),
            counter("shunter_picker_responses_total", 90, status="left"),
        ],
        {"": "10% of the requests behind the picker picker:9090 fail."},
    ),
    "RequestsShed": (
        [
            counter("shunter_picker_picks_total", 60, endpoint="a"),
            counter("shunter_picker_picks_total", 20, endpoint="b"),
            counter("shunter_picker_refusals_total", 15, reason="rejected-saturated"),
            counter("shunter_picker_refusals_total", 5, reason="evicted-priority"),
        ],
        [
            counter("shunter_picker_picks_total", 100, endpoint="a"),
            counter("shunter_picker_refusals_total", 1, reason="rejected-saturated"),
            counter("shunter_picker_refusals_total", 90, reason="rejected-context-cancelled"),
            counter("shunter_picker_refusals_total", 90, reason="BadRequest"),
        ],
        {"": "The picker picker:9090 refuses 20% of its requests for want of room."},
    ),
    "EndpointOutlier": (
        [gauge("shunter_picker_endpoint_outlier", 1, endpoint="10.0.0.1:8000")],
        [series("shunter_picker_endpoint_outlier", "1x114 _x36", endpoint="10.0.0.1:8000")],
        {"endpoint": "The endpoint 10.0.0.1:8000 is much slower than the others, or fails."},
    ),
    "EndpointUnscraped": (
        [gauge("shunter_scraper_row_age_seconds", 65, endpoint="10.0.0.1:8000", instance="scraper:9091")],
        [gauge("shunter_scraper_row_age_seconds", 0.5, endpoint="10.0.0.1:8000", instance="scraper:9091")],
        {"endpoint": "The metrics of the endpoint 10.0.0.1:8000 could not be read for 1m 5s."},
    ),
    "EndpointImplausible": (
        [
            gauge("llm_d_epp_per_endpoint_queue_size", 7, name="chat", model_server_endpoint="10.0.0.1:8000"),
            gauge("llm_d_epp_per_endpoint_queue_size", 7, name="default/chat", model_server_endpoint="10.0.0.1:8000"),
            gauge("shunter_picker_in_flight_requests", 0, endpoint="10.0.0.1:8000"),
        ],
        [
            gauge("llm_d_epp_per_endpoint_queue_size", 7, name="chat", model_server_endpoint="10.0.0.1:8000"),
            gauge("llm_d_epp_per_endpoint_queue_size", 0, name="chat", model_server_endpoint="10.0.0.2:8000"),
            gauge("shunter_picker_in_flight_requests", 12, endpoint="10.0.0.1:8000"),
            gauge("shunter_picker_in_flight_requests", 0, endpoint="10.0.0.2:8000"),
        ],
        {
            "endpoint": "The endpoint 10.0.0.1:8000 says that 7 requests wait there; the picker has sent none.",
            "model_server_endpoint": None,
        },
    ),
    "EndpointHidesLoad": (
        [
            gauge("shunter_picker_in_flight_requests", 9, endpoint="10.0.0.1:8000"),
            gauge("shunter_picker_endpoint_running_requests", 0, endpoint="10.0.0.1:8000"),
        ],
        [
            gauge("shunter_picker_in_flight_requests", 9, endpoint="10.0.0.1:8000"),
            gauge("shunter_picker_endpoint_running_requests", 1, endpoint="10.0.0.1:8000"),
            gauge("shunter_picker_in_flight_requests", 3, endpoint="10.0.0.2:8000"),
            gauge("shunter_picker_endpoint_running_requests", 0, endpoint="10.0.0.2:8000"),
        ],
        {"endpoint": "The endpoint 10.0.0.1:8000 says that it runs nothing, and has 9 requests."},
    ),
    "PoolSaturated": (
        [gauge("llm_d_epp_flow_control_pool_saturation", 1.2, inference_pool="chat", stage="effective")],
        [gauge("llm_d_epp_flow_control_pool_saturation", 0.9, inference_pool="chat", stage="effective")],
        {"inference_pool": "The pool chat is full: requests wait in the picker.", "stage": None},
    ),
    "QueueFilling": (
        [gauge("llm_d_epp_flow_control_capacity_utilization_requests", 0.9, inference_pool="chat", priority="0")],
        [gauge("llm_d_epp_flow_control_capacity_utilization_requests", 0.5, inference_pool="chat", priority="0")],
        {"inference_pool": "The queue of the pool chat at priority 0 is full to 90%.", "priority": None},
    ),
    "TenantDominates": (
        [
            counter("llm_d_epp_request_total", 60, fairness_id="loud", model_name="a", target_model_name="a", priority="0"),
            counter("llm_d_epp_request_total", 30, fairness_id="loud", model_name="b", target_model_name="b", priority="0"),
            counter("llm_d_epp_request_total", 10, fairness_id="quiet", model_name="a", target_model_name="a", priority="0"),
            gauge("llm_d_epp_average_queue_size", 8, name="chat"),
        ],
        [
            counter("llm_d_epp_request_total", 60, fairness_id="only", model_name="a", target_model_name="a", priority="0"),
            gauge("llm_d_epp_average_queue_size", 8, name="chat"),
        ],
        {"fairness_id": "90% of requests are the tenant loud's, and requests wait."},
    ),
    "PrefixHitsLost": (
        [
            series(PREFIX_HITS, "0+60x90 5400x60", endpoint="a"),
            counter("shunter_picker_prefix_blocks_total", 100, endpoint="a"),
        ],
        [
            series(PREFIX_HITS, "0+60x90 5400+40x60", endpoint="a"),
            counter("shunter_picker_prefix_blocks_total", 100, endpoint="a"),
            series(PREFIX_HITS, "0+10x90 900x60", endpoint="a", instance="uncached:9090"),
            counter("shunter_picker_prefix_blocks_total", 100, endpoint="a", instance="uncached:9090"),
        ],
        {"": "Prompts behind the picker picker:9090 are cached where they go to 0%: less than half of what was usual."},
    ),
    "WorkerCrashLoop": (
        [
            counter("shunter_picker_worker_restarts_total", 1, worker="0", reason="signal"),
            counter("shunter_picker_worker_restarts_total", 1, worker="0", reason="exit"),
        ],
        [
            once("shunter_picker_worker_restarts_total", 118, worker="0", reason="signal"),
            counter("shunter_picker_worker_restarts_total", 5, worker="0", reason="relieved"),
        ],
        {"worker": "Worker 0 of the picker picker:9090 has ended 20× in 10 minutes."},
    ),
    "WorkerHung": (
        [once("shunter_picker_worker_restarts_total", 115, worker="0", reason="hung")],
        [once("shunter_picker_worker_restarts_total", 60, worker="0", reason="hung")],
        {"worker": "Worker 0 of the picker picker:9090 hung and was killed.", "reason": None},
    ),
    "ConfigRefused": (
        [gauge("shunter_picker_config_last_reload_successful", 0)],
        [gauge("shunter_picker_config_last_reload_successful", 1)],
        {"": "The picker picker:9090 goes on with its former configuration: it did not take the new one."},
    ),
    "PluginComplains": (
        [gauge("shunter_picker_plugin_complaints", 1, plugin="my-scorer")],
        [gauge("shunter_picker_plugin_complaints", 0, plugin="my-scorer")],
        {"plugin": "my-scorer of the picker picker:9090 fails, or is not shown what it needs."},
    ),
    "CertificateExpires": (  # promtool's clock begins at 0
        [gauge("shunter_picker_worker_certificate_expiry_seconds", 2 * 3600 + 86400, worker="0")],
        [gauge("shunter_picker_worker_certificate_expiry_seconds", 2 * 3600 + 30 * 86400, worker="0")],
        {"worker": "The certificate of worker 0 of the picker picker:9090 is valid for 1d 0h 0m 0s more."},
    ),
    "ReplicasApart": (
        [gauge("shunter_picker_worker_up", 0, worker="sharer")],
        [gauge("shunter_picker_worker_up", 0, worker="collector"), gauge("shunter_picker_worker_up", 1, worker="sharer")],
        {"worker": "The picker picker:9090 cannot tell its other replicas what it sends where, nor hear of it."},
    ),
    "RecordsMissing": (
        [gauge("shunter_picker_records_total", 7), counter("shunter_picker_picks_total", 60, endpoint="a")],
        [gauge("shunter_picker_records_total", 7), gauge("shunter_picker_picks_total", 60, endpoint="a")],
        {"": "The picker picker:9090 picks, and Envoy tells its collector of no request that ended."},
    ),
    "RecordsUnreadable": (
        [counter("shunter_picker_unread_records_total", 2)],
        [gauge("shunter_picker_unread_records_total", 2)],
        {"": "The collector of the picker picker:9090 could not read 30 of Envoy's records."},
    ),
    "RequestsUntold": (
        [counter("shunter_picker_untold_requests_total", 60), counter("shunter_picker_records_total", 600)],
        [counter("shunter_picker_untold_requests_total", 60)],
        {
            "": "The collector of the picker picker:9090 is not told of 1 requests per second:"
            " figures and service levels are of the others only."
        },
    ),
    "NamesFolded": (
        [counter("shunter_picker_folded_requests_total", 6)],
        [gauge("shunter_picker_folded_requests_total", 6)],
        {"": 'The picker picker:9090 counts requests as "other": clients use more names than are told apart.'},
    ),
    "SpansDropped": (
        [
            counter("shunter_picker_spans_total", 60, result="exported"),
            counter("shunter_picker_spans_total", 2, result="full"),
            counter("shunter_picker_spans_total", 4, result="failed"),
        ],
        [counter("shunter_picker_spans_total", 60, result="exported"), gauge("shunter_picker_spans_total", 4, result="failed")],
        {"": "The picker picker:9090 loses spans: traces have holes, or there are none."},
    ),
}


@pytest.fixture(autouse=True)
def _promtool():
    try:
        prometheus.find("promtool")
    except prometheus.Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def examine(tmp_path):
    """Let promtool see that of these rules, on these series, just the expected alerts fire and values are recorded."""

    def examine(wanted, given, expected, at=AT, step="1m", values=()):
        (tmp_path / "rules.yaml").write_bytes(msgspec.yaml.encode({"groups": [{"name": "some", "rules": wanted}]}))
        looks = [{"eval_time": at, "alertname": name, "exp_alerts": alerts} for name, alerts in expected.items()]
        numbers = [
            {
                "eval_time": at,
                "expr": f"round({name}, 0.0001)",
                "exp_samples": [{"labels": '{level="chat", signal="ttft"}', "value": value}],
            }
            for name, value in dict(values).items()
        ]
        test = {"interval": step, "input_series": given, "alert_rule_test": looks, "promql_expr_test": numbers}
        (tmp_path / "test.yaml").write_bytes(
            msgspec.yaml.encode({"rule_files": ["rules.yaml"], "evaluation_interval": step, "tests": [test]})
        )
        prometheus.promtool("test", "rules", tmp_path / "test.yaml")

    return examine


def named(name):
    return [rule for rule in RULES if rule.get("alert") == name]


def annotations(name, summary):
    return {"summary": summary, "runbook_url": f"docs/runbook.md#{name.lower()}"}


def test_promtool_finds_nothing_wrong_with_the_rules(tmp_path):
    rule_file = tmp_path / "rules.yaml"
    rule_file.write_bytes(msgspec.yaml.encode(rules()))
    assert f"{len(RULES)} rules found" in prometheus.promtool("check", "rules", rule_file)


def test_every_alert_is_tried():
    assert {*CASES} == {alert.name for alert in ALERTS}


@pytest.mark.parametrize("name", CASES)
def test_an_alert_fires_and_says_what_it_is_about(name, examine):
    (alert,) = (each for each in ALERTS if each.name == name)
    given, _, told = CASES[name]
    labels = {"severity": alert.severity.value}
    if given:
        seen = dict(found for each in reversed(given) for found in re.findall(r'(\w+)="([^"]*)"', each["series"]))
        labels |= {key: seen[key] for key in (*TARGET, *filter(None, told))}
    (summary,) = filter(None, told.values())
    examine(named(name), given, {name: [{"exp_labels": labels, "exp_annotations": annotations(name, summary)}]})


@pytest.mark.parametrize("name", CASES)
def test_an_alert_is_silent_when_it_only_looks_like_it(name, examine):
    examine(named(name), CASES[name][1], {name: []})


def test_no_alert_fires_where_there_are_no_metrics_but_the_one_that_says_so(examine):
    fires = [
        {"exp_labels": {"severity": "critical"}, "exp_annotations": annotations("PickerAbsent", CASES["PickerAbsent"][2][""])}
    ]
    examine(RULES, [], {name: fires if name == "PickerAbsent" else [] for name in NAMES}, at="10m")


# -- service levels --------------------------------------------------------------------------------------------------------

LEVEL = {"level": "chat", "signal": "ttft"}


def level(*phases, per_step=100.0):
    """A level of 0.99 whose requests are bad to such a share for so many steps, one after the other."""
    good, total = [], 0.0
    for steps, bad in phases:
        good.append(f"{total:g}+{per_step * (1 - bad):g}x{steps - 1}")
        total += per_step * (1 - bad) * steps
    steps = sum(steps for steps, _ in phases)
    return [
        series("shunter_picker_service_level_requests_total", f"0+{per_step:g}x{steps}", **LEVEL),
        series("shunter_picker_service_level_good_total", " ".join(good), **LEVEL),
        series("shunter_picker_service_level_target_ratio", f"0.99x{steps}", **LEVEL),
    ]


@pytest.mark.parametrize(
    ("window", "step", "phases", "fires"),
    [  # phases in steps
        ("1h", "1m", [(60, 0.0), (70, 0.2)], True),
        ("1h", "1m", [(60, 0.0), (70, 0.1)], False),  # ten times too fast is for a longer look
        ("1h", "1m", [(60, 0.0), (50, 0.5), (10, 0.0)], False),  # it is over
        ("1h", "1m", [(117, 0.0), (4, 0.5)], False),  # it has just begun
        ("6h", "10m", [(48, 0.0), (37, 0.07)], True),
        ("6h", "10m", [(48, 0.0), (37, 0.05)], False),
        ("1d", "10m", [(60, 0.0), (145, 0.04)], True),
        ("1d", "10m", [(60, 0.0), (145, 0.02)], False),
        ("3d", "10m", [(433, 0.015)], True),
        ("3d", "10m", [(433, 0.005)], False),
    ],
)
def test_an_error_budget_that_burns_too_fast_is_told(window, step, phases, fires, examine):
    (burn,) = (each for each in BURNS if each.long == window)
    (rule,) = (each for each in RULES if each.get("labels", {}).get("window") == window)
    bad = phases[-1][1]
    summary = (
        f"The level chat misses its ttft {100 * bad:.4g}× as often as it may:"
        f" at {burn.factor:g}×, {burn.spent} of its error budget is gone in {window}."
    )
    labels = {**LEVEL, "severity": burn.severity.value, "window": window}
    expected = [{"exp_labels": labels, "exp_annotations": annotations(rule["alert"], summary)}] if fires else []
    end = f"{(sum(steps for steps, _ in phases) - 1) * int(step[:-1])}m"
    examine([*RECORDED, rule], level(*phases), {rule["alert"]: expected}, end, step)


def test_few_bad_requests_wake_nobody(examine):
    """In an hour there are twelve requests, and half of them are bad."""
    hourly = [rule for rule in RULES if rule.get("labels", {}).get("window") == "1h"]
    examine([*RECORDED, *hourly], level((121, 0.5), per_step=0.2), {"BudgetBurnsFast": []})


@pytest.mark.parametrize(
    ("per_step", "bad", "fires"),
    [
        (10, 0.02, True),
        (10, 0.005, False),
        (2, 0.5, False),  # some 300 requests, as of ten a day: three may be bad, and it is no news that four are
    ],
)
def test_a_budget_that_is_spent_is_told_where_there_is_one_to_speak_of(per_step, bad, fires, examine):
    summary = "The level chat has missed its ttft more often than it may in 30 days."
    told = {"exp_labels": {**LEVEL, "severity": "warning"}, "exp_annotations": annotations("BudgetSpent", summary)}
    given = level((MINUTES, bad), per_step=per_step)
    examine([*RECORDED, *named("BudgetSpent")], given, {"BudgetSpent": [told] if fires else []}, at=f"{MINUTES - 1}m")


@pytest.mark.parametrize(("bad", "left"), [(0.0025, 0.75), (0.02, -1.0)])
def test_what_was_kept_and_what_is_left_of_the_budget_are_recorded(bad, left, examine):
    values = {
        "level_signal:shunter_picker_service_level_attainment:ratio_30d": 1 - bad,
        "level_signal:shunter_picker_service_level_budget_left:ratio_30d": left,
    }
    examine(RECORDED, level((101, bad), per_step=1e6), {}, "100m", values=values)
