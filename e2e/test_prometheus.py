"""A real Prometheus scrapes a real stack: every rule and every panel is evaluated there and answers, as do older dashboards."""

import contextlib
import itertools
import math
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import pytest
from hack.observability import prometheus
from hack.observability.grafana import RATE, read_dashboards, scope

from shunter.picker.core.rules import rules
from shunter.stack.testing import running_stack

pytestmark = pytest.mark.envoy

# A day is 24 minutes: ranges of five minutes are five seconds, ten scrapes.
FASTER = 60
VARIABLES = {RATE: "10s", "$rate": "10s", "$job": ".*"}

CONFIG = {
    "apiVersion": "llm-d.ai/v1alpha1",
    "kind": "EndpointPickerConfig",
    "featureGates": ["flowControl"],
    "plugins": [{"type": "queue-scorer"}, {"type": "prefix-cache-scorer"}, {"type": "concurrency-detector"}],
    "flowControl": {"maxRequests": "100", "saturationDetector": {"pluginRef": "concurrency-detector"}},
}
REWRITE = {
    "apiVersion": "inference.networking.x-k8s.io/v1alpha2",
    "kind": "InferenceModelRewrite",
    "metadata": {"name": "review", "namespace": "default"},
    "spec": {
        "poolRef": {"name": "engines"},
        "rules": [
            {
                "matches": [{"model": {"value": "review"}}],
                "targets": [{"modelRewrite": "lab/llama-3-8b", "weight": 1}],
            }
        ],
    },
}
# Nobody keeps the second one.
LEVELS = {
    "serviceLevels": [
        {"name": "chat", "target": 0.99, "ttft": "60s", "tpot": "10s", "e2e": "60s"},
        {"name": "hurried", "target": 0.99, "ttft": "100us"},
    ]
}

AUTOSCALING = Path(__file__).parents[1] / "docs" / "autoscaling.md"

# What dashboards of GIE 1.x and of llm-d ask, recreated from their metrics' names and labels.
UPSTREAM = [
    'sum by (name) (inference_pool_average_kv_cache_utilization{name=~".+"})',
    "sum by (name) (inference_pool_average_queue_size)",
    "sum by (name) (inference_pool_average_running_requests)",
    "inference_pool_ready_pods",
    "sum by (model_name, target_model_name) (rate(inference_objective_request_total[$rate]))",
    "histogram_quantile(0.95, sum by (le) (rate(inference_objective_request_duration_seconds_bucket[$rate])))",
    "histogram_quantile(0.90, sum by (le) (rate(inference_objective_request_ttft_seconds_bucket[$rate])))",
    "sum by (model_name) (inference_objective_running_requests)",
    "sum(rate(inference_objective_input_tokens_sum[$rate])) / sum(rate(inference_objective_input_tokens_count[$rate]))",
    "sum by (model_name) (rate(inference_objective_output_tokens_sum[$rate]))",
    "histogram_quantile(0.5, sum by (le) (rate(inference_objective_normalized_time_per_output_token_seconds_bucket[$rate])))",
    "histogram_quantile(0.99, sum by (le) (rate(inference_extension_scheduler_e2e_duration_seconds_bucket[$rate])))",
    "inference_extension_flow_control_pool_saturation",
    "sum by (name) (llm_d_epp_average_kv_cache_utilization)",
    "max by (model_server_endpoint) (llm_d_epp_per_endpoint_queue_size)",
    "sum by (fairness_id, priority) (rate(llm_d_epp_request_total[$rate]))",
    "histogram_quantile(0.95, sum by (le, streaming) (rate(llm_d_epp_request_ttft_seconds_bucket[$rate])))",
    "histogram_quantile(0.95, sum by (le) (rate(llm_d_epp_flow_control_request_queue_duration_seconds_bucket[$rate])))",
    "llm_d_epp_info",
]


def asking(stack):
    """Ask as one client after the other would."""
    numbers, streamed = itertools.count(1), {"stream": True, "stream_options": {"include_usage": True}}

    def ask():
        number = next(numbers)
        message = {"role": "user", "content": f"Which track for wagon {number % 5}? " * 50}
        model = "review" if number % 3 == 0 else stack.state.plan.model
        body = {"model": model, "messages": [message], "max_tokens": 16}
        stack.chat(body | streamed if number % 4 else body)

    return ask


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    """A Prometheus that has seen some seconds of everything at work, and goes on seeing it."""
    try:
        prometheus.find("prometheus")
    except prometheus.Missing as missing:
        pytest.skip(str(missing))
    directory = tmp_path_factory.mktemp("prometheus")
    for name, document in (("config", CONFIG), ("rewrite", REWRITE), ("levels", LEVELS)):
        (directory / f"{name}.yaml").write_bytes(msgspec.yaml.encode(document))
    config = str(directory / "config.yaml")
    options = ["--profile", "usage", "--speed", "10", "--config", config, "--shadow-config", config]
    options += ["--manifests", str(directory / "rewrite.yaml"), "--picker-option=--metric-names=both"]
    options += [f"--picker-option=--service-levels={directory / 'levels.yaml'}"]
    with running_stack(*options) as stack:
        ports = stack.state.plan.ports
        targets = {
            "picker": f"127.0.0.1:{ports.admin}",
            "scraper": f"127.0.0.1:{ports.scraper}",
            "envoy": f"127.0.0.1:{ports.envoy_admin}/stats/prometheus",
        }
        with (
            prometheus.running_prometheus(targets, prometheus.hasten(rules(), FASTER)) as server,
            stack.crowd(1, asking(stack)),
        ):
            server.await_that(lambda: server.query('ALERTS{window="1h", alertstate="firing"}'), "no budget burns")
            yield server


