import contextlib

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from shunter.scraper.core.assembly import assemble
from shunter.scraper.core.cluster import dns_names, survey
from shunter.scraper.core.documents import MAX_FILE_BYTES, read_documents
from shunter.scraper.core.slots import Slots
from shunter.scraper.errors import ConfigError
from shunter.snapshot import InferenceModel, Objective, Pool, Rewrite, RewriteRule, Target


def cluster(*texts):
    return assemble(
        document for number, text in enumerate(texts) for document in read_documents(f"f{number}.yaml", text.encode())
    )


def topology(text, **addresses):
    return survey(cluster(text), addresses, Slots(), epoch=1, generation=1, now_ns=0)


UPSTREAM = """
endpoints:
  - name: vllm-0
    address: "10.0.0.1"
    port: "8000"
  - name: vllm-1
    namespace: prod
    address: "10.0.0.2"
    port: "8001"
    metricsHost: "10.0.0.9:9100"
    labels:
      app: vllm
"""

POOL = """
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {name: llama, creationTimestamp: 2026-01-01T00:00:00Z, uid: x, generation: 3}
spec:
  selector: {matchLabels: {app: vllm}}
  targetPorts: [{number: 8000}, {number: 8001}]
  endpointPickerRef: {name: picker, port: {number: 9002}, failureMode: FailOpen}
status: {parents: []}
"""


def test_the_references_file_is_read_unchanged():
    found, sources = topology(UPSTREAM)
    assert found.pools == (Pool(name="default"),)
    assert [(e.namespace, e.name, e.address, e.port, e.pools, e.labels) for e in found.endpoints] == [
        ("default", "vllm-0", "10.0.0.1", 8000, (0,), {}),
        ("prod", "vllm-1", "10.0.0.2", 8001, (0,), {"app": "vllm"}),
    ]
    assert [source[:3] for source in sources] == [("10.0.0.1", 8000, "/metrics"), ("10.0.0.9", 9100, "/metrics")]


def test_endpoints_join_the_pools_whose_selector_matches_and_take_their_rank():
    matching = "{name: a, address: 10.0.0.1, port: 8001, labels: {app: vllm, x: y}}"
    entries = f"endpoints: [{matching}, {{name: b, address: 10.0.0.2, port: 8000}}]"
    found, _ = topology(f"{entries}\n---\n{POOL}")
    assert found.pools == (Pool(name="llama", selector={"app": "vllm"}, target_ports=(8000, 8001), failure_mode="FailOpen"),)
    assert [(e.pools, e.rank) for e in found.endpoints] == [((0,), 1), ((), 0)]


def test_a_named_pool_wins_over_labels():
    found, _ = topology(f"endpoints: [{{name: a, address: '::1', port: 1, pool: llama}}]\n---\n{POOL}")
    assert found.endpoints[0].pools == (0,)
    assert found.endpoints[0].authority == "[::1]:1"


def test_a_selector_reaches_no_other_namespace():
    found, _ = topology(
        f"endpoints: [{{name: a, namespace: n, address: 10.0.0.1, port: 1, labels: {{app: vllm}}}}]\n---\n{POOL}"
    )
    assert found.endpoints[0].pools == ()


def test_a_dns_name_gives_one_endpoint_for_each_of_its_addresses():
    text = "endpoints: [{name: a, address: web.example, port: 1, metricsPort: 2, metricsPath: /m}]"
    assert dns_names(cluster(text)) == {"web.example"}
    found, sources = topology(text, **{"web.example": ("10.0.0.1", "10.0.0.2")})
    assert [(e.name, e.address, e.slot) for e in found.endpoints] == [("a", "10.0.0.1", 0), ("a", "10.0.0.2", 1)]
    assert [source[:3] for source in sources] == [("10.0.0.1", 2, "/m"), ("10.0.0.2", 2, "/m")]
    assert topology(text)[0].endpoints == ()


