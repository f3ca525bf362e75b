"""Manifests are an intent: what they say is in it, what it has no word for is told, and what would go elsewhere is refused."""

import contextlib

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from shunter.envoyconf import IntentError, load_intent
from shunter.envoyconf.core.documents import Document, load_documents
from shunter.envoyconf.core.generate import MAKERS, generate
from shunter.envoyconf.core.intent import Profile
from shunter.envoyconf.core.kube.reading import intent_from
from shunter.envoyconf.core.render import render
from shunter.envoyconf.core.targets import Target

MANIFESTS = """\
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: llm}
spec:
  gatewayClassName: istio
  listeners:
  - {name: http, port: 80, protocol: HTTP, hostname: llm.example.com}
  - {name: more, port: 80, protocol: HTTP, hostname: "*.llm.example.com"}
  - {name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: all, namespace: llm}
spec:
  parentRefs: [{name: edge}]
  hostnames: [llm.example.com]
  rules:
  - backendRefs:
    - {group: inference.networking.k8s.io, kind: InferencePool, name: llama, weight: 9}
    - {group: inference.networking.k8s.io, kind: InferencePool, name: qwen, weight: 1}
  - matches:
    - {path: {type: PathPrefix, value: /qwen/}, headers: [{name: X-Model, value: qwen}]}
    - {path: {type: PathPrefix, value: /qwen/}, headers: [{name: x-model, value: qwen-2}]}
    backendRefs:
    - {group: inference.networking.k8s.io, kind: InferencePool, name: qwen}
---
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {name: llama, namespace: llm}
spec:
  selector: {matchLabels: {app: vllm}}
  targetPorts: [{number: 8000}, {number: 8001}]
  endpointPickerRef: {name: llama-epp, port: {number: 9002}, failureMode: FailOpen}
---
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferencePool
metadata: {name: qwen, namespace: llm}
spec:
  selector: {app: qwen}
  targetPortNumber: 8080
  extensionRef: {name: qwen-picker}
"""


def read(text, namespace="default"):
    return intent_from(load_documents(text, "m.yaml"), namespace)


def changed(*pairs):
    text = MANIFESTS
    for before, after in pairs:
        assert before in text
        text = text.replace(before, after, 1)
    return text


def test_what_manifests_say_is_in_the_intent():
    reading = read(
        MANIFESTS.replace(
            "inference.networking.k8s.io, kind: InferencePool, name: qwen",
            "inference.networking.x-k8s.io, kind: InferencePool, name: qwen",
        )
    )
    intent = reading.intent
    assert [(each.name, each.port, each.hosts) for each in intent.listeners] == [
        ("http", 80, ("llm.example.com", "*.llm.example.com")),
        ("https", 443, ("*",)),
    ]
    assert intent.listeners[1].tls is not None
    assert intent.listeners[1].tls.secret == "cert"
    llama, qwen = (next(pool for pool in intent.pools if pool.name == name) for name in ("llama", "qwen"))
    assert (llama.selector, llama.target_ports) == ({"app": "vllm"}, (8000, 8001))
    assert (llama.picker.addresses, llama.picker.failure_mode.value) == (("llama-epp.llm.svc.cluster.local:9002",), "FailOpen")
    assert (qwen.selector, qwen.target_ports) == ({"app": "qwen"}, (8080,))
    assert (qwen.picker.addresses, qwen.picker.failure_mode.value) == ((), "FailClose")
    assert intent.model_header == "x-model"
    assert (intent.kubernetes.namespace, intent.kubernetes.gateway, intent.kubernetes.gateway_class) == ("llm", "edge", "istio")
    assert any("v1alpha2" in note for note in reading.notes)


def test_pools_are_asked_as_the_picker_protocol_demands():
    reading = read(MANIFESTS)
    assert reading.intent.profile is Profile.FULL
    assert any("do with lean" in note for note in reading.notes)


def test_the_most_specific_route_is_the_first():
    routes = read(MANIFESTS).intent.routes
    assert [(route.prefix, route.models) for route in routes] == [("/qwen", ("qwen", "qwen-2")), ("/", ())]
    assert [(share.name, share.weight) for share in routes[1].shares] == [("llama", 9), ("qwen", 1)]


