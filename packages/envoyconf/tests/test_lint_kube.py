"""Each rule about Kubernetes objects finds its bad example, at the line that says so, and nothing in its good one."""

from pathlib import Path

import pytest
import yaml

from shunter.envoyconf.core.documents import load_documents
from shunter.envoyconf.core.lint import RULES
from shunter.envoyconf.core.lint.correct import correct
from shunter.envoyconf.core.lint.examine import examine

EXAMPLES = Path(__file__).parent / "lint" / "kube"
CODES = sorted(path.name for path in EXAMPLES.iterdir())
BAD = sorted(EXAMPLES.glob("*/bad*.yaml"))
NAMES = [f"{path.parent.name}-{path.stem}" for path in BAD]
MARK = "# here"


def findings(path):
    return examine(load_documents(path.read_text(), str(path)))


@pytest.mark.parametrize("bad", BAD, ids=NAMES)
def test_bad_example_breaks_this_rule_only_and_there_only(bad):
    places = [(rule.code, finding.document.line(finding.path)) for rule, finding in findings(bad)]
    lines = [number for number, line in enumerate(bad.read_text().splitlines(), 1) if line.endswith(MARK)]
    assert places == [(bad.parent.name, line) for line in lines]
    assert lines


@pytest.mark.parametrize("code", CODES)
def test_good_example_breaks_no_rule(code):
    assert [(rule.code, finding.message) for rule, finding in findings(EXAMPLES / code / "good.yaml")] == []


@pytest.mark.parametrize("bad", BAD, ids=NAMES)
def test_correction_leaves_nothing_to_correct(bad):
    found = findings(bad)
    texts, done = correct({"bad.yaml": bad.read_text()}, examine)
    left = examine(load_documents(texts["bad.yaml"], ""))
    assert [rule.code for rule, _ in left] == [rule.code for rule, finding in found if not finding.fixes]
    assert len(done) == sum(bool(finding.fixes) for _, finding in found)


def test_each_rule_about_kubernetes_has_an_example():
    ours = {rule.code for rule in RULES if ".lint.kube" in getattr(rule.check, "__module__", "")}
    assert ours == set(CODES)


def test_no_code_is_given_twice():
    codes = [rule.code for rule in RULES]
    assert len(set(codes)) == len(codes)
    numbers = [code[1:] for code in codes]
    assert len(set(numbers)) == len(numbers)


def without(code, *kinds):
    """Return a good example as somebody gives it who keeps some kinds elsewhere."""
    documents = load_documents((EXAMPLES / code / "good.yaml").read_text(), "part.yaml")
    return [document for document in documents if document.kind not in kinds]


@pytest.mark.parametrize(
    ("code", "kinds"),
    [
        ("E40", {"Service"}),
        ("E37", {"InferencePool", "ReferenceGrant"}),
        ("E90", {"InferencePool"}),
        ("E58", {"Deployment", "DestinationRule"}),
        ("E58", {"Gateway", "DestinationRule"}),
        ("E67", {"Service"}),
        ("E77", {"Backend"}),
        ("E87", {"InferencePool"}),
        ("E79", {"Gateway", "GatewayClass", "HTTPRoute"}),
        ("E59", {"InferencePool", "HealthCheckPolicy", "GCPBackendPolicy"}),
        ("W64", {"RoleBinding"}),
        ("E92", {"Service"}),
    ],
)
def test_what_leads_out_of_what_is_given_is_let_be(code, kinds):
    assert [(rule.code, finding.message) for rule, finding in examine(without(code, *kinds))] == []