@pytest.mark.parametrize(
    ("entry", "engine", "path"),
    [
        ("engine: sglang", "sglang", "/metrics"),
        ("labels: {llm-d.ai/engine-type: trtllm-serve}", "trtllm-serve", "/prometheus/metrics"),
        ("labels: {inference.networking.k8s.io/engine-type: llama.cpp}", "llama.cpp", "/metrics"),
        ("labels: {}", "mine", "/metrics"),
    ],
)
def test_the_engine_comes_from_field_label_or_default(entry, engine, path):
    engines = "engineConfigs: [{name: mine, queuedRequestsSpec: 'q{a=b}', cacheInfoSpec: i}]\ndefaultEngine: mine"
    found, sources = topology(f"endpoints: [{{name: a, address: 10.0.0.1, port: 1, {entry}}}]\n{engines}")
    assert found.endpoints[0].engine == engine
    assert sources[0].path == path


def test_a_custom_engine_replaces_the_built_in_one_of_its_name():
    _, sources = topology(
        "endpoints: [{name: a, address: 10.0.0.1, port: 1}]\nengineConfigs: [{name: vllm, queuedRequestsSpec: q}]"
    )
    assert sources[0].dialect.waiting[0].spec.name == "q"
    assert sources[0].dialect.running == ()


def test_manifests_of_all_kinds_and_both_groups_in_several_files():
    found = cluster(
        "endpoints: []",
        POOL.replace("k8s.io/v1", "x-k8s.io/v1alpha2")
        .replace("{matchLabels: {app: vllm}}", "{app: vllm}")
        .replace("targetPorts: [{number: 8000}, {number: 8001}]", "targetPortNumber: 8000")
        .replace("endpointPickerRef: {name: picker, port: {number: 9002}", "extensionRef: {name: picker, portNumber: 9002"),
        """
        apiVersion: v1
        kind: List
        items:
          - apiVersion: llm-d.ai/v1alpha2
            kind: InferenceObjective
            metadata: {name: gold}
            spec: {priority: 10, poolRef: {name: llama}}
          - apiVersion: inference.networking.x-k8s.io/v1alpha2
            kind: InferenceModelRewrite
            metadata: {name: canary, creationTimestamp: "2026-01-01T00:00:00Z"}
            spec:
              poolRef: {name: llama, group: inference.networking.x-k8s.io}
              rules: [{matches: [{model: {value: m}}], targets: [{modelRewrite: v1, weight: 9}, {modelRewrite: v2, weight: 1}]}]
          - apiVersion: inference.networking.x-k8s.io/v1alpha2
            kind: InferenceModel
            metadata: {name: chat}
            spec: {modelName: chat, criticality: Critical, poolRef: {name: llama}, targetModels: [{name: chat-v2}]}
        """,
    )
    assert found.pools == (Pool(name="llama", selector={"app": "vllm"}, target_ports=(8000,), failure_mode="FailOpen"),)
    assert found.objectives == (Objective(name="gold", pool="llama", priority=10),)
    rule = RewriteRule(models=("m",), targets=(Target(model="v1", weight=9), Target(model="v2", weight=1)))
    assert found.rewrites == (Rewrite(name="canary", pool="llama", created="2026-01-01T00:00:00Z", rules=(rule,)),)
    assert found.models == (
        InferenceModel(name="chat", pool="llama", model="chat", criticality="Critical", targets=(Target(model="chat-v2"),)),
    )


