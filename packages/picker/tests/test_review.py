import msgspec
import pytest

from shunter.picker import config
from shunter.picker.config import manual
from shunter.picker.plugins import CATALOGUE

HEAD = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"
FLOW = HEAD + "featureGates: [flowControl]\n"


def review(text, profile="full"):
    return config.review(config.load(text), profile)


@pytest.mark.parametrize("name", config.builtin_names())
def test_what_comes_with_the_picker_has_nothing_to_be_warned_of(name):
    assert review(config.read_builtin(name), "lean") == []
    assert config.about_builtin(name)


@pytest.mark.parametrize(
    ("text", "profile", "warning"),
    [
        (HEAD, "native", "$: with profile native no picker is asked"),
        (HEAD + "parser: {pluginRef: openai-parser}", "full", "$.parser: deprecated"),
        (
            HEAD + "plugins: [{type: header-based-testing-filter}]",
            "full",
            "$.plugins[0].type: 'header-based-testing-filter' is alp",
        ),
        (
            HEAD + "plugins: [{type: by-label-selector}]",
            "full",
            "$.plugins[0].type: 'by-label-selector' is deprecated; use label-",
        ),
        (
            HEAD + "plugins: [{type: session-affinity-scorer}]",
            "lean",
            "$.plugins[0]: 'session-affinity-scorer' needs the headers of responses; profile lean does not show them, headers",
        ),
        (
            HEAD + "plugins: [{type: queue-scorer}]\nschedulingProfiles: [{name: p}]",
            "full",
            "$.plugins[0]: no profile lists 'queue-scorer', so it does nothing; list it, or remove it",
        ),
        *(
            (
                HEAD + f"plugins: [{{type: {unused}}}]\nschedulingProfiles: [{{name: p}}]",
                "full",
                f"$.plugins[0]: nothing refers to '{unused}', so it does nothing;",
            )
            for unused in ("concurrency-detector", "edf-ordering-policy", "sglanghttp-parser")
        ),
        (
            HEAD + "plugins: [{type: disagg-profile-handler}]\nschedulingProfiles: [{name: prefill}, {name: decode}]",
            "full",
            "$.schedulingProfiles[0]: 'disagg-profile-handler' never runs 'prefill'; name its decider or remove it",
        ),
        *(
            (
                HEAD + f"plugins: [{plugins}]\nschedulingProfiles: [{{name: prefill}}, {{name: decode}}]",
                "full",
                f"$.plugins[{at}]: '{name}' has nonCachedTokens 0, so no prompt is ever computed elsewhere",
            )
            for at, name, plugins in (
                (0, "prefix-based-pd-decider", "{type: pd-profile-handler}"),
                (
                    1,
                    "d",
                    "{type: pd-profile-handler, parameters: {deciderPluginName: d}}, {name: d, type: prefix-based-pd-decider}",
                ),
            )
        ),
        (
            HEAD + "plugins: [{type: header-profile-handler}]\nschedulingProfiles: [{name: decoding}, {name: prefill}]",
            "full",
            "$.plugins[0].parameters.defaultProfile: no profile is named 'decode', so requests without the header EPP-Prof",
        ),
        (
            HEAD + "plugins: [{type: approx-prefix-cache-producer}, {type: queue-scorer}]",
            "full",
            "$.plugins[0]: nobody reads what 'approx-prefix-cache-producer' remembers",
        ),
        (
            HEAD + "plugins: [{type: prefix-cache-scorer}]\nparser: {pluginRef: passthrough-parser}",
            "full",
            "$.requestHandler.parsers: no parser reads prompts, so no prefix is ever cached; add openai-parser",
        ),
        (
            HEAD + "plugins: [{type: queue-scorer}]\n"
            "schedulingProfiles: [{name: p, plugins: [{pluginRef: queue-scorer, weight: 0}]}]",
            "full",
            "$.schedulingProfiles[0]: no weight is above 0",
        ),
        (
            HEAD + "plugins: [{type: queue-scorer}, {type: kv-cache-utilization-scorer}]\n"
            "schedulingProfiles: [{name: p, plugins: [{pluginRef: queue-scorer, weight: -1},"
            " {pluginRef: kv-cache-utilization-scorer}]}]",
            "full",
            "$.schedulingProfiles[0]: a weight below 0 prefers who has the lowest score",
        ),
        (
            HEAD + "plugins: [{type: max-score-picker, parameters: {maxNumOfEndpoints: 1}}]",
            "full",
            "$.schedulingProfiles[0]: 'max-score-picker' names one endpoint, so a retry has nowhere else to go",
        ),
        (
            HEAD + "plugins: [{type: utilization-detector, parameters: {metricsStalenessThreshold: 200ms}}]\n"
            "flowControl: {saturationDetector: {pluginRef: utilization-detector}}",
            "full",
            "$.plugins[0]: metricsStalenessThreshold 200ms has no effect: idle endpoints are scraped once a second",
        ),
        (
            HEAD + "saturationDetector: {metricsStalenessThreshold: 200ms}",
            "full",
            "$.flowControl.saturationDetector: metricsStalenessThreshold 200ms has no effect",
        ),
        (
            HEAD + "plugins: [{type: p2p-source-producer, parameters: {prefillProfileName: prefil}}]\n"
            "schedulingProfiles: [{name: prefill}]",
            "full",
            "$.plugins[0].parameters.prefillProfileName: no profile is named 'prefil', so whoever gets the request is taken to",
        ),
        (
            HEAD + "plugins: [{type: approx-prefix-cache-producer, parameters: {lruCapacityPerServer: 82000}},"
            " {type: prefix-cache-scorer}]",
            "full",
            "$.plugins[0]: 'approx-prefix-cache-producer' remembers 200000 blocks of all endpoints together, so lruCapacity",
        ),
        *(
            (
                HEAD + "plugins: [{type: prefix-cache-scorer, parameters: {prefixMatchInfoProducerName: it}},"
                " {name: it, type: precise-prefix-cache-producer, parameters:"
                f" {{indexerConfig: {{kvBlockIndexConfig: {{{bound}}}}}}}}}]",
                "full",
                f"$.plugins[1]: the index of 'it' may grow to {size} GB in each worker",
            )
            for bound, size in (("inMemoryConfig: {size: 100000000}", "15.0"), ("costAwareMemoryConfig: {}", "2.1"))
        ),
        *(
            (
                HEAD + f"plugins: [{{type: endpoint-attribute-weight-scorer, parameters: {{attributeKey: {key},"
                f" producer: '{producer}', weights: {{h100: 2}}}}}},"
                " {name: p, type: label-producer, parameters: {labels: [{label: gpu.com/make, attributeKey: gpu}]}},"
                " {name: q, type: inflight-load-producer}]",
                "full",
                f"$.plugins[0].parameters.{warning}",
            )
            for key, producer, warning in (
                ("cpu", "p", "attributeKey: 'p' gives nobody 'cpu', so everybody has the same score; did you mean 'gpu'?"),
                ("gpu", "q", "producer: 'q' gives no attributes, so everybody has the same score; name a label-producer that"),
                ("gpu", "", "producer: it is empty, so everybody has the same score; name a label-producer that has 'gpu'"),
            )
        ),
        *(
            (
                HEAD + f"plugins: [{{type: {name}, parameters: {{{parameters}}}}}]",
                "full",
                f"$.plugins[0].parameters.{warning}",
            )
            for name, parameters, warning in (
                (
                    "token-producer",
                    "vllm: {url: 'http://render:8000'}",
                    "vllm: nobody asks that server: engines tell the tokens",
                ),
                ("token-producer", "udsTokenizerConfig: {socketFile: /t}", "udsTokenizerConfig: nobody asks that server"),
                (
                    "precise-prefix-cache-producer",
                    "kvEventsConfig: {podDiscoveryConfig: {socketPort: 5600}}",
                    (
                        "kvEventsConfig.podDiscoveryConfig.socketPort: the scraper listens to engines, not the picker; "
                        "start shunter scraper run with --kv-events-port 5600"
                    ),
                ),
                (
                    "precise-prefix-cache-producer",
                    "kvEventsConfig: {podDiscoveryConfig: {replaySocketPort: 5558}}",
                    (
                        "kvEventsConfig.podDiscoveryConfig.replaySocketPort: the scraper listens to engines, not the picker; "
                        "start shunter scraper run with --kv-replay-port 5558"
                    ),
                ),
            )
        ),
        (
            HEAD + "plugins: [{type: utilization-detector, name: d, parameters: {headroom: 20}}, {type: queue-scorer}]",
            "full",
            "$.plugins[0].parameters.headroom: 20 lets 21 times the limits through; it is a part of them, so 0.2 is 20 %",
        ),
        (FLOW + "flowControl: {defaultRequestTTL: 5s}", "lean", "$.flowControl: requests may wait 5 s, and with profile lean"),
        (
            FLOW + "flowControl: {defaultRequestTTL: 0s}",
            "lean",
            (
                "$.flowControl: requests may wait for ever, and with profile lean the gateway gives up before, unless its "
                "configuration has limits.queueSeconds: 3598 (max_message_timeout)"
            ),
        ),
        (
            FLOW + "flowControl: {defaultRequestTTL: 0s}",
            "strict",
            "$.flowControl: with a time to live of 0 requests wait until",
        ),
        (
            FLOW + "flowControl: {enableEviction: true}",
            "strict",
            "$.flowControl.enableEviction: with profile strict nobody can be",
        ),
    ],
)
def test_what_cannot_work_is_warned_of(text, profile, warning):
    assert [each for each in review(text, profile) if each.startswith(warning)]