@pytest.mark.parametrize(
    ("code", "before", "after"),
    [
        ("W41", "image: endpoint-picker\n          args: [--pool-name=llama, --secure-serving=true]", "image: stepper"),
        ("W41", "image: endpoint-picker\n          args: [--pool-name=llama, --secure-serving=true]", "image: epp-for-vllm"),
        ("E92", "[--pool-name=llama, --secure-serving=false]", "[--ours]"),
        ("E58", "[--pool-name=llama, --secure-serving=true]", "[--pool-name, llama, --secure-serving, 'false']"),
        ("E58", "gatewayClassName: istio", "gatewayClassName: ours"),
        ("E69", "gatewayClassName: istio", "gatewayClassName: ours"),
        ("E101", "--pool-name=mistral", "--pool-name=$(POOL)"),
        ("W88", "args: [", "args: [--ha-enable-leader-election, "),
        ("W85", "args: [--model, llama]", "args: [--pool-name, llama]"),
        (
            "W41",
            "image: endpoint-picker\n          args: [--pool-name=llama, --secure-serving=true]",
            "image: shunter\n          args: [lab, serve]",
        ),
        (
            "W42",
            "      containers:",
            "      initContainers: [{name: sidecar, restartPolicy: Always, ports: [{containerPort: 8080}]}]\n      containers:",
        ),
        (
            "W64",
            "kind: RoleBinding\nmetadata: {name: epp, namespace: llm}",
            (
                "kind: RoleBinding\nmetadata: {name: more, namespace: llm}\n"
                "subjects: [{kind: ServiceAccount, name: epp, namespace: llm}]\nroleRef: {kind: ClusterRole, name: view}\n---\n"
                "apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: epp, namespace: llm}"
            ),
        ),
        ("E37", "namespace: www}]", "namespace: web}]"),
    ],
)
def test_what_cannot_be_known_to_be_wrong_is_let_be(code, before, after):
    text = (EXAMPLES / code / "bad.yaml").read_text()
    assert before in text
    found = examine(load_documents(text.replace(before, after), "part.yaml"))
    assert code not in [rule.code for rule, _ in found]


@pytest.mark.parametrize("code", ["E100", "E101"])
def test_whose_namespace_nobody_states_may_be_applied_in_any(code):
    text = (EXAMPLES / code / "bad-namespace.yaml").read_text()
    assert [rule.code for rule, _ in examine(load_documents(text, ""))] == [code]
    assert examine(load_documents(text.replace(", namespace: llm}", "}"), ""), namespace="llm") == []


@pytest.mark.parametrize(
    "allowed", ["{namespaces: {from: All}}", "{namespaces: {from: Selector, selector: {matchLabels: {a: b}}}}"]
)
def test_a_gateway_may_take_routes_of_other_namespaces(allowed):
    text = (EXAMPLES / "E100" / "bad-namespace.yaml").read_text()
    assert examine(load_documents(text.replace("protocol: HTTP}", f"protocol: HTTP, allowedRoutes: {allowed}}}"), "")) == []


@pytest.mark.parametrize(("label", "codes"), [("a", []), ("b", ["E70", "E71", "W72"])])
def test_policies_that_select_by_label_are_attached_to_what_has_it(label, codes):
    text = (EXAMPLES / "E70" / "good.yaml").read_text()
    text = text.replace(
        "metadata: {name: inference, namespace: llm}", "metadata: {name: inference, namespace: llm, labels: {x: a}}"
    )
    target = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: inference}]"
    assert target in text
    text = text.replace(target, f"targetSelectors: [{{kind: Gateway, matchLabels: {{x: {label}}}}}]")
    assert sorted({rule.code for rule, _ in examine(load_documents(text, ""))}) == codes


def test_a_picker_is_known_by_its_flags_whatever_its_pool_is_called():
    text = (EXAMPLES / "W41" / "bad.yaml").read_text().replace("--pool-name=llama", "--pool-name=vllm-llama")
    assert [rule.code for rule, _ in examine(load_documents(text, ""))] == ["W41"]


def test_lists_and_several_files_are_one_set():
    documents = load_documents((EXAMPLES / "E70" / "good.yaml").read_text(), "")
    listed = yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": [document.body for document in documents[1:]]})
    split = [*load_documents(listed, "list.yaml"), documents[0]]
    assert examine(split) == []
    worse = [*load_documents(listed.replace("- x-gateway-destination-endpoint\n", "- x-other\n"), "list.yaml"), documents[0]]
    assert [rule.code for rule, _ in examine(worse)] == ["E70"]
