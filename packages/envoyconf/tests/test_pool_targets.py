"""Gateways that know InferencePools: what each is told, and what it is refused."""

import functools
import json
import re

import pytest

from shunter.envoyconf import IntentError, bootstrap, load_intent, render
from shunter.envoyconf.core.generate import generate
from shunter.envoyconf.core.intent import Profile
from shunter.envoyconf.core.targets import Target
from shunter.envoyconf.shell import envoy

TARGETS = (Target.AIGW, Target.ISTIO, Target.AGENTGATEWAY, Target.GKE)
ANY = (Target.ENVOY_GATEWAY, Target.ENVOY_GATEWAY_PATCH, *TARGETS)


def intent(**fields):
    plain = {"profile": "full", "pools": [{"name": "llama", "selector": {"app": "vllm"}}]}
    return load_intent(json.dumps(plain | fields))


TWO = [{"name": "llama", "selector": {"app": "llama"}}, {"name": "qwen", "selector": {"app": "qwen"}}]
WEIGHTED = intent(pools=TWO, routes=[{"pools": [{"name": "llama", "weight": 9}, {"name": "qwen"}]}])
BY_MODEL = intent(pools=TWO, routes=[{"pool": "llama", "models": ["a", "b"]}, {"pool": "qwen", "models": ["q"]}])
ROUTER = intent(
    pools=TWO, bodyRouter={"addresses": ["body-router:9004"]}, routes=[{"pool": "llama", "models": ["a"]}, {"pool": "qwen"}]
)


def only(kind, output):
    found = [each for each in output.documents if each["kind"] == kind]
    assert len(found) == 1, [each["kind"] for each in output.documents]
    return found[0]


@pytest.mark.parametrize("target", TARGETS)
def test_the_same_intent_gives_the_same_documents_in_the_same_order(target):
    assert repr(generate(intent(), target)) == repr(generate(intent(), target))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("profile", [profile for profile in Profile if profile is not Profile.FULL])
def test_another_profile_than_full_is_refused_and_full_named(target, profile):
    pool = {"name": "llama", "selector": {"app": "vllm"}, "picker": {"failureMode": "FailClose", "collector": "c:1"}}
    with pytest.raises(IntentError, match=f"{target.value} cannot have the profile {profile.value}: .*; the nearest .* full"):
        generate(intent(profile=profile.value, pools=[pool]), target)


@pytest.mark.parametrize("target", ANY)
def test_a_pool_that_is_called_as_another_ones_picker_is_refused(target):
    pools = [each | {"picker": {"failureMode": "FailClose"}} for each in (TWO[0], TWO[1] | {"name": "llama-picker"})]
    with pytest.raises(IntentError, match="two objects would be the Service llama-picker; rename a pool"):
        generate(intent(pools=pools, routes=[{"prefix": "/a", "pool": "llama"}, {"pool": "llama-picker"}]), target)


def test_pools_may_have_one_picker_which_istio_is_told_once_how_to_speak_to():
    def spoken(*pickers):
        pools = [pool | {"picker": {"addresses": ["p:9002"], **tls}} for pool, tls in zip(TWO, pickers, strict=True)]
        return generate(intent(pools=pools, routes=[{"prefix": "/a", "pool": "llama"}, {"pool": "qwen"}]), Target.ISTIO)

    assert only("DestinationRule", spoken({"tls": {}}, {"tls": {}}))["spec"]["host"] == "p.default.svc.cluster.local"
    with pytest.raises(IntentError, match=r"pools\[1\]\.picker\.tls is not that of pools\[0\], .* Service p too"):
        spoken({"tls": {}}, {})


@pytest.mark.parametrize("target", ANY)
@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"admin": {"port": 9901}}, "admin: "),
        ({"listeners": [{"address": "10.0.0.7"}]}, r"listeners\[0\]\.address 10\.0\.0\.7: "),
    ],
)
def test_what_a_gateway_has_no_place_for_is_told(target, fields, place):
    pools = [TWO[0] | {"picker": {"failureMode": "FailClose"}}]
    assert any(re.match(place, warning) for warning in generate(intent(pools=pools, **fields), target).warnings)


