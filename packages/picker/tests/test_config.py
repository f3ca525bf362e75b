"""What a configuration means, in every form in which it may be written."""

import contextlib
import json
from datetime import date

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker import config
from shunter.picker.config.quantities import read_quantity
from shunter.picker.core.flow import BandSettings
from shunter.picker.core.formats import FORMATS, OPENAI, order
from shunter.picker.core.prefix import PrefixSettings
from shunter.picker.errors import ConfigError
from shunter.picker.plugins import CATALOGUE, Kind, Plugin, register, upstream
from shunter.picker.plugins.detectors import Concurrency, Utilization
from shunter.picker.plugins.flow_policies import FirstCome, GlobalStrict, PriorityHoldback, RoundRobin
from shunter.picker.plugins.pickers import MaxScore, Random

HEAD = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"

GIE = """\
apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: kv-cache-utilization-scorer
- type: prefix-cache-scorer
schedulingProfiles:
- name: default
  plugins:
  - pluginRef: queue-scorer
    weight: 2
  - pluginRef: kv-cache-utilization-scorer
    weight: 2
  - pluginRef: prefix-cache-scorer
    weight: 3
"""

LLM_D = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
featureGates: [dataLayer, "flowControl=false"]
plugins:
- type: single-profile-handler
- type: decode-filter
- type: queue-scorer
- type: kv-cache-utilization-scorer
- name: approx
  type: approx-prefix-cache-producer
  parameters: {blockSizeTokens: 128, maxPrefixTokensToMatch: 65536, lruCapacityPerServer: 1000, autoTune: false}
- type: prefix-cache-scorer
  parameters: {prefixMatchInfoProducerName: approx}
- type: lora-affinity-scorer
- type: max-score-picker
  parameters: {maxNumOfEndpoints: 2}
- type: utilization-detector
  parameters: {queueDepthThreshold: 6, metricsStalenessThreshold: 200ms}
- type: metrics-data-source
- type: core-metrics-extractor
  parameters: {defaultEngine: vllm}
- type: openai-parser
schedulingProfiles:
- name: decode
  plugins:
  - pluginRef: decode-filter
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: prefix-cache-scorer, weight: 3}
  - pluginRef: lora-affinity-scorer
  - pluginRef: max-score-picker
requestHandler: {parsers: [{pluginRef: openai-parser}]}
dataLayer:
  injectDefaults: true
  sources: [{pluginRef: metrics-data-source, extractors: [{pluginRef: core-metrics-extractor}]}]