def series_in(expression):
    return set(re.findall(r"\b(?:shunter_\w+|llm_d_epp_\w+|envoy_\w+|level_signal:[\w:]+)", expression))


def ask(server, expression):
    """Return the values of a query, as Grafana asks it, that are numbers."""
    for variable, value in VARIABLES.items():
        expression = expression.replace(variable, value)
    values = [float(series["value"][1]) for series in server.query(expression)]
    return [value for value in values if not math.isnan(value)]


PANELS = [
    pytest.param(panel, scope(expression), id=f"{name}: {panel.title}, {legend}")
    for name, dashboard in read_dashboards().items()
    for panel in dashboard.panels
    for legend, expression in panel.by_legend.items()
]
# What this stack has none of: TLS, stages, requests that fail, slow endpoints, broken plugins, cached tokens that are told.
ABSENT = {
    "shunter_picker_worker_certificate_expiry_seconds",
    "llm_d_epp_request_error_total",
    "shunter_picker_response_flags_total",
    "shunter_picker_refusals_total",
    "llm_d_epp_disagg_decision_total",
    "shunter_picker_endpoint_outlier",
    "shunter_picker_plugin_complaints",
    "llm_d_epp_request_cached_tokens_sum",
}


@pytest.mark.parametrize(("panel", "expression"), PANELS)
def test_every_panel_shows_something(panel, expression, seen):
    if panel.sparse and series_in(expression) & ABSENT:
        ask(seen, expression)  # it can be asked at least
    else:
        seen.await_that(lambda: ask(seen, expression), f"nothing to see of {expression}")


@pytest.mark.parametrize("expression", UPSTREAM)
def test_a_dashboard_of_older_names_is_answered(expression, seen):
    seen.await_that(lambda: ask(seen, expression), f"no answer to {expression}")


def test_what_the_adapter_of_the_page_on_autoscaling_would_ask_is_answered(seen):
    (rule,) = re.findall(r"metricsQuery: (.*)", AUTOSCALING.read_text())
    seen.await_that(lambda: ask(seen, rule.replace("<<.LabelMatchers>>", 'role="both"')), f"no answer to {rule}")


def test_every_rule_is_evaluated_and_every_recorded_series_is_there(seen):
    for rule in seen.rules():
        assert (rule["health"], rule.get("lastError", "")) == ("ok", ""), rule["name"]
    for recorded in {rule["name"] for rule in seen.rules() if rule["type"] == "recording"}:
        seen.await_that(lambda recorded=recorded: seen.query(recorded), f"{recorded} is not recorded")


def test_every_series_in_an_alert_is_there(seen):
    asked = set().union(*(series_in(rule["query"]) for rule in seen.rules())) - ABSENT
    seen.await_that(lambda: asked <= seen.names(), f"not all there: {asked - seen.names()}")


def test_of_a_stack_that_is_well_only_the_level_that_nobody_keeps_is_told(seen):
    def told():
        alerts = [alert for alert in seen.alerts() if alert["state"] == "firing"]
        expected = {alert["labels"]["alertname"] for alert in alerts} <= {"BudgetBurnsFast", "BudgetBurns", "BudgetSpent"}
        return alerts if expected and {alert["labels"]["level"] for alert in alerts} == {"hurried"} else None

    # A machine that stands still for some seconds makes hung workers and slow endpoints; of these no more is told soon after.
    alerts = seen.await_that(told, "other alerts fire, or none")
    summary = next(alert["annotations"]["summary"] for alert in alerts if alert["labels"].get("window") == "1h")
    assert summary.startswith("The level hurried misses its ttft 100× as often as it may:")


def test_scrapes_are_awaited_of_all_targets():
    class Beginning(prometheus.Prometheus):
        """One of its two targets has its turn before the other."""

        asked = 0

        def query(self, expression):
            self.asked += 1
            return [{"metric": {"instance": str(each)}, "value": [0, "1"]} for each in range(min(self.asked, 2))]

    server = Beginning("", {"picker": 2})
    server.await_scrapes(1)
    assert server.asked == 2


@contextlib.contextmanager
def page(text):
    """A page of metrics, at the address that is returned."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_):
            """Keep still."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_picker_that_dies_beside_a_living_one_is_told_and_an_engine_is_not():
    try:
        prometheus.find("prometheus")
    except prometheus.Missing as missing:
        pytest.skip(str(missing))
    up = 'shunter_picker_worker_up{worker="0"} 1\n'
    with contextlib.ExitStack() as deaths, page(up) as living:
        dying, engine = (deaths.enter_context(page(text)) for text in (up, "vllm:num_requests_running 0\n"))
        targets = {"picker": [living, dying], "engines": [engine]}
        with prometheus.running_prometheus(targets, prometheus.hasten(rules(), FASTER)) as server:
            server.await_scrapes(1)
            deaths.close()

            def told():
                return [each["labels"] for each in server.alerts() if each["state"] == "firing"]

            (alert,) = server.await_that(told, "nothing fires")
            assert (alert["alertname"], alert["instance"]) == ("PickerGone", dying)


def test_up_brings_a_prometheus_along_that_sees_everybody_and_keeps_the_rules():
    try:
        prometheus.find("prometheus")
    except prometheus.Missing as missing:
        pytest.skip(str(missing))
    with running_stack("--prometheus", "--engines", "2") as stack:
        server = prometheus.Prometheus(f"http://127.0.0.1:{stack.state.plan.ports.prometheus}", {"picker": 1})
        everybody = {"picker": 1, "scraper": 1, "envoy": 1, "engines": 2}
        server.await_that(lambda: server.values("sum by (job) (up)", "job") == everybody, "not everybody is scraped")
        kept = {rule["name"] for rule in server.rules()}
        assert kept == {rule.get("alert", rule.get("record")) for group in rules()["groups"] for rule in group["rules"]}