def test_a_gateway_whose_service_istio_could_not_name_is_refused():
    with pytest.raises(IntentError, match=r"kubernetes\.gateway 'a{58}' is too long: Istio makes a Service a{58}-istio"):
        generate(intent(kubernetes={"gateway": 58 * "a"}), Target.ISTIO)
    assert generate(intent(kubernetes={"gateway": 57 * "a"}), Target.ISTIO)


def test_gke_writes_no_log_file():
    made = generate(intent(observability={"accessLog": "/var/log/access.log"}), Target.GKE)
    assert any(each.startswith("observability.accessLog: GKE writes no file") for each in made.warnings)


@pytest.mark.parametrize("target", ANY)
def test_a_picker_that_is_installed_is_not_asked_for_a_pool_that_it_does_not_have(target):
    pool = TWO[0] | {"picker": {"failureMode": "FailClose"}}
    assert generate(intent(pools=[pool | {"inferencePool": "default/llama"}]), target)
    with pytest.raises(IntentError, match=r"pools\[0\]\.inferencePool 'other': the picker that is installed"):
        generate(intent(pools=[pool | {"inferencePool": "other"}]), target)


@pytest.mark.parametrize("target", TARGETS)
def test_a_picker_that_serves_several_pools_cannot_be_told_which(target):
    pool = TWO[0] | {"inferencePool": "other", "picker": {"addresses": ["p:9002"]}}
    with pytest.raises(IntentError, match=r"pools\[0\]\.inferencePool: gateways with InferencePools cannot tell"):
        generate(intent(pools=[pool]), target)


@pytest.mark.parametrize("target", TARGETS)
def test_model_servers_by_address_alone_are_refused(target):
    pool = {"name": "llama", "endpoints": ["10.0.0.1:8000"], "picker": {"addresses": ["p:9002"]}}
    with pytest.raises(IntentError, match=r"pools\[0\]\.selector is missing: an InferencePool"):
        generate(intent(pools=[pool]), target)


@pytest.mark.parametrize("target", [Target.AIGW, Target.ISTIO])
def test_gateways_with_one_picker_a_rule_are_given_one_pool_a_rule(target):
    with pytest.raises(IntentError, match=r"routes\[0\]\.pools: .*, and these are 2; give it one"):
        generate(WEIGHTED, target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("addresses", "words"),
    [
        (["p.default.svc:9002", "q.default.svc:9002"], r"addresses are 2, but a reference names one Service and port"),
        (["p.other.svc:9002"], r"'p.other.svc:9002' must be a Service in the namespace default"),
        (["10.0.0.7:9002"], "must be a Service in the namespace default"),
        (["[::1]:9002"], "must be a Service in the namespace default"),
        (["unix:/run/p"], r"pools\[0\].picker.addresses\[0\] 'unix:/run/p' is a socket in the file system, but a reference"),
    ],
)
def test_a_picker_that_is_no_service_of_the_namespace_is_refused(target, addresses, words):
    pool = {"name": "llama", "selector": {"app": "vllm"}, "picker": {"addresses": addresses}}
    with pytest.raises(IntentError, match=words):
        generate(intent(pools=[pool]), target)


@pytest.mark.parametrize("target", TARGETS)
def test_a_pickers_service_may_be_named_in_every_form(target):
    for host in ("p", "p.default", "p.default.svc", "p.default.svc.cluster.local", "p.default.svc.cluster.local."):
        pool = {"name": "llama", "selector": {"app": "vllm"}, "picker": {"addresses": [f"{host}:9012"]}}
        output = generate(intent(pools=[pool]), target)
        reference = only("InferencePool", output)["spec"]["endpointPickerRef"]
        assert (reference["name"], reference["port"]) == ("p", {"number": 9012})
        assert not [each for each in output.documents if each["kind"] in {"Deployment", "Service"}]


