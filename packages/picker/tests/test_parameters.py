"""Parameters that GIE and llm-d read otherwise than they are written: their files load here, and mean the same."""

import json

import pytest

from shunter.picker import config
from shunter.picker.errors import ConfigError
from shunter.picker.plugins.sessions import TokenConfig

HEAD = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"


def load(type_name, parameters):
    """The plan of a file with one plugin, and that plugin's parameters with every default."""
    text = HEAD + f"plugins: [{{type: {type_name}, parameters: {json.dumps(parameters)}}}]\n"
    plan = config.load(text)
    return plan, next(each for each in plan.config.plugins if each.name == type_name).parameters


@pytest.mark.parametrize(
    ("type_name", "path", "value"),
    [
        ("max-score-picker", "maxNumOfEndpoints", 0),
        ("random-picker", "maxNumOfEndpoints", -1),
        ("weighted-random-picker", "maxNumOfEndpoints", 0),
        ("active-request-scorer", "idleThreshold", -1),
        ("active-request-scorer", "maxBusyScore", 1.5),
        ("active-request-scorer", "maxBusyScore", -0.5),
        ("load-aware-scorer", "threshold", 0),
        ("no-hit-lru-scorer", "lruSize", 0),
        ("token-load-scorer", "queueThresholdTokens", -5),
        ("approx-prefix-cache-producer", "lruCapacityPerServer", 0),
        ("approx-prefix-cache-producer", "blockSizeTokens", 0),
        ("mm-embeddings-cache-producer", "cacheSizeInMBPerServer", 0),
        ("burst-prefix-cache-producer", "balanceBy", ""),
        ("topology-affinity-filter", "minAffinity", ""),
        ("session-affinity-filter", "encodedEndpointHeaderConfig.header", ""),
        ("session-affinity-scorer", "sessionIdConfig.sources", []),
        ("session-affinity-scorer", "sessionIdConfig.evictionTtlSeconds", 0),
        ("session-affinity-scorer", "sessionIdConfig.evictionSweepSeconds", 0),
    ],
)
def test_a_value_that_the_reference_takes_for_none_is_the_default(type_name, path, value):
    parameters = value
    for key in reversed(path.split(".")):
        parameters = {key: parameters}
    plan, found = load(type_name, parameters)
    assert found == load(type_name, {})[1]
    assert f"$.plugins[0].parameters.{path}: {value!r} counts as not given; remove it" in plan.notes


@pytest.mark.parametrize(
    ("type_name", "parameters"),
    [
        ("approx-prefix-cache-producer", {"blockSizeTokens": 0, "autoTune": False}),
        ("concurrency-detector", {"maxConcurrency": 0}),
        ("utilization-detector", {"queueDepthThreshold": 0}),
        ("utilization-detector", {"kvCacheUtilThreshold": 80}),
        ("session-affinity-filter", {"strategy": ""}),
    ],
)
def test_what_the_reference_refuses_is_refused(type_name, parameters):
    with pytest.raises(ConfigError, match=next(iter(parameters))):
        load(type_name, parameters)


@pytest.mark.parametrize("type_name", ["session-affinity-filter", "session-affinity-scorer"])
def test_the_header_of_a_sessions_token_is_read_where_it_stood(type_name):
    plan, found = load(type_name, {"headerName": "X-My-Session", "profileName": "default"})
    assert found["encodedEndpointHeaderConfig"] == {"header": "X-My-Session"}
    assert found["profileName"] == "default"
    assert "$.plugins[0].parameters.headerName: deprecated; it is encodedEndpointHeaderConfig.header" in plan.notes


def test_an_empty_header_of_a_sessions_token_was_the_default():
    _, found = load("session-affinity-filter", {"headerName": ""})
    assert found["encodedEndpointHeaderConfig"] == {"header": TokenConfig().header}


HANDLER = """\
plugins:
- {type: disagg-profile-handler, parameters: %s}
- {type: decode-filter}
- {type: prefill-filter}
schedulingProfiles:
- {name: decode, plugins: [{pluginRef: decode-filter}]}
- {name: prefill, plugins: [{pluginRef: prefill-filter}]}
"""


@pytest.mark.parametrize(
    ("given", "order"),
    [
        ("prefill_first", "prefill-first"),
        ("PrefillFirst", "prefill-first"),
        ("prefill", "prefill-first"),
        ("Decode-First", "decode-first"),
        ("", "decode-first"),
    ],
)
def test_the_order_of_stages_may_be_spelt_in_several_ways(given, order):
    plan = config.load(HEAD + HANDLER % json.dumps({"stageOrder": given}))
    assert plan.config.plugins[0].parameters["stageOrder"] == order
    assert any(note.startswith("$.plugins[0].parameters.stageOrder: ") for note in plan.notes)


def test_an_order_of_stages_that_nobody_knows_is_a_mistake():
    with pytest.raises(ConfigError, match="stageOrder"):
        config.load(HEAD + HANDLER % json.dumps({"stageOrder": "encode-first"}))


def test_a_key_without_a_value_is_as_if_it_were_not_there():
    text = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
featureGates:
plugins:
- {type: queue-scorer, name: null}
- {type: max-score-picker, parameters: {maxNumOfEndpoints: null}}
schedulingProfiles:
- name: default
  plugins: [{pluginRef: queue-scorer, weight: null}, {pluginRef: max-score-picker}]
