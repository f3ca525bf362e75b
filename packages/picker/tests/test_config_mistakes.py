"""What is no configuration is refused with place, value and remedy; no document whatever breaks who reads it."""

import contextlib
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker import config
from shunter.picker.core.policy import Crew
from shunter.picker.errors import ConfigError
from shunter.picker.plugins import CATALOGUE, Kind, Plugin

HEAD = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"
FLOW = HEAD + "featureGates: [flowControl]\n"
APPROX = (
    "plugins: [{type: approx-prefix-cache-producer, name: a, parameters: {blockSizeTokens: %d}},"
    " {type: approx-prefix-cache-producer, name: b, parameters: {blockSizeTokens: %d}},"
    " {type: prefix-cache-scorer, name: x, parameters: {prefixMatchInfoProducerName: a}},"
    " {type: prefix-cache-scorer, name: y, parameters: {prefixMatchInfoProducerName: b}}]"
)
PROFILE = "schedulingProfiles: [{name: p, plugins: [%s]}]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "$: the document is empty; an EndpointPickerConfig is an object with apiVersion and kind"),
        ("- a", "$: the document is a list; an EndpointPickerConfig is an object with apiVersion and kind"),
        ("a: [", "not a YAML document: line 1, while parsing a flow node, expected the node content, but found '<stream end>'"),
        ("a: 1\nb: 2\na: 3", "not a YAML document: line 3, the key 'a' stands twice"),
        (HEAD + "x: 1" + "0" * 19, f"not a YAML document: line 3, 1{'0' * 19} is not a number below 2**63"),
        (HEAD + "x: -.inf", "not a YAML document: line 3, -.inf is not a number below 2**63"),
        (HEAD + "---\n", "not a YAML document: line 3, expected a single document in the stream, but found another document"),
        ("a: \x00", "not a YAML document: unacceptable character #x0000"),
        ("kind: EndpointPickerConfig", "$: object missing required field `apiVersion`"),
        (
            "apiVersion: llm-d.ai/v2\nkind: EndpointPickerConfig",
            "$.apiVersion: invalid enum value 'llm-d.ai/v2', found 'llm-d.ai/v2'; use llm-d.ai/v1alpha1 or llm-d.ai/v1 or inf",
        ),
        ("apiVersion: llm-d.ai/v1alpha1\nkind: Pod", "$.kind: invalid enum value 'Pod', found 'Pod'; use EndpointPickerConfig"),
        (HEAD + "plugin: []", "$.plugin: unknown field; did you mean 'plugins'"),
        (HEAD + "plugins: [{type: queue-scorer, parameter: {}}]", "$.plugins[0].parameter: unknown field; did you mean 'para"),
        (HEAD + "plugins: 3", "$.plugins: expected `array`, got `int`, found 3"),
        (HEAD + "plugins: [{name: x}]", "$.plugins[0]: object missing required field `type`, found {'name': 'x'}"),
        (HEAD + "plugins: [{type: que-scorer}]", "$.plugins[0].type: no plugin has the type 'que-scorer'; did you mean 'queue"),
        (
            HEAD + "plugins: [{type: latency-observer-producer-hub}]",
            "$.plugins[0].type: 'latency-observer-producer-hub' is known to GIE or llm-d, and not here: expected-delay-scorer",
        ),
        (
            HEAD + "plugins: [{type: file-discovery}]",
            "$.plugins[0].type: 'file-discovery' is known to GIE or llm-d, and not here: the scraper says who exists",
        ),
        (HEAD + "plugins: [{type: zzz}]", "$.plugins[0].type: no plugin has the type 'zzz'; shunter picker plugins lists"),
        (HEAD + "2: 3", "$: the key 2 is no text; put it in quotes"),
        *(
            (HEAD + f"plugins: [{{type: {name}, parameters: {{{parameters}}}}}]", f"$.plugins[0].parameters{message}")
            for name, parameters, message in (
                (
                    "concurrency-detector",
                    "concurrencyMode: token",
                    ".concurrencyMode: invalid enum value 'token', found 'token'; did you mean 'tokens'?",
                ),
                (
                    "prefix-cache-scorer",
                    "hashBlockSize: 5, maxPrefixBlocksToMach: 256",
                    ".maxPrefixBlocksToMach: unknown field; did you mean 'maxPrefixBlocksToMatch'",
                ),
                ("queue-scorer", "1: 2", ": the key 1 is no text; put it in quotes"),
                (
                    "label-selector-filter",
                    "matchLabels: {a: b, 1: c}",
                    ".matchLabels: the key 1 is no text; put it in quotes",
                ),
                ("label-selector-filter", "matchLabels: {a: b, c: 2}", ".matchLabels.c: expected `str`, got `int`, found 2"),
                (
                    "max-saturation-detector",
                    "detectors: [a], stages: {a: [prefil]}",
                    ".stages[...][0]: invalid enum value 'prefil', found {'a': ['prefil']}; there are decode, prefill",
                ),
            )
        ),
        *(
            (
                HEAD + f"plugins: [{{type: {name}}}]",
                f"$.plugins[0].type: '{name}' is known to GIE or llm-d, and not here: {why}",
            )
            for name, why in (
                ("session-manager", "session-affinity-scorer tells sessions apart itself"),
                ("thunder-agent", "room is not kept for sessions between their turns; remove it, and name concurrency-"),
                ("multicluster-topology-scorer", "use endpoint-attribute-weight-scorer, and a label-producer"),
            )
        ),
        (
            HEAD + "plugins: [{type: queue-scorer}, {type: queue-scorer}]",
            "$.plugins[1]: a plugin is named 'queue-scorer' already; give this one another name",
        ),
        (
            HEAD + "plugins: [{type: max-score-picker, parameters: {maxNumOfEndpoints: two}}]",
            "$.plugins[0].parameters.maxNumOfEndpoints: expected `int`, got `str`, found 'two'",
        ),
        (
            HEAD + "plugins: [{type: max-score-picker, parameters: {maxNumOfEndpoints: 65}}]",
            "$.plugins[0].parameters.maxNumOfEndpoints: expected `int` <= 64, found 65",
        ),
        (
            HEAD + "plugins: [{type: max-score-picker, parameters: {maxEndpoints: 1}}]",
            "$.plugins[0].parameters.maxEndpoints: unknown field; did you mean 'maxNumOfEndpoints'?",
        ),
        (
            HEAD + "plugins: [{type: utilization-detector, parameters: {metricsStalenessThreshold: 5 s}}]",
            "$.plugins[0].parameters: '5 s' is not a duration such as 200ms or 1m30s",
        ),
        (
            HEAD + "plugins: [{type: metrics-data-source, parameters: {path: /m}}]",
            "$.plugins[0].parameters.path: invalid enum value '/m', found '/m'; did you mean '/metrics'? (the scraper ",
        ),
        (
            HEAD + "plugins: [{type: single-profile-handler}, {type: single-profile-handler, name: b}]",
            "$.plugins: 'single-profile-handler' and 'b' are both profile handlers; keep one",
        ),
        (
            HEAD + "plugins: [{type: queue-scorer}]\n" + PROFILE % "{pluginRef: queue-score}",
            "$.schedulingProfiles[0].plugins[0].pluginRef: no plugin is named 'queue-score'; did you mean 'queue-scorer'?",
        ),
        (
            HEAD + PROFILE % "{pluginRef: queue-scorer}",
            "$.schedulingProfiles[0].plugins[0].pluginRef: 'queue-scorer' is not declared; add {type: queue-scorer}",
        ),
        (
            HEAD + "plugins: [{type: openai-parser}]\n" + PROFILE % "{pluginRef: openai-parser}",
            "$.schedulingProfiles[0].plugins[0].pluginRef: 'openai-parser' is a parser, and what belongs here is a filter",
        ),
        (
            HEAD + "plugins: [{type: fcfs-ordering-policy}]\n" + PROFILE % "{pluginRef: fcfs-ordering-policy}",
            "$.schedulingProfiles[0].plugins[0].pluginRef: 'fcfs-ordering-policy' is an ordering policy, and what belongs",
        ),
        (
            HEAD + "plugins: [{type: queue-scorer}]\n" + PROFILE % "{pluginRef: queue-scorer}, {pluginRef: queue-scorer}",
            "$.schedulingProfiles[0].plugins[1].pluginRef: 'queue-scorer' stands in this profile already",
        ),
        (
            HEAD + "plugins: [{type: session-affinity-scorer, parameters: {strategy: session_id, sessionIdConfig:"
            " {sources: [{header: x}, {attribute: a, producer: sessions}]}}}]",
            "$.plugins[0].parameters.sessionIdConfig.sources[1].producer: no plugin is named 'sessions'",
        ),
        (
            HEAD + "plugins: [{type: label-selector-filter, parameters: {matchExpressions: [{key: a, operator: In}]}}]",
            "$.plugins[0].parameters.matchExpressions[0]: operator In needs values, found {'key': 'a', 'operator': 'In'}",
        ),
        (
            HEAD + "plugins: [{type: queue-scorer, parameters: {x: 1}}]",
            "$.plugins[0].parameters.x: unknown field; there are none",
        ),
        (
            HEAD + "plugins: [{type: session-affinity-scorer, parameters: {sessionIdConfig: {sources: [{heder: x}]}}}]",
            "$.plugins[0].parameters.sessionIdConfig.sources[0].heder: unknown field; did you mean 'header'?",
        ),
        (
            HEAD + "plugins: [{type: endpoint-attribute-filter, parameters: {attribute: waiting-queue,"
            " algorithm: {type: range, range: {mim: 1, max: 2}}}}]",
            "$.plugins[0].parameters.algorithm.range.mim: unknown field; did you mean 'min'?",
        ),
        (
            HEAD + "plugins: [{type: queue-scorer}]\n" + PROFILE % "{pluginRef: queue-scorer, weight: .nan}",
            "not a YAML document: line 4, .nan is not a number below 2**63",
        ),
        (
            HEAD + "plugins: [{type: max-score-picker}, {type: random-picker}]",
            "$.schedulingProfiles[0]: 'max-score-picker' and 'random-picker' are both pickers; a profile has one",
        ),
        (
            HEAD + "plugins: [{type: max-score-picker}, {type: random-picker}]\nschedulingProfiles: [{name: a}]",
            "$.schedulingProfiles[0]: no picker, and 'max-score-picker' and 'random-picker' are both declared; list one",
        ),
        (
            HEAD + "schedulingProfiles: [{name: a}, {name: b}]",
            "$.schedulingProfiles: 2 profiles (a, b) and nobody to choose among them; declare a profile handler, or keep one",
        ),
        (
            HEAD + "plugins: [{type: single-profile-handler}]\nschedulingProfiles: [{name: a}, {name: b}]",
            "$.schedulingProfiles: 2 profiles (a, b), but 'single-profile-handler' runs only one; declare another",
        ),
        (
            HEAD + APPROX % (64, 128),
            "$.plugins: 'a' and 'b' have blocks of 64 and 128 tokens; prompts are cut once for all, so give them the same",
        ),
        (
            HEAD + "plugins: [{type: approx-prefix-cache-producer, name: a}, {type: approx-prefix-cache-producer, name: b},"
            " {type: prefix-cache-scorer}]",
            "$.plugins[2].parameters.prefixMatchInfoProducerName: 'a' and 'b' are all of the type approx-prefix-cache-producer",
        ),
        (
            HEAD + "plugins: [{type: prefix-cache-scorer, parameters: {lruCapacityPerServer: many}}]",
            "$.plugins[0].parameters.lruCapacityPerServer: expected `int`, got `str`, found 'many'",
        ),
        (
            HEAD + "saturationDetector: {queueDepthThreshold: 0}",
            "$.flowControl.saturationDetector.queueDepthThreshold: expected `float` > 0.0, found 0.0",
        ),
        (
            HEAD + "saturationDetector: {pluginRef: utilization-detector, queueDepthThreshold: 5}",
            "$.flowControl.saturationDetector: pluginRef and thresholds exclude each other; give the plugin the thresholds",
        ),
        (
            HEAD + "dataLayer: {discovery: {pluginRef: file-discovery}}",
            "$.dataLayer.discovery: llm-d knows this field, but Shunter cannot honour it: the scraper says who exists",
        ),
        (FLOW + "flowControl: {maxBytes: 4GiB}", "$.flowControl.maxBytes: '4GiB' is not a quantity such as 5000, 10k, 1G or"),
        (FLOW + "flowControl: {maxRequests: -1}", "$.flowControl.maxRequests: -1 is below 0"),
        (
            FLOW + "flowControl: {defaultRequestTTL: 1 minute}",
            "$.flowControl.defaultRequestTTL: '1 minute' is not a duration such as 200ms or 1m30s",
        ),
        (
            FLOW + "flowControl: {defaultRequestTtl: 1s}",
            "$.flowControl.defaultRequestTtl: unknown field; did you mean 'defaultRequestTTL'",
        ),
        (
            FLOW + "flowControl: {defaultRequestTTL: 60}",
            "$.flowControl.defaultRequestTTL: expected `str | null`, got `int`, found 60; write 60s",
        ),
        (
            FLOW + "flowControl: {priorityBands: [{priority: 1}, {priority: 1}]}",
            "$.flowControl.priorityBands[1].priority: 1 is the priority of another band already",
        ),
        (
            FLOW + "flowControl: {priorityBands: [{orderingPolicyRef: global-strict-fairness-policy}]}",
            "$.flowControl.priorityBands[0].orderingPolicyRef: 'global-strict-fairness-policy' is a fairness policy, and what",
        ),
        (HEAD + "schedulingProfiles: [{name: a}, {name: a}]", "$.schedulingProfiles[1].name: 'a' is the name of another"),
        (
            HEAD + "plugins: [{type: prefix-cache-scorer, parameters: {prefixMatchInfoProducerName: approx}}]",
            "$.plugins[0].parameters.prefixMatchInfoProducerName: no plugin is named 'approx'",
        ),
        (HEAD + "featureGates: [datalayer]", "$.featureGates[0]: no feature gate is named 'datalayer'; did you mean 'data"),
        (HEAD + "featureGates: [dataLayer=maybe]", "$.featureGates[0]: 'dataLayer=maybe' must end in =true or =false"),
        (
            HEAD + "requestHandler: {parsers: [{pluginRef: vertexai-parser}]}",
            "$.requestHandler.parsers[0].pluginRef: 'vertexai-parser' is known to GIE or llm-d, and not here: it has no",
        ),
        (
            HEAD + "dataLayer: {sources: [{pluginRef: dcgm-metrics-data-source}]}",
            "$.dataLayer.sources[0].pluginRef: 'dcgm-metrics-data-source' is known to GIE or llm-d, and not here",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_place_value_and_remedy(text, message):
    with pytest.raises(ConfigError) as caught:
        config.load(text)
    assert str(caught.value).startswith(message)


def test_a_plugin_that_raises_is_a_mistake_of_the_configuration(register_plugin):
    class Sulky(Plugin, frozen=True):
        """Cannot be made."""

        def __post_init__(self):
            raise RuntimeError("not today")

    register_plugin("sulky-scorer", Kind.SCORER)(Sulky)
    with pytest.raises(ConfigError, match=r"\$\.plugins\[0\]: the plugin 'sulky-scorer' raised RuntimeError\('not today'\)"):
        config.load(HEAD + "plugins: [{type: sulky-scorer}]")


words = st.sampled_from(
    ["plugins", "type", "name", "queue-scorer", "parameters", "schedulingProfiles", "pluginRef", "weight", "x"]
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words | st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(sorted(config.EndpointPickerConfig.__struct_encode_fields__)), values))
def test_any_document_loads_or_is_explained(document):
    whole = document | {"apiVersion": "llm-d.ai/v1alpha1", "kind": "EndpointPickerConfig"}
    try:
        plan = config.load(json.dumps(whole), find=lambda _: None)
    except ConfigError as error:
        explained = str(error)
    else:
        again = config.load(config.effective(plan))
        explained = "$" if (again.config, again.policy) == (plan.config, plan.policy) else "another plan"
    assert explained.startswith(("$", "not a YAML document"))