def test_weights_of_one_pool_add_up_and_a_rule_that_weighs_nothing_is_left_out():
    again = "{group: inference.networking.k8s.io, kind: InferencePool, name: llama, weight: 9}\n    - "
    weights = [(share.name, share.weight) for share in read(changed((again, again + again))).intent.routes[1].shares]
    assert weights == [("llama", 18), ("qwen", 1)]
    none = ("name: qwen, weight: 1", "name: qwen, weight: 0"), ("name: llama, weight: 9", "name: llama, weight: 0")
    assert [share.weight for share in read(changed(none[0])).intent.routes[1].shares] == [9, 0]
    nobody = read(changed(*none))
    assert [route.prefix for route in nobody.intent.routes] == ["/qwen"]
    assert any("a rule without backends that weigh anything is left out" in note for note in nobody.notes)


def test_the_yaml_of_a_reading_states_its_intent():
    reading = read(MANIFESTS)
    assert load_intent(yaml.safe_dump(reading.plain)) == reading.intent


INTENT = """\
pools:
- {name: llama, selector: {app: vllm}, targetPorts: [8000, 8001], picker: {failureMode: FailClose, tls: {}}}
- {name: qwen, selector: {app: qwen}, http2: true, picker: {failureMode: FailClose, addresses: ["q.llm.svc.cluster.local:909"]}}
profile: full
modelHeader: x-model
listeners: [{name: http, port: 80, address: 0.0.0.0, hosts: [llm.example.com]}]
routes:
- {pool: qwen, models: [qwen, qwen-2], prefix: /v1}
- {pool: llama}
kubernetes: {namespace: llm, gateway: edge}
"""


@pytest.mark.parametrize("target", [Target.ISTIO, Target.AGENTGATEWAY, Target.GKE])
def test_an_intent_comes_back_from_what_was_generated_of_it(target):
    intent = load_intent(INTENT)
    text = "---\n".join(render(document) for document in generate(intent, target).documents)
    back = read(text).intent
    assert sorted(back.pools, key=lambda pool: pool.name) == list(intent.pools)
    assert back.routes == intent.routes
    assert back.listeners == intent.listeners
    assert back.model_header == intent.model_header
    assert back.profile is intent.profile
    names = msgspec.structs.replace(back.kubernetes, gateway_class=None)
    assert names == intent.kubernetes


def test_ai_gateways_routes_go_by_the_model():
    text = (
        INTENT.replace("modelHeader: x-model\n", "")
        .replace(", prefix: /v1}", "}")
        .replace("- {pool: llama}\n", "- {pool: llama, models: [llama]}\n")
    )
    intent = load_intent(text.replace(", hosts: [llm.example.com]", ""))
    back = read("---\n".join(render(document) for document in generate(intent, Target.AIGW).documents)).intent
    assert back.routes == intent.routes
    assert back.limits == intent.limits


@pytest.mark.skipif(Target.ENVOY_GATEWAY not in MAKERS, reason="nothing generates for Envoy Gateway")
def test_envoy_gateways_policies_say_profile_limits_and_picker():
    intent = load_intent(INTENT.replace("full", "lean"))
    text = "---\n".join(render(document) for document in generate(intent, Target.ENVOY_GATEWAY).documents)
    back = read(text).intent
    assert back.profile is Profile.LEAN
    assert {pool.name: (pool.selector, pool.target_ports) for pool in back.pools} == {
        pool.name: (pool.selector, pool.target_ports) for pool in intent.pools
    }
    assert back.limits.body_bytes == intent.limits.body_bytes
    assert back.limits.retries == intent.limits.retries
    assert all(pool.picker.addresses for pool in back.pools)
    assert [route.models for route in back.routes] == [("qwen", "qwen-2"), ()]


def test_a_reference_picker_is_spoken_to_in_tls():
    picker = """\
---
apiVersion: v1
kind: Service
metadata: {name: llama-epp, namespace: llm}
spec: {selector: {app: epp}, ports: [{port: 9002}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: epp, namespace: llm}
spec: {template: {metadata: {labels: {app: epp}}, spec: {containers: [{name: epp, args: [--pool-name, llama]}]}}}
"""
    reading = read(MANIFESTS + picker)
    assert [pool.name for pool in reading.intent.pools if pool.picker.tls] == ["llama"]
    assert any("Deployment epp" in note for note in reading.notes)