@pytest.mark.parametrize("target", TARGETS)
def test_a_failure_mode_is_never_left_to_a_default(target):
    assert only("InferencePool", generate(intent(), target))["spec"]["endpointPickerRef"]["failureMode"] == "FailOpen"


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_not_generated_is_never_left_out_silently(target):
    overflow = {"name": "llama", "selector": {"app": "vllm"}, "overflow": {"address": "api.example.com:443"}}
    with pytest.raises(IntentError, match=r"pools\[0\]\.overflow: .* would not be told of it .*\. Leave it out; "):
        generate(intent(pools=[overflow]), target)
    if target is not Target.AIGW:  # it is told, by Envoy Gateway's policies
        with pytest.raises(IntentError, match=r"security: .* would not be told of it .*\. Leave it out; "):
            generate(intent(security={"rateLimits": [{"requests": 5}]}), target)
    warnings = generate(intent(limits={"retries": 0}, observability={"servedHeader": True}), target).warnings
    assert any(each.startswith("limits.retries: ") for each in warnings)
    assert any(each.startswith("observability.servedHeader: ") for each in warnings)


@pytest.mark.parametrize("target", [Target.AIGW, Target.AGENTGATEWAY, Target.GKE])
def test_gateways_that_always_speak_tls_get_a_picker_that_does(target):
    output = generate(intent(), target)
    command = only("Deployment", output)["spec"]["template"]["spec"]["containers"][0]["command"]
    assert any(word.startswith("--tls-cert-file=") for word in command)
    elsewhere = {"name": "llama", "selector": {"app": "vllm"}, "picker": {"addresses": ["p:9002"]}}
    assert any("speaks TLS to it" in each for each in generate(intent(pools=[elsewhere]), target).warnings)


@pytest.mark.parametrize("target", [Target.AIGW, Target.AGENTGATEWAY, Target.GKE])
def test_gateways_that_take_one_address_get_one(target):
    assert "maxNumOfEndpoints: 1" in only("ConfigMap", generate(intent(), target))["data"]["picker.yaml"]


def test_istio_gets_a_list():
    assert "maxNumOfEndpoints" not in only("ConfigMap", generate(intent(), Target.ISTIO))["data"]["picker.yaml"]


def test_istio_is_told_how_to_speak_tls_to_a_picker_only_if_it_speaks_that():
    assert not [each for each in generate(intent(), Target.ISTIO).documents if each["kind"] == "DestinationRule"]
    tls = functools.partial(dict, name="llama", selector={"app": "vllm"})
    trusting = generate(intent(pools=[tls(picker={"tls": {}})]), Target.ISTIO)
    rule = only("DestinationRule", trusting)["spec"]
    assert rule == {
        "host": "llama-picker.default.svc.cluster.local",
        "trafficPolicy": {"tls": {"mode": "SIMPLE", "insecureSkipVerify": True}},
    }
    verified = {"caFile": "/ca.pem", "serverName": "llama-picker.default.svc", "certFile": "/c.pem", "keyFile": "/k.pem"}
    rule = only("DestinationRule", generate(intent(pools=[tls(picker={"tls": verified})]), Target.ISTIO))["spec"]
    assert rule["trafficPolicy"]["tls"] == {
        "mode": "MUTUAL",
        "clientCertificate": "/c.pem",
        "privateKey": "/k.pem",
        "caCertificates": "/ca.pem",
        "sni": "llama-picker.default.svc",
        "subjectAltNames": ["llama-picker.default.svc"],
    }


@pytest.mark.envoy
def test_the_filter_that_istio_is_to_insert_is_one_that_envoy_accepts(envoy_binary):
    output = generate(ROUTER, Target.ISTIO)
    value = only("EnvoyFilter", output)["spec"]["configPatches"][0]["patch"]["value"]
    pools = [{"name": each["name"], "endpoints": ["127.0.0.1:1"], "picker": {"addresses": ["127.0.0.1:2"]}} for each in TWO]
    resource = bootstrap(load_intent(json.dumps({"pools": pools, "routes": [{"pool": "llama"}]})))
    (chain,) = resource["static_resources"]["listeners"][0]["filter_chains"]
    chain["filters"][0]["typed_config"]["http_filters"].insert(0, value)
    name = value["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"]
    assert name == "outbound|9004||body-router.default.svc.cluster.local"
    resource["static_resources"]["clusters"].append({"name": name, "type": "STATIC"})
    envoy.validate(render(resource), envoy_binary)