@pytest.mark.parametrize(
    ("text", "profile"),
    [
        *((HEAD + "plugins: [{type: session-affinity-scorer}]", profile) for profile in ("headers", "full")),
        (FLOW, "strict"),
        (
            FLOW + "plugins: [{type: edf-ordering-policy}, {type: concurrency-detector}, {type: sglanghttp-parser}]\n"
            "flowControl: {saturationDetector: {pluginRef: concurrency-detector},"
            " priorityBands: [{priority: 1, orderingPolicyRef: edf-ordering-policy}]}\n"
            "requestHandler: {parsers: [{pluginRef: sglanghttp-parser}]}",
            "strict",
        ),
        (FLOW + "flowControl: {enableEviction: true}", "full"),
        (
            HEAD + "plugins: [{type: token-producer, parameters: {modelName: m, vllm: {}}}, {type: prefix-cache-scorer,"
            " parameters: {prefixMatchInfoProducerName: p}}, {type: precise-prefix-cache-producer, name: p,"
            " parameters: {kvEventsConfig: {podDiscoveryConfig: {socketPort: 5557}}}}]",
            "full",
        ),
        (HEAD, "lean"),
    ],
)
def test_what_works_is_not_warned_of(text, profile):
    assert review(text, profile) == []


def test_an_attribute_that_its_producer_gives_is_not_warned_of():
    text = (
        "plugins: [{type: endpoint-attribute-weight-scorer, parameters: {attributeKey: gpu, producer: p, weights: {h: 2}}},"
        " {name: p, type: label-producer, parameters: {labels: [{label: make, attributeKey: gpu}]}}]"
    )
    assert [each for each in review(HEAD + text) if "is alpha" not in each] == []