@pytest.mark.parametrize(
    ("pair", "note"),
    [
        (("  - matches:", "  - filters: [{type: CORS}]\n    matches:"), "the filter CORS is left out"),
        (("  - matches:", "  - timeouts: {request: 60s}\n    matches:"), "timeouts.request 60s is left out"),
        (("protocol: HTTPS", "protocol: TCP"), "the listener https is not for HTTP that ends here"),
        (("X-Model", "x-gateway-model-name"), "Envoy reads the model out of the body"),
        (("{type: PathPrefix, value: /qwen/}", "{type: Exact, value: /qwen}"), "what lies below /qwen comes here, too"),
        (("  rules:", "  rules:\n  - filters: [{type: RequestRedirect}]"), "the filter RequestRedirect is left out"),
        (("  rules:", "  rules:\n  - matches: [{path: {value: /no}}]"), "a rule without backends that weigh"),
        (("  - matches:", "  - retry: {attempts: 2}\n    matches:"), "rules.retry of HTTPRoute is left out"),
        (("  - matches:", "  - sessionPersistence: {}\n    matches:"), "rules.sessionPersistence of HTTPRoute is left out"),
        (("name: llama, weight: 9", "name: llama, weight: 9, filters: [{}]"), "rules.backendRefs.filters of HTTPRoute is"),
        (("  gatewayClassName: istio", "  addresses: [{value: a}]\n  gatewayClassName: istio"), "addresses of Gateway is left"),
        (("certificateRefs: [", "frontendValidation: {}, certificateRefs: ["), "listeners.tls.frontendValidation of Gateway"),
    ],
)
def test_what_is_not_in_the_intent_is_told_with_its_line(pair, note):
    pairs = [pair, ("x-model", pair[1])] if pair[0] == "X-Model" else [pair]
    notes = [each for each in read(changed(*pairs)).notes if note in each]
    assert notes
    assert all(each.startswith("m.yaml:") and each.split(":")[1].isdigit() for each in notes)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("name: qwen}\n---", "name: gwen}\n---"), "InferencePool llm/gwen is not among these manifests"),
        (("{type: PathPrefix, value: /qwen/}", "{type: RegularExpression, value: /q.*}"), "not by regular expression"),
        (("headers: [{name: X-Model", "method: GET, headers: [{name: X-Model"), "cannot match by method"),
        (("name: X-Model", "name: x-other"), "one header with the model"),
        (("name: X-Model", "name: x-gateway-base-model-name"), "write an intent with bodyRouter"),
        (("kind: InferencePool\nmetadata: {name: llama", "kind: Pool\nmetadata: {name: llama"), "give its file, too"),
        (("selector: {matchLabels: {app: vllm}}", "selector: {}"), "has no selector"),
        (("kind: HTTPRoute", "kind: TCPRoute"), "no HTTPRoute with a backend"),
        (("tls: {certificateRefs: [{name: cert}]}", "tls: {}"), "name the Secret"),
        (("port: 443, ", ""), "a listener without a port"),
        (("name: llama, weight: 9}", "name: llama, namespace: other, weight: 9}"), "other/llama is not among these manifests"),
        (("{name: llama-epp,", "{kind: Pod, name: llama-epp,"), "the picker is a Pod"),
    ],
)
def test_what_would_go_elsewhere_is_refused_with_its_line(pair, message):
    with pytest.raises(IntentError, match=message) as error:
        read(changed(pair))
    assert "no HTTPRoute" in message or str(error.value).startswith("m.yaml:")


def test_two_gateways_are_not_one_intent():
    with pytest.raises(IntentError, match="a second Gateway"):
        read(f"{MANIFESTS}---\n{MANIFESTS.partition('---')[0].replace('edge', 'inner')}")


def test_a_route_of_another_gateway_is_left_out():
    reading = read(
        changed(("  rules:", "  rules:"))
        + "---\n"
        + MANIFESTS.split("---\n")[1].replace("name: edge", "name: inner").replace("name: all", "name: other")
    )
    assert len(reading.intent.routes) == 2
    assert any("belongs to another Gateway" in note for note in reading.notes)


@pytest.mark.parametrize("granted", [True, False])
def test_another_namespace_has_to_grant_the_reference(granted):
    text = changed(("kind: InferencePool, name: qwen}", "kind: InferencePool, name: qwen, namespace: other}"))
    text = text.replace(
        "{group: inference.networking.k8s.io, kind: InferencePool, name: qwen, weight: 1}",
        "{group: inference.networking.k8s.io, kind: InferencePool, name: qwen, namespace: other, weight: 1}",
    )
    text = text.replace("metadata: {name: qwen, namespace: llm}", "metadata: {name: qwen, namespace: other}")
    grant = """\
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: routes, namespace: other}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: llm}]
  to: [{group: inference.networking.k8s.io, kind: InferencePool}]
"""
    if granted:
        qwen = next(pool for pool in read(text + grant).intent.pools if pool.name == "qwen")
        assert qwen.picker.addresses == ("qwen-picker.other.svc.cluster.local:9002",)
        assert qwen.endpoints == ("qwen.other.svc.cluster.local:8080",)
    else:
        with pytest.raises(IntentError, match="nothing in other grants"):
            read(text)