ONE = "endpoints: [{name: a, address: 10.0.0.1, port: 1%s}]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "endpoints: [{name: a, adress: 10.0.0.1, port: 1}]",
            r"f0.yaml, document 1: \$.endpoints\[0\].adress: unknown field; did you mean address\?",
        ),
        ("endpoints: [{name: a, address: 10.0.0.1}]", r"\$.endpoints\[0\]: Object missing required field `port`"),
        ("endpoints: [{name: a, address: 10.0.0.1, port: 70000}]", r"\$.endpoints\[0\].port: .*65535, found '70000'"),
        ("endpoints: [{name: a, address: 10.0.0.300, port: 1}]", r"\$.endpoints\[0\].address: '10.0.0.300' is neither"),
        ("endpoints: [{name: a, address: '[::1]', port: 1}]", "without brackets"),
        ("endpoints: [{name: a, address: 'fe80::1%eth0', port: 1}]", "scope"),
        (ONE % ", engine: sglan", r"\$.endpoints\[0\].engine: 'sglan' is not an engine; did you mean sglang\?"),
        (ONE % ", labels: {llm-d.ai/engine-type: vlm}", "engine-type: 'vlm' is not an engine; did you mean vllm"),
        (ONE % "" + "\ndefaultEngine: vlm", r"\$.defaultEngine: 'vlm'"),
        (
            ONE % ", pool: lama" + "\n---\n" + POOL,
            r"\$.endpoints\[0\].pool: there is no InferencePool 'lama' .* did you mean llama",
        ),
        (ONE % ", pool: lama", "known: default"),
        (ONE % ", metricsHost: nowhere", "metricsHost: write host:port"),
        (ONE % ", metricsHost: 'h:1', metricsPort: 2", "no metricsPort"),
        (ONE % ", metricsPath: metrics", "metricsPath: 'metrics' is not a path"),
        (ONE % ", metricsPath: '/m HTTP/1.0'", "is not a path"),
        (
            "endpoints: [{name: a, address: 10.0.0.1, port: 1}, {name: a, address: 10.0.0.2, port: 1}]",
            "endpoint default/a was there already",
        ),
        (
            "endpoints: [{name: a, address: 10.0.0.1, port: 1}, {name: b, address: 10.0.0.1, port: 1}]",
            "address 10.0.0.1 port 1 was there already",
        ),
        ("endpoints: [{name: a, name: b}]", "line 1: not YAML: the key 'name' stands twice"),
        ("endpoints: [", "not YAML"),
        ("? [a, b]\n: c", "line 1: not YAML: a key is a list or a mapping"),
        ("", "is empty"),
        ("---\n---\n", "is empty"),
        ("- a", "a document is a mapping"),
        ("kind: Deployment\napiVersion: apps/v1", r"Deployment \(apps/v1\) is not read here; known: "),
        (POOL.replace("InferencePool", "InferencPool"), "did you mean InferencePool"),
        (POOL.replace("matchLabels", "matchlabels"), r"\$.spec.selector.matchlabels: unknown field; did you mean matchLabels"),
        (POOL.replace("FailOpen", "FailOpn"), r"\$.spec.endpointPickerRef.failureMode: .*found 'FailOpn'"),
        (POOL + "---" + POOL, "InferencePool default/llama was there already, at f0.yaml, document 1"),
        ("endpoints: []\nengineConfigs: [{name: default}]", "'default' is reserved"),
        (
            "endpoints: []\nengineConfigs: [{name: x, kvUsageSpec: 'a{'}]",
            r"\$.engineConfigs\[0\].kvUsageSpec: 'a\{' is not a metric",
        ),
    ],
)
def test_bad_input_is_named_with_its_place_and_remedy(text, message):
    with pytest.raises(ConfigError, match=message):
        cluster(text)


def test_weights_on_some_targets_only_are_refused():
    text = """
    apiVersion: inference.networking.x-k8s.io/v1alpha2
    kind: InferenceModel
    metadata: {name: chat}
    spec: {modelName: chat, poolRef: {name: default}, targetModels: [{name: a}, {name: b, weight: 1}]}
    """
    with pytest.raises(ConfigError, match="all of them a weight or none"):
        cluster(text)


@pytest.mark.parametrize("text", ["[" * 100_000, "- " * 100_000, "{a: " * 100_000, "[" * 900 + "]" * 900])
def test_deep_nesting_is_an_error(text):
    with pytest.raises(ConfigError):
        read_documents("f.yaml", text.encode())


def test_a_huge_file_is_refused():
    with pytest.raises(ConfigError, match="larger than"):
        read_documents("f.yaml", b" " * (MAX_FILE_BYTES + 1))


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
keys = st.sampled_from(
    [
        "endpoints",
        "name",
        "address",
        "port",
        "labels",
        "apiVersion",
        "kind",
        "metadata",
        "spec",
        "items",
        "pool",
        "engineConfigs",
        "status",
    ]
) | st.text(max_size=3)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)


@given(values | st.fixed_dictionaries({"endpoints": st.lists(st.dictionaries(keys, values, max_size=5), max_size=3)}))
def test_any_document_is_a_cluster_or_a_config_error(value):
    with contextlib.suppress(ConfigError):
        cluster(yaml.safe_dump(value))


@given(st.binary(max_size=200) | st.text(st.sampled_from("ab:-[]{}&*!|>'\"%@`#?, \n"), max_size=60).map(str.encode))
def test_any_bytes_are_documents_or_a_config_error(text):
    with contextlib.suppress(ConfigError):
        assemble(read_documents("f.yaml", text))