LABELLED = HEAD + (
    "plugins: [{type: decode-filter}, {type: queue-scorer},"
    " {type: label-selector-filter, parameters: {matchLabels: {zone: here}}}]"
)


def test_a_filter_that_leaves_nobody_of_those_there_are_is_warned_of(make_fleet, dice):
    plan = config.load(LABELLED)
    here, there = {"labels": {"zone": "here"}}, {"labels": {"zone": "there"}}
    assert list(config.review_fleet(plan, make_fleet({}, {}, endpoints=[here, there]), dice)) == []
    assert list(config.review_fleet(plan, make_fleet({}, {}, endpoints=[there, there]), dice)) == [
        "$.schedulingProfiles[0]: 'label-selector-filter' leaves nobody of pod-0, pod-1; look at their labels and load"
    ]


LOWER = "algorithm: {type: linear_lower_is_better}"
BY_RANK = f"endpoint-attribute-scorer, parameters: {{attributeKey: rank, producer: labels, {LOWER}}}"


@pytest.mark.parametrize(
    ("plugin", "label", "good", "bad"),
    [
        ("price-scorer", "shunter.dev/price-per-hour", "2.5", "dear"),
        (
            BY_RANK,
            "rank",
            "1",
            "nan",
        ),
        (
            "endpoint-attribute-filter, parameters: {attribute: rank, producer: labels, algorithm: {type: topK, topK: {k: 1}}}",
            "rank",
            "1",
            "",
        ),
        ("context-length-aware", "llm-d.ai/context-length-range", "0-10", None),
        ("header-label-affinity-scorer, parameters: {headerName: x-zone, labelKey: zone}", "zone", "a", None),
    ],
)
def test_a_label_that_nobody_has_is_warned_of(make_fleet, dice, plugin, label, good, bad):
    plan = config.load(HEAD + f"plugins: [{{type: {plugin}}}]")

    def warnings(*values):
        labels = [{"labels": {label: value} if value is not None else {}} for value in values]
        return list(config.review_fleet(plan, make_fleet({}, {}, endpoints=labels), dice))

    assert warnings(good, bad) == []
    [warning] = warnings(bad, bad)
    assert warning.startswith("$.plugins[0]: no endpoint has ")
    assert f"the label '{label}', so all are alike to '{plugin.partition(',')[0]}'" in warning