def test_a_listener_from_which_only_a_redirect_leads_does_not_come_to_serve_pools():
    redirect = """\
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: secure, namespace: llm}
spec:
  parentRefs: [{name: edge, sectionName: http}]
  rules: [{filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]}]
"""
    reading = read(changed(("parentRefs: [{name: edge}]", "parentRefs: [{name: edge, sectionName: https}]")) + redirect)
    assert [listener.name for listener in reading.intent.listeners] == ["https"]
    assert any("no route with a backend is for the listener http" in note for note in reading.notes)
    assert any("parentRefs.sectionName of HTTPRoute is left out, here and 1 more times" in note for note in reading.notes)


POLICIES = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: all}
spec: {rules: [{backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: vllm}]}]}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: Backend
metadata: {name: vllm}
spec: {endpoints: [{ip: {address: "fd00::7", port: 8000}}], tls: {insecureSkipVerify: true}}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyExtensionPolicy
metadata: {name: all}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: all}]
  wasm: [{}]
  extProc:
  - {backendRefs: [{name: picker, port: 9002}], messageTimeout: 7s, processingMode: {request: {body: Buffered}}}
  - {backendRefs: [{name: other, port: 9002}], processingMode: {request: {body: Streamed}}}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: BackendTrafficPolicy
metadata: {name: all}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: all}]
  retry: {numRetries: 1}
  timeout: {http: {requestTimeout: 60s, maxConnectionDuration: 1h}}
  faultInjection: {}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: BackendTrafficPolicy
metadata: {name: more}
spec: {retry: {numRetries: 4}}
---
apiVersion: v1
kind: Service
metadata: {name: picker}
spec: {ports: [{port: 9002}]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {name: tls}
spec: {targetRefs: [{kind: Service, name: picker}]}
"""


def test_of_policies_nothing_is_lost_in_silence():
    reading = read(POLICIES)
    assert (reading.intent.limits.pick_timeout_seconds, reading.intent.limits.retries) == (7, 4)
    for note in (
        "wasm of EnvoyExtensionPolicy is left out",
        "another picker is asked otherwise",
        "limits.retries is the largest of 1, 4",
        "requestTimeout 60s is left out",
        "timeout.http.maxConnectionDuration of BackendTrafficPolicy is left out",
        "faultInjection of BackendTrafficPolicy is left out",
        "TLS to the model servers of Backend default/vllm is left out",
        "not in the intent: BackendTLSPolicy tls",
    ):
        assert any(note in each for each in reading.notes), note


words = st.sampled_from(["", "a", "HTTP", "HTTPS", "InferencePool", "Service", "/", "0s", 7, -1, None, True, [], {}])


@given(st.data())
def test_manifests_with_anything_anywhere_are_read_or_refused(data):
    documents = [yaml.safe_load(part) for part in MANIFESTS.split("---\n")]
    for _ in range(data.draw(st.integers(1, 3))):
        here = data.draw(st.sampled_from(documents))["spec"]
        while True:
            step = data.draw(st.sampled_from(list(here) if isinstance(here, dict) else range(len(here))))
            below = here[step]
            if not isinstance(below, dict | list) or not below or data.draw(st.booleans()):
                here[step] = data.draw(words)
                break
            here = below
    with contextlib.suppress(IntentError):
        intent_from([Document(body, "m.yaml", {(): 1}) for body in documents])


SERVICE_ROUTE = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: all}
spec: {rules: [{backendRefs: [{name: vllm, port: 80}]}]}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyExtensionPolicy
metadata: {name: all}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: all}]
  extProc: [{backendRefs: [{name: picker, port: 9002}], processingMode: {request: {body: Buffered}}}]
---
apiVersion: v1
kind: Service
metadata: {name: vllm}
spec: {clusterIP: None, selector: {app: vllm}, ports: [{port: 80, targetPort: 8000}]}
"""


def test_a_headless_service_is_its_pods_and_any_other_an_address():
    headless = read(SERVICE_ROUTE).intent.pools[0]
    assert (headless.selector, headless.target_ports, headless.endpoints) == ({"app": "vllm"}, (8000,), ())
    assert headless.picker.addresses == ("picker.default.svc.cluster.local:9002",)
    reading = read(SERVICE_ROUTE.replace("clusterIP: None, ", ""))
    assert reading.intent.pools[0].endpoints == ("vllm.default.svc.cluster.local:80",)
    assert any("is not headless" in note for note in reading.notes)