flowControl:
  maxBytes:
"""
    without = "\n".join(line for line in text.splitlines() if not line.endswith(":") or line == "plugins:")
    without = without.replace("schedulingProfiles:\n", "").replace("- name: default", "schedulingProfiles:\n- name: default")
    plain = without.replace(", name: null", "").replace("maxNumOfEndpoints: null", "").replace(", weight: null", "")
    assert config.load(text).config == config.load(plain).config


@pytest.mark.parametrize("value", ["", "=true", "=True", "=1", "= t"])
def test_a_gate_is_switched_on_by_any_word_that_go_reads_as_true(value):
    assert config.load(HEAD + f'featureGates: ["flowControl{value}"]\n').policy.flow is not None


@pytest.mark.parametrize("value", ["=false", "=FALSE", "=0", "=f"])
def test_a_gate_is_switched_off_by_any_word_that_go_reads_as_false(value):
    assert config.load(HEAD + f'featureGates: ["flowControl{value}"]\n').policy.flow is None


@pytest.mark.parametrize("value", ["=", "=yes", "=2"])
def test_a_gate_is_not_switched_by_other_words(value):
    with pytest.raises(ConfigError, match=r"\$\.featureGates\[0\]"):
        config.load(HEAD + f'featureGates: ["flowControl{value}"]\n')


def test_an_interval_may_be_in_nanoseconds():
    index = {"kvBlockIndexConfig": {"enableMetrics": False, "metricsLoggingInterval": 60_000_000_000}}
    _, found = load("precise-prefix-cache-producer", {"indexerConfig": index})
    assert found["indexerConfig"]["kvBlockIndexConfig"]["metricsLoggingInterval"] == 60_000_000_000


def test_what_a_predictor_of_the_reference_is_told_is_taken():
    _, found = load("predicted-latency-producer", {"contextTTL": 300_000_000_000, "inFlightLoadProducerName": ""})
    assert found["contextTTL"] == 300_000_000_000
    with pytest.raises(ConfigError, match="is not a duration"):
        load("predicted-latency-producer", {"contextTTL": "five"})


@pytest.mark.parametrize("kind", ["metrics", "models"])
def test_a_source_may_say_how_often_and_that_there_are_no_certificates(kind):
    given = {"interval": "5s", "caCertPath": "", "clientCertPath": "", "clientKeyPath": ""}
    plan, parameters = load(f"{kind}-data-source", given)
    assert "interval" not in parameters
    assert any(".interval: ignored; the scraper" in note for note in plan.notes)
    with pytest.raises(ConfigError, match=r"caCertPath: .*the scraper reads the engines' metrics"):
        load(f"{kind}-data-source", {"caCertPath": "/etc/ca.crt"})


@pytest.mark.parametrize(
    ("type_name", "odd", "right", "note"),
    [
        ("queue-scorer", {}, {}, ""),
        (
            "concurrency-detector",
            {"MAXCONCURRENCY": 7},
            {"maxConcurrency": 7},
            "MAXCONCURRENCY: it is spelt maxConcurrency; write that",
        ),
        (
            "utilization-filter",
            {"conditions": [{"metric": "waiting-queue", "maxvalue": 3}]},
            {"conditions": [{"metric": "waiting-queue", "maxValue": 3}]},
            "conditions[0].maxvalue: it is spelt maxValue; write that",
        ),
        (
            "session-affinity-scorer",
            {"SessionIdConfig": {"sources": [{"Header": "x"}]}, "strategy": "session_id"},
            {"sessionIdConfig": {"sources": [{"header": "x"}]}, "strategy": "session_id"},
            "sessionIdConfig.sources[0].Header: it is spelt header; write that",
        ),
        (
            "prefix-cache-scorer",
            {"HashBlockSize": 16},
            {"hashBlockSize": 16},
            "HashBlockSize: it is spelt hashBlockSize; write that",
        ),
        (
            "session-affinity-filter",
            {"headername": "x-session"},
            {"headerName": "x-session"},
            "headername: it is spelt headerName; write that",
        ),
        (
            "label-selector-filter",
            {"matchlabels": {"Zone": "a"}},
            {"matchLabels": {"Zone": "a"}},
            "matchlabels: it is spelt matchLabels; write that",
        ),
        (
            "active-request-scorer",
            {"MaxBusyScore": 1.5},
            {},
            "maxBusyScore: 1.5 counts as not given; remove it",
        ),
    ],
)
def test_names_of_parameters_are_read_in_any_case(type_name, odd, right, note):
    plan, found = load(type_name, odd)
    assert found == load(type_name, right)[1]
    assert not note or f"$.plugins[0].parameters.{note}" in plan.notes


def test_a_name_in_two_spellings_is_a_mistake():
    with pytest.raises(ConfigError, match=r"parameters.MaxConcurrency: unknown field; did you mean 'maxConcurrency'"):
        load("concurrency-detector", {"maxConcurrency": 7, "MaxConcurrency": 8})


def test_what_is_no_parameter_has_one_spelling():
    with pytest.raises(ConfigError, match=r"^\$.Plugins: unknown field; did you mean 'plugins'"):
        config.load(HEAD + "Plugins: []")