odd = st.sampled_from([9e18, 2**63 - 1, 1e-300, 0, -1, "", "9" * 400 + "h", "9" * 400 + "Gi", "-1s", "٣s"]) | values
given_parameters = st.sampled_from(sorted(CATALOGUE)).flatmap(
    lambda name: st.tuples(
        st.just(name), st.dictionaries(st.sampled_from([*CATALOGUE[name].plugin.__struct_encode_fields__, "x"]), odd)
    )
)


@given(given_parameters)
def test_any_parameters_let_a_plugin_start_or_are_explained(given_parameters):
    name, parameters = given_parameters
    document = {"apiVersion": "llm-d.ai/v1alpha1", "kind": "EndpointPickerConfig"}
    document["plugins"] = [{"type": name, "parameters": parameters}]
    with contextlib.suppress(ConfigError):
        plan = config.load(json.dumps(document), find=lambda _: None)
        config.review(plan, "lean")
        try:
            Crew(plan.policy, random.Random(1), lambda _name, _data: None)
        except ConfigError as error:
            assert "when it was started" not in str(error)  # noqa: PT017  as those of others may


@given(st.text() | st.binary())
def test_any_text_loads_or_is_explained(text):
    with contextlib.suppress(ConfigError):
        config.load(text, find=lambda _: None)