def test_istios_rules_have_no_filter_that_would_drop_the_picker():
    for example in (intent(), ROUTER):
        for document in generate(example, Target.ISTIO).documents:
            if document["kind"] == "HTTPRoute":
                assert all("filters" not in rule for rule in document["spec"]["rules"])


def test_ai_gateway_always_removes_what_clients_could_steer_by_and_buffers_whole_prompts():
    for example in (intent(), BY_MODEL):
        spec = only("ClientTrafficPolicy", generate(example, Target.AIGW))["spec"]
        assert "x-gateway-destination-endpoint" in spec["headers"]["earlyRequestHeaders"]["remove"]
        assert spec["connection"]["bufferLimit"] == "32Mi"


def test_ai_gateway_is_told_whom_to_let_in_and_how_often():
    security = {"apiKeys": [{"client": "alice", "key": "secret"}], "rateLimits": [{"requests": 5}]}
    output = generate(intent(security=security), Target.AIGW)
    assert only("BackendTrafficPolicy", output)["spec"]["rateLimit"]["local"]["rules"] == [
        {"limit": {"requests": 5, "unit": "Minute"}}
    ]
    assert "apiKeyAuth" in only("SecurityPolicy", output)["spec"]


def test_ai_gateway_goes_by_models_with_its_own_routes():
    output = generate(BY_MODEL, Target.AIGW)
    routes = [each for each in output.documents if each["kind"] == "AIGatewayRoute"]
    matched = [match for route in routes for rule in route["spec"]["rules"] for match in rule["matches"]]
    assert [match["headers"][0]["value"] for match in matched] == ["a", "b", "q"]
    assert {match["headers"][0]["name"] for match in matched} == {"x-ai-eg-model"}
    assert not [each for each in output.documents if each["kind"] == "HTTPRoute"]


@pytest.mark.parametrize(
    ("routes", "words"),
    [
        ([{"pool": "llama", "models": ["a"]}, {"pool": "qwen"}], r"routes\[1\]\.models are missing: .* answers 404"),
        ([{"pool": "llama", "models": ["a"], "prefix": "/v1"}], r"routes\[0\]\.prefix '/v1': .* knows no paths"),
    ],
)
def test_what_ai_gateway_would_answer_404_is_refused(routes, words):
    with pytest.raises(IntentError, match=words):
        generate(intent(pools=TWO, routes=routes), Target.AIGW)


def test_ai_gateway_is_said_to_fail_closed():
    assert any("failureMode" in each for each in generate(intent(), Target.AIGW).warnings)


def test_whoever_could_be_steered_without_a_picker_is_warned():
    assert any("connects to what a client has written" in each for each in generate(intent(), Target.AGENTGATEWAY).warnings)
    closed = {"name": "llama", "selector": {"app": "vllm"}, "picker": {"failureMode": "FailClose"}}
    assert generate(intent(pools=[closed]), Target.AGENTGATEWAY).warnings == ()


def test_gke_checks_and_ends_no_earlier_than_the_intent_says():
    output = generate(intent(limits={"idleTimeoutSeconds": 900.5}), Target.GKE)
    check = only("HealthCheckPolicy", output)["spec"]["default"]["config"]["httpHealthCheck"]
    assert check == {"requestPath": "/health", "portSpecification": "USE_FIXED_PORT", "port": 8000}
    assert only("GCPBackendPolicy", output)["spec"]["default"]["timeoutSec"] == 901
    assert all("timeouts" not in rule for rule in only("HTTPRoute", output)["spec"]["rules"])