flowControl: {saturationDetector: {pluginRef: utilization-detector}}
"""


FLOW = HEAD + "featureGates: [flowControl]\n"
APPROX = (
    "plugins: [{type: approx-prefix-cache-producer, name: a, parameters: {blockSizeTokens: %d}},"
    " {type: approx-prefix-cache-producer, name: b, parameters: {blockSizeTokens: %d}},"
    " {type: prefix-cache-scorer, name: x, parameters: {prefixMatchInfoProducerName: a}},"
    " {type: prefix-cache-scorer, name: y, parameters: {prefixMatchInfoProducerName: b}}]"
)
PROFILE = "schedulingProfiles: [{name: p, plugins: [%s]}]"


def test_gies_default_comes_with_the_picker():
    plan = config.load(GIE)
    assert plan.policy == config.load(config.read_builtin("upstream-2-2-3")).policy
    assert [(each.name, each.weight) for each in plan.policy.profile.scorers] == [
        ("queue-scorer", 2),
        ("kv-cache-utilization-scorer", 2),
        ("prefix-cache-scorer", 3),
    ]
    assert plan.policy.profile.picker == MaxScore(max_num_of_endpoints=3)
    assert plan.policy.prefixes == {"approx-prefix-cache-producer": PrefixSettings()}
    assert (plan.policy.formats, plan.policy.passthrough) == (FORMATS, True)


def test_an_llm_d_configuration_loads_unchanged():
    policy = config.load(LLM_D).policy
    assert [each.name for each in policy.profile.filters] == ["decode-filter"]
    assert [each.weight for each in policy.profile.scorers] == [2, 2, 3, 1]
    assert policy.profile.picker == MaxScore(max_num_of_endpoints=2)
    assert policy.detector.plugin == Utilization(queue_depth_threshold=6, metrics_staleness_threshold="200ms")
    assert [*policy.prefixes.values()] == [
        PrefixSettings(block_tokens=128, max_tokens=65536, capacity_blocks=1000, auto_tune=False)
    ]
    assert (policy.formats, policy.passthrough) == (order(OPENAI), False)


@pytest.mark.parametrize("text", [config.DEFAULT, GIE, LLM_D, HEAD])
def test_the_effective_configuration_loads_to_the_same_plan(text):
    plan = config.load(text)
    again = config.load(config.effective(plan))
    assert (again.config, again.policy, again.notes) == (plan.config, plan.policy, ())


@pytest.mark.parametrize(
    "text", ["2026-08-01", "2026-08-01T10:00:00Z", "1:30", "1:30.5", "'1e3'", "'12e-5'", "'true'", "0x", "e5"]
)
def test_what_go_reads_as_text_is_text_also_when_it_is_written_again(text):
    plan = config.load(HEAD + f"plugins: [{{type: label-selector-filter, parameters: {{matchLabels: {{a: {text}}}}}}}]")
    assert plan.policy.profile.filters[0].plugin.match_labels == {"a": text.strip("'")}
    again = config.effective(plan)
    assert config.load(again).policy == plan.policy
    assert not isinstance(yaml.safe_load(again)["plugins"][0]["parameters"]["matchLabels"]["a"], date)


@pytest.mark.parametrize("text", ["16000", "1.6e4", "16e3", "1.6E+4", "1.6e+04", ".16e5", "16_000.0"])
def test_what_go_reads_as_a_number_is_one(text):
    plugins = "plugins: [{type: queue-scorer}]\n"
    profiles = f"schedulingProfiles: [{{name: default, plugins: [{{pluginRef: queue-scorer, weight: {text}}}]}}]"
    plan = config.load(HEAD + plugins + profiles)
    assert plan.policy.profile.scorers[0].weight == 16000


def test_json_is_yaml():
    assert config.load(json.dumps(msgspec.yaml.decode(GIE))) == config.load(GIE)


def test_without_profiles_there_is_one_in_the_order_of_declaration():
    text = HEAD + "plugins: [{type: random-picker}, {type: load-aware-scorer}, {type: decode-filter}, {type: queue-scorer}]"
    profile = config.load(text).policy.profile
    assert (profile.name, profile.picker) == ("default", Random())
    assert [(each.name, each.weight) for each in profile.scorers] == [("load-aware-scorer", 1), ("queue-scorer", 1)]
    assert [each.name for each in profile.filters] == ["decode-filter"]


def test_nothing_at_all_picks_at_random_among_equals():
    policy = config.load(HEAD).policy
    assert (policy.profile.scorers, policy.profile.picker, policy.prefixes) == ((), MaxScore(), {})


def test_the_same_type_may_be_used_twice_under_two_names():
    text = (
        HEAD + "plugins: [{type: load-aware-scorer, name: a}, {type: load-aware-scorer, name: b, parameters: {threshold: 4}}]"
    )
    assert [each.name for each in config.load(text).policy.profile.scorers] == ["a", "b"]


@pytest.mark.parametrize(
    "place", ["saturationDetector: {queueDepthThreshold: 9}", "flowControl: {saturationDetector: {queueDepthThreshold: 9}}"]
)
def test_thresholds_may_stand_where_former_releases_had_them(place):
    assert config.load(HEAD + place).policy.detector.plugin == Utilization(queue_depth_threshold=9)


def test_a_single_parser_may_stand_under_its_former_name():
    assert config.load(HEAD + "parser: {pluginRef: passthrough-parser}").policy.formats == ()


@pytest.mark.parametrize(
    ("text", "note"),
    [
        (GIE, "$.apiVersion: inference.networking.x-k8s.io/v1alpha1 is deprecated; write llm-d.ai/v1alpha1"),
        (HEAD + "parser: {pluginRef: openai-parser}", "$.parser: deprecated; it is called requestHandler.parsers"),
        (
            HEAD + "requestHandler: {parsers: [{pluginRef: openai-parser}]}\nparser: {pluginRef: openai-parser}",
            "$.parser: deprecated; requestHandler.parsers is given too, and counts; remove it",
        ),
        (
            HEAD + "plugins: [{type: active-request-scorer, parameters: {requestTimeout: 2m, idleThreshold: 1}}]",
            "$.plugins[0].parameters.requestTimeout: ignored; a request counts until it ends; remove it",
        ),
        (HEAD + "data: {}", "$.data: deprecated; it is called dataLayer"),
        (
            HEAD + "saturationDetector: {pluginRef: utilization-detector}",
            "$.saturationDetector: deprecated; it is called flowControl.saturationDetector",
        ),
        (
            HEAD + "plugins: [{type: kv-cache-scorer}]",
            "$.plugins[0].type: 'kv-cache-scorer' is deprecated; it is called kv-cache-utilization-scorer",
        ),
        (
            HEAD + "plugins: [{type: max-score-picker}]\n" + PROFILE % "{pluginRef: max-score-picker, weight: 2}",
            "$.schedulingProfiles[0].plugins[0].weight: ignored; 'max-score-picker' is a picker, and only scorers have weights",
        ),
        (
            HEAD + "plugins: [{type: inflight-load-producer}]\n" + PROFILE % "{pluginRef: inflight-load-producer}",
            "$.schedulingProfiles[0].plugins[0]: 'inflight-load-producer' is a data producer and works without standing in a",
        ),
        (
            HEAD + "flowControl: {maxRequests: 5}",
            "$.flowControl: all but saturationDetector is ignored without the feature gate flowControl",
        ),
    ],
)
def test_what_is_deprecated_or_in_vain_is_noted_and_works(text, note):
    plan = config.load(text)
    assert [each for each in plan.notes if each.startswith(note)]
    assert config.load(config.effective(plan)).policy == plan.policy


def test_the_memory_that_a_scorer_had_itself_becomes_a_producer_of_its_own():
    text = HEAD + (
        "plugins: [{type: prefix-cache-scorer, parameters: {hashBlockSize: 5, maxPrefixBlocksToMatch: 256,"
        " lruCapacityPerServer: 31250}}]"
    )
    plan = config.load(text)
    assert dict(plan.policy.prefixes) == {"prefix-cache-scorer-memory": PrefixSettings(max_tokens=256 * 64)}
    assert plan.policy.profile.scorers[0].plugin.prefix_match_info_producer_name == "prefix-cache-scorer-memory"


def test_the_index_that_a_scorer_had_itself_becomes_a_producer_of_its_own():
    scorer = "{type: precise-prefix-cache-scorer, parameters: {indexerConfig: {tokenProcessorConfig: {blockSize: 32}}}}"
    plan = config.load(HEAD + f"plugins: [{scorer}]")
    assert plan.policy.precise.producer == "precise-prefix-cache-scorer-memory"
    producer = next(spec for spec in plan.config.plugins if spec.type == "precise-prefix-cache-producer")
    assert producer.parameters["tokenProcessorConfig"]["blockSize"] == 32
    both = "plugins: [{type: precise-prefix-cache-producer, name: index}, {type: precise-prefix-cache-scorer}]"
    assert config.load(HEAD + both).policy.precise.producer == "index"


def test_what_stood_inside_the_index_is_read_there():
    scorer = "{type: precise-prefix-cache-scorer, parameters: {indexerConfig: {speculativeIndexing: %s, speculativeTTL: 7s}}}"
    for on, expect_ns in (("true", 7 * 10**9), ("false", 0)):
        assert config.load(HEAD + f"plugins: [{scorer % on}]").policy.precise.holders.expect_ns == expect_ns


@pytest.mark.parametrize(
    ("parameters", "half_life_s"),
    [
        ("lasDecayFactor: 0.99997", 60),
        ("lasDecayFactor: 0.999985", 120),
        ("lasDecayFactor: 1", 0),
        ("lasDecayFactor: 0.5, lasHalfLifeSeconds: 9", 9),
        ("lasDecayFactor: 0.99997, lasHalfLifeSeconds: 0", 60),
    ],
)
def test_service_that_was_forgotten_by_the_pick_is_forgotten_by_the_second(parameters, half_life_s):
    plan = config.load(FLOW + f"plugins: [{{type: program-aware-fairness, parameters: {{{parameters}}}}}]")
    assert plan.config.plugins[0].parameters["lasHalfLifeSeconds"] == pytest.approx(half_life_s, rel=1e-3)
    assert plan.notes[0].startswith("$.plugins[0].parameters.lasDecayFactor: deprecated; it is lasHalfLifeSeconds ")


def test_a_declared_detector_is_a_filter_of_the_profile_that_is_implied():
    detector = "plugins: [{type: queue-scorer}, {type: concurrency-detector, parameters: {maxConcurrency: 1}}]"
    assert [each.name for each in config.load(HEAD + detector).policy.profile.filters] == ["concurrency-detector"]
    listed = "\nschedulingProfiles: [{name: p, plugins: [{pluginRef: queue-scorer}]}]"
    assert config.load(HEAD + detector + listed).policy.profile.filters == ()
    inline = "plugins: [{type: queue-scorer}]\nsaturationDetector: {queueDepthThreshold: 7}"
    assert config.load(HEAD + inline).policy.profile.filters == ()


def test_former_names_of_types_can_still_be_referred_to():
    text = (
        "plugins: [{type: single-profile}, {type: max-score}, {type: kvcache-aware-scorer}]\n"
        "schedulingProfiles: [{name: p, plugins: [{pluginRef: kvcache-aware-scorer}, {pluginRef: max-score}]}]"
    )
    plan = config.load(HEAD + text)
    assert [each.name for each in plan.policy.profile.scorers] == ["kvcache-aware-scorer"]
    assert plan.policy.precise.producer == plan.policy.profile.scorers[0].plugin.prefix_match_info_producer_name
    assert isinstance(plan.policy.profile.picker, MaxScore)


def test_a_source_of_models_may_say_its_defaults():
    parameters = "{scheme: http, path: /v1/models, insecureSkipVerify: true}"
    assert config.load(HEAD + f"plugins: [{{type: models-data-source, parameters: {parameters}}}]").notes == ()


@pytest.mark.parametrize(
    "scorer", ["{name: a, parameters: {prefixMatchInfoProducerName: p}", "{name: a, parameters: {blockSize: 64}"]
)
def test_who_named_a_scorer_names_its_producer(scorer):
    text = (
        f"plugins: [{{type: approx-prefix-cache-producer, name: p}}, {scorer}, type: prefix-cache-scorer}},"
        " {type: no-hit-lru-scorer, parameters: {prefixPluginType: prefix-cache-scorer, prefixPluginName: a}}]"
    )
    prefix, lru = config.load(HEAD + text).policy.profile.scorers
    assert lru.plugin.prefix_match_info_producer_name == prefix.plugin.prefix_match_info_producer_name


def test_scorers_may_read_memories_of_their_own():
    plan = config.load(HEAD + APPROX % (64, 64))
    assert list(plan.policy.prefixes) == ["a", "b"]


def test_who_names_no_producer_takes_the_one_that_nobody_names():
    scorers = "{type: prefix-cache-scorer, name: x}, {type: prefix-cache-scorer, name: y, parameters: %s}"
    producers = (
        "{type: approx-prefix-cache-producer, name: b, parameters: {lruCapacityPerServer: 9}},"
        " {type: approx-prefix-cache-producer, name: a, parameters: {lruCapacityPerServer: 7}}"
    )
    named = scorers % "{prefixMatchInfoProducerName: b}"
    assert list(config.load(f"{HEAD}plugins: [{producers}, {named}]").policy.prefixes) == ["a", "b"]
    only = producers.partition("}},")[0] + "}}"
    assert list(config.load(f"{HEAD}plugins: [{only}, {named}]").policy.prefixes) == ["approx-prefix-cache-producer", "b"]


def test_flow_control_is_read_whole():
    policy = config.load(
        FLOW + "plugins: [{type: priority-holdback-policy, name: holdback, parameters: {minCeiling: 0.5}},"
        " {type: round-robin-fairness-policy}, {type: concurrency-detector, parameters: {maxConcurrency: 7}}]\n"
        "flowControl:\n"
        "  maxBytes: 4Gi\n"
        "  maxRequests: 10k\n"
        "  defaultRequestTTL: 1m30s\n"
        "  defaultPriorityBand: {maxBytes: 1G}\n"
        "  defaultNegativePriorityBand: {maxRequests: 50}\n"
        "  priorityBands:\n"
        "  - {priority: 10, maxRequests: '500', fairnessPolicyRef: round-robin-fairness-policy, defaultRequestTTL: 5s}\n"
        "  usageLimitPolicyPluginRef: holdback\n"
        "  saturationDetector: {pluginRef: concurrency-detector}\n"
        "  enableEviction: true\n"
    ).policy
    flow = policy.flow
    assert (flow.max_bytes, flow.max_requests) == (4 << 30, 10_000)
    assert (flow.request_ttl_s, flow.no_endpoint_ttl_s, flow.eviction) == (90.0, 90.0, True)
    assert flow.default == BandSettings(fairness=GlobalStrict(), ordering=FirstCome(), max_bytes=10**9, max_requests=5000)
    assert flow.band(-3).max_requests == 50
    assert flow.band(10) == BandSettings(fairness=RoundRobin(), ordering=FirstCome(), max_requests=500, request_ttl_s=5.0)
    assert flow.limits == PriorityHoldback(min_ceiling=0.5)
    assert policy.detector.plugin == Concurrency(max_concurrency=7, in_flight_load_producer_name="inflight-load-producer")


def test_the_order_of_bands_may_be_named_and_is_strict():
    text = FLOW + "flowControl: {bandSelectionPolicyPluginRef: strict-band-selection-policy}"
    plan = config.load(text)
    assert plan.policy.flow == config.load(FLOW).policy.flow
    assert plan.config.flow_control.band_selection_policy_plugin_ref == "strict-band-selection-policy"
    with pytest.raises(ConfigError, match=r"\$\.flowControl\.bandSelectionPolicyPluginRef: 'fcfs-ordering-policy' is a"):
        config.load(text.replace("strict-band-selection-policy", "fcfs-ordering-policy"))


def test_without_its_gate_nobody_waits():
    assert config.load(HEAD + "featureGates: ['flowControl=false']\nflowControl: {maxRequests: 5}").policy.flow is None


@pytest.mark.parametrize(
    ("text", "number"),
    [(5, 5), ("5k", 5000), ("1G", 10**9), ("4Gi", 4 << 30), ("1.5e3", 1500), (1.5, 2), ("500m", 1), (".5Ki", 512), ("0", 0)],
)
def test_quantities_are_those_of_kubernetes(text, number):
    assert read_quantity(text) == number


def test_more_than_kubernetes_counts_is_the_most_that_it_counts():
    assert read_quantity("100E") == 2**63 - 1


@given(st.text() | st.floats() | st.integers())
def test_any_quantity_is_a_number_or_refused(value):
    with contextlib.suppress(ValueError):
        assert 0 <= read_quantity(value) < 2**63


def test_a_handler_chooses_among_profiles_that_exist(register_plugin):
    class Two(Plugin, frozen=True):
        """Runs both."""

        second: str = "b"

        @property
        def profile_names(self):
            return ("a", self.second)

        def profiles(self, request, decided):
            return () if decided else self.profile_names

    register_plugin("two-profile-handler", Kind.HANDLER)(Two)
    text = HEAD + "plugins: [{type: two-profile-handler%s}]\nschedulingProfiles: [{name: a}, {name: b}]"
    policy = config.load(text % "").policy
    assert [profile.name for profile in policy.profiles] == ["a", "b"]
    assert policy.handler.plugin == Two()
    with pytest.raises(
        ConfigError, match=r"plugins\[0\]\.parameters: 'two-profile-handler' names the profile 'bb', which does not"
    ):
        config.load(text % ", parameters: {second: bb}")


def test_a_foreign_plugin_is_looked_for_when_the_configuration_names_it():
    class Foreign(Plugin, frozen=True):
        """Everybody is fine."""

        needs = ("headers",)

        def score(self, request, fleet):
            return [1.0] * len(fleet)

    asked = []

    def find(type_name):
        asked.append(type_name)
        register("foreign-scorer", Kind.SCORER)(Foreign)

    try:
        policy = config.load(HEAD + "plugins: [{type: queue-scorer}, {type: foreign-scorer}]", find=find).policy
    finally:
        CATALOGUE.pop("foreign-scorer", None)
    assert asked == ["foreign-scorer"]
    assert [each.name for each in policy.profile.scorers] == ["queue-scorer", "foreign-scorer"]
    assert policy.needs == ("headers",)


def test_what_is_said_not_to_exist_does_not():
    assert not set(upstream.TYPES) & set(CATALOGUE)


def test_two_plans_share_nothing():
    assert config.load().policy.profile is not config.load().policy.profile


@pytest.mark.parametrize("declared", ["", "{type: predicted-latency-producer, name: mine}, "])
def test_a_filter_that_goes_by_predictions_has_who_predicts(declared):
    plan = config.load(
        HEAD + f"plugins: [{declared}{{type: prefix-cache-affinity-filter, parameters: {{ttftSource: latencyPredictor}}}}]"
    )
    [producer] = [each.name for each in plan.policy.producers]
    assert plan.policy.profile.filters[0].plugin.latency_prediction_info_producer_name == producer
    plain = config.load(HEAD + "plugins: [{type: prefix-cache-affinity-filter}]")
    assert plain.policy.producers == ()


def test_the_schema_knows_every_plugin_and_nothing_dangles():
    schema = config.schema()
    text = json.dumps(schema)
    types = {each["if"]["properties"]["type"]["const"] for each in schema["$defs"]["PluginSpec"]["allOf"]}
    assert types == set(CATALOGUE)
    references = {part.split('"')[0] for part in text.split("#/$defs/")[1:]}
    assert references <= set(schema["$defs"])
    assert schema["$defs"]["MaxScore"]["properties"]["maxNumOfEndpoints"]["default"] == 3


def test_the_schema_marks_what_is_deprecated():
    definitions = config.schema()["$defs"]
    marked = {
        name: {each for each, field in found.get("properties", {}).items() if field.get("deprecated")}
        for name, found in definitions.items()
    }
    assert marked["EndpointPickerConfig"] == {"data", "parser", "saturationDetector"}
    assert marked["PrefillDecode"] == {"threshold", "hashBlockSize"}
    assert marked["SessionAffinityFilter"] == {"headerName"}
    assert not marked["MaxScore"]


def test_an_editor_shows_descriptions_as_text_and_not_as_code():
    found = [each.get("description", "") for each in config.schema()["$defs"].values()]
    further = [[line for line in each.splitlines()[1:] if line] for each in found]
    assert any(further)
    assert not [lines for lines in further if lines and all(line.startswith("    ") for line in lines)]
