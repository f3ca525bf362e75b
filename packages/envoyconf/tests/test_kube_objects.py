"""Example intents as every Kubernetes gateway's objects: the real definitions and a real API have no objection.

Both are shown to refuse what is broken.
"""

import json
from pathlib import Path

import msgspec
import pytest

from shunter.envoyconf import IntentError, load_intent, render
from shunter.envoyconf.core.generate import MAKERS, PLAIN_ENVOYS, generate
from shunter.envoyconf.core.targets import Target
from shunter.envoyconf.errors import KubernetesRefusedError, ToolMissingError
from shunter.envoyconf.testing_crds import load_definitions
from shunter.envoyconf.testing_kube import find_crds

EXAMPLES = Path(__file__).parent / "kubernetes"
NAMES = sorted(path.name.removesuffix(".intent.yaml") for path in EXAMPLES.glob("*.intent.yaml"))
TARGETS = [target for target in MAKERS if target not in PLAIN_ENVOYS]

# Those that know InferencePools, and one profile.
POOL_GATEWAYS = (Target.AIGW, Target.ISTIO, Target.AGENTGATEWAY, Target.GKE)

# What a gateway has no means for; it says so instead.
REFUSED = {
    (Target.AIGW, "weighted"): "one InferencePool",
    (Target.ISTIO, "weighted"): "one picker for each rule",
    **{(target, "lean"): "the nearest there is profile full" for target in POOL_GATEWAYS},
    (Target.AIGW, "body-router"): "reads the models itself",
    (Target.AGENTGATEWAY, "body-router"): "AgentgatewayPolicy",
    (Target.ENVOY_GATEWAY, "body-router"): "envoy-gateway-patch",
    (Target.ENVOY_GATEWAY, "fail-open"): "must be FailClose in the profile full",
    (Target.ENVOY_GATEWAY, "models-in-bodies"): "does not read bodies",
    (Target.ISTIO, "models-in-bodies"): "does not read bodies",
    (Target.AGENTGATEWAY, "models-in-bodies"): "does not read bodies",
    (Target.GKE, "models-in-bodies"): "does not read bodies",
    (Target.ISTIO, "security"): "RequestAuthentication",
    (Target.AGENTGATEWAY, "security"): "AgentgatewayPolicy",
    (Target.GKE, "security"): "Cloud Armor",
}
PAIRS = [(target, name) for target in TARGETS for name in NAMES]
ACCEPTED = [pytest.param(*pair, id=f"{pair[0].value}, {pair[1]}") for pair in PAIRS if pair not in REFUSED]


def load(name):
    return load_intent((EXAMPLES / f"{name}.intent.yaml").read_text())


@pytest.fixture(scope="session")
def definitions():
    try:
        return load_definitions(find_crds())
    except ToolMissingError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(("target", "name"), ACCEPTED)
def test_the_definitions_have_no_objection(target, name, definitions):
    for document in generate(load(name), target).documents:
        if (document["apiVersion"], document["kind"]) in definitions:
            assert definitions.examine(document).problems == (), document


@pytest.mark.parametrize("target", TARGETS)
def test_the_real_api_accepts_everything(target, kube):
    """All examples at once: kubectl takes longer to start than the server takes to answer."""
    intents = [load(name) for name in NAMES if (target, name) not in REFUSED]
    spaces = sorted({intent.kubernetes.namespace for intent in intents})
    kube.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}} for space in spaces])
    kube.apply([document for intent in intents for document in generate(intent, target).documents], dry_run=True)


@pytest.mark.parametrize("target", TARGETS)
def test_what_was_applied_is_as_it_is_generated(target, kube):
    """A server fills in defaults and spells values its own way; neither may look like a change the next time."""
    intent, space = load("one-pool"), f"kept-{target.value}"
    names = msgspec.structs.replace(intent.kubernetes, namespace=space)
    documents = generate(msgspec.structs.replace(intent, kubernetes=names), target).documents
    kube.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space}}])
    kube.apply(documents)
    kept = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
    assert kube.kubectl("diff", "--server-side", "-f", "-", stdin=json.dumps(kept)) == ""


@pytest.mark.parametrize("target", TARGETS)
def test_names_that_are_chosen_are_used_everywhere(target):
    documents = generate(load("elsewhere"), target).documents
    assert {each["metadata"].get("namespace", "llm") for each in documents} == {"llm"}
    text = "".join(map(render, documents))
    for usual in ("inference-gateway", "cluster.local", "default.svc", "shunter:0.1.0", "replicas: 2", "GatewayClass\n"):
        assert usual not in text


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair in REFUSED], ids=lambda pair: f"{pair[0].value}, {pair[1]}")
def test_what_a_gateway_has_no_means_for_is_refused_in_words(pair):
    target, name = pair
    with pytest.raises(IntentError, match=REFUSED[pair]):
        generate(load(name), target)


def only(kind, output):
    (found,) = [each for each in output.documents if each["kind"] == kind]
    return found


BROKEN = {
    "an unknown field": ("InferencePool", lambda spec: spec.update(targetPortNumber=8000), "targetPortNumber"),
    "a value that is none": (
        "InferencePool",
        lambda spec: spec["endpointPickerRef"].update(failureMode="FailSoft"),
        "FailSoft",
    ),
    "a port twice": ("InferencePool", lambda spec: spec.update(targetPorts=[{"number": 1}, {"number": 1}]), "unique"),
    "a Service without port": ("InferencePool", lambda spec: spec["endpointPickerRef"].pop("port"), "port is required"),
    "weights below zero": ("HTTPRoute", lambda spec: spec["rules"][0]["backendRefs"][0].update(weight=-1), "-1"),
    "a listener twice": ("Gateway", lambda spec: spec.update(listeners=spec["listeners"] * 2), "(unique|uplicate)"),
    "health checks that overlap": (
        "HealthCheckPolicy",
        lambda spec: spec["default"].update(checkIntervalSec=1, timeoutSec=2),
        "checkIntervalSec",
    ),
}


@pytest.mark.parametrize(("kind", "damage", "words"), BROKEN.values(), ids=BROKEN.keys())
def test_what_is_broken_is_refused_by_definitions_and_by_the_real_api_alike(kind, damage, words, definitions, kube):
    document = only(kind, generate(load("one-pool"), Target.GKE))
    damage(document["spec"])
    with pytest.raises(KubernetesRefusedError, match=words):
        kube.apply([document], dry_run=True)
    verdict = definitions.examine(document)
    assert verdict.problems or verdict.unknown_rules, "a rule with a ternary is beyond cel-python, and is said to be"


def test_a_rule_that_cannot_be_asked_is_named(definitions):
    document = only("HealthCheckPolicy", generate(load("one-pool"), Target.GKE))
    del document["spec"]["default"]["config"]["httpHealthCheck"]["portSpecification"]
    assert any("portSpecification" in each for each in definitions.examine(document).unknown_rules)