def test_without_endpoints_nothing_is_said_of_filters(make_fleet, dice):
    [warning] = config.review_fleet(config.load(LABELLED), make_fleet(), dice)
    assert warning.startswith("$.schedulingProfiles: no endpoint is ready")


def test_nobody_is_warned_of_what_he_did_not_write():
    warnings = review(HEAD + "plugins: [{type: latency-scorer}]")
    assert [each for each in warnings if "predicted-latency-producer" in each] == []


def test_check_looks_at_the_endpoints_that_a_scraper_publishes(publish, tmp_path):
    from click.testing import CliRunner

    from shunter.picker.cli import main

    command = ["check", "--config-text", LABELLED, "--snapshot", str(tmp_path)]
    absent = CliRunner().invoke(main, command)
    assert absent.exit_code == 2
    assert "no snapshot there" in absent.stderr
    publish(8000)
    assert "'label-selector-filter' leaves nobody of pod-0" in CliRunner().invoke(main, command).stderr


def test_the_profiles_are_those_that_can_be_asked_for():
    from shunter.picker.cli import check

    options = {option.name: option for option in check.params}
    assert list(options["profile"].type.choices) == list(config.PROFILES)


@pytest.mark.parametrize("type_name", sorted(CATALOGUE))
def test_every_plugin_can_be_described(type_name):
    entry = CATALOGUE[type_name]
    page = manual.describe(entry)
    assert page.startswith(f"{type_name}, a {entry.kinds[0]}\n")
    fields = [field.encode_name for field in msgspec.structs.fields(entry.plugin)]
    assert [field for field in fields if field not in page] == []


def test_parameters_inside_others_are_listed_by_their_path():
    paths = {row.path: row.default for row in manual.parameters_of(CATALOGUE["label-selector-filter"])}
    assert paths["matchExpressions[].key"] == "required"
    assert paths["matchExpressions"] == "[]"
