"""Envoy Gateway by its own kinds: what it is told, what it is refused, and that its definitions agree."""

import json
import re
from collections import Counter
from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter.envoyconf import IntentError, load_intent
from shunter.envoyconf.core.generate import generate
from shunter.envoyconf.core.kube.policies import go_duration, quantity
from shunter.envoyconf.core.kube.split import id_patterns
from shunter.envoyconf.core.names import PICKER_HEADERS
from shunter.envoyconf.core.output import Settings
from shunter.envoyconf.core.targets import Target
from shunter.envoyconf.core.versions import Version
from shunter.envoyconf.errors import ToolMissingError
from shunter.envoyconf.testing_crds import load_definitions
from shunter.envoyconf.testing_kube import find_crds

LLAMA = {"name": "llama", "selector": {"app": "llama"}, "targetPorts": [8000, 8001]}
QWEN = {"name": "qwen", "endpoints": ["10.0.0.7:8000"], "picker": {"addresses": ["10.0.0.8:9002"], "failureMode": "FailClose"}}
TWO = [{"name": "llama", "weight": 3}, {"name": "qwen", "weight": 1}]

EXAMPLES = {
    "one pool": {},
    "full": {"profile": "full", "pools": [QWEN]},
    "pickers in TLS": {
        "pools": [
            LLAMA | {"picker": {"tls": {}}},
            QWEN | {"picker": {"addresses": ["picker.llm.svc:9002"], "tls": {"caFile": "ca.pem", "serverName": "picker"}}},
        ],
        "routes": [{"pool": "llama", "hosts": ["a.example"]}, {"pool": "qwen", "hosts": ["*.example"]}],
    },
    "pickers at sockets": {
        "pools": [
            QWEN | {"picker": {"addresses": ["unix:/run/p.0", "unix:/run/p.1", "10.0.0.8:9002"], "failureMode": "FailClose"}}
        ]
    },
    "weights": {"pools": [LLAMA, QWEN], "routes": [{"pools": TWO}]},
    "weights beside a model": {
        "pools": [LLAMA, QWEN],
        "modelHeader": "x-model",
        "routes": [{"pool": "llama", "models": ["a"]}, {"pools": TWO}],
    },
    "native": {
        "profile": "native",
        "pools": [LLAMA, QWEN],
        "routes": [
            {"prefix": "/a", "pool": "llama", "affinity": {"header": "x-session"}},
            {"prefix": "/b", "pool": "llama", "affinity": {"cookie": "session"}},
            {"pools": TWO},
        ],
    },
    "API keys and limits": {
        "security": {
            "apiKeys": [{"client": "alice", "key": "secret"}],
            "rateLimits": [{"requests": 9}, {"requests": 1, "per": "second", "by": "x-client-id"}],
        },
    },
    "tokens": {
        "security": {"jwt": [{"name": "us", "issuer": "https://us", "jwksUri": "https://us/keys", "audiences": ["llm"]}]}
    },
    "watching": {
        "observability": {
            "accessLog": "none",
            "servedHeader": True,
            "tracing": {"collector": "otel:4317", "samplePercent": 0.1},
        },
        "listeners": [{"port": 443, "hosts": ["llm.example"], "tls": {"secret": "shown"}}],
        "kubernetes": {"gatewayClass": "mine"},
    },
}


def output(**fields):
    return generate(load_intent(json.dumps({"pools": [LLAMA]} | fields)), Target.ENVOY_GATEWAY)


def made(kind, **fields):
    return [each for each in output(**fields).documents if each["kind"] == kind]


@pytest.fixture(scope="module")
def definitions():
    try:
        return load_definitions(find_crds())
    except ToolMissingError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("example", EXAMPLES)
def test_envoy_gateways_own_definitions_agree(example, definitions):
    for document in output(**EXAMPLES[example]).documents:
        if (document["apiVersion"], document["kind"]) in definitions:
            verdict = definitions.examine(document)
            assert (verdict.problems, verdict.unknown_rules) == ((), ()), document


@pytest.mark.parametrize("address", ["::1", "fd00::7", "fd00:1::2:3:4", "::ffff:10.0.0.1", "1:2:3:4:5:6:7:8"])
def test_every_way_to_write_an_ipv6_address_is_accepted(address, definitions):
    (model_server, _) = made("Backend", pools=[QWEN | {"endpoints": [f"[{address}]:8000"]}])
    assert definitions.examine(model_server).problems == ()
    assert ip_address(model_server["spec"]["endpoints"][0]["ip"]["address"]) == ip_address(address)


def test_every_reference_meets_an_object():
    for fields in EXAMPLES.values():
        documents = output(**fields).documents
        here = {(each["kind"], each["metadata"]["name"]) for each in documents}
        for document in documents:
            spec = json.dumps(document.get("spec", {}))
            for kind in ("Backend", "HTTPRoute", "Gateway", "EnvoyProxy"):
                for name in re.findall(rf'"kind": "{kind}", "name": "([^"]+)"', spec):
                    assert (kind, name) in here


def test_clients_cannot_name_a_model_server_and_long_prompts_are_kept():
    (policy,) = made("ClientTrafficPolicy", limits={"bodyBytes": 64 << 20})
    assert policy["spec"]["headers"]["earlyRequestHeaders"]["remove"] == list(PICKER_HEADERS)
    assert policy["spec"]["connection"] == {"bufferLimit": "64Mi"}


def test_status_codes_are_retried_by_the_trigger_without_which_they_mean_nothing():
    (policy,) = made("BackendTrafficPolicy")
    assert policy["spec"]["retry"]["retryOn"]["httpStatusCodes"] == [503]
    assert "retriable-status-codes" in policy["spec"]["retry"]["retryOn"]["triggers"]


def test_a_picker_that_lets_requests_wait_has_the_time_for_it():
    (policy,) = made("EnvoyExtensionPolicy", limits={"queueSeconds": 10})
    assert policy["spec"]["extProc"][0]["messageTimeout"] == "12s"


def test_a_picker_in_tls_is_spoken_to_in_http2_by_name():
    backends = {each["metadata"]["name"]: each["spec"] for each in made("Backend", **EXAMPLES["pickers in TLS"])}
    assert backends["llama-picker"]["tls"] == {"insecureSkipVerify": True, "alpnProtocols": ["h2"]}
    assert backends["qwen-picker"]["tls"]["alpnProtocols"] == ["h2"]
    assert backends["qwen-picker"]["tls"]["sni"] == "picker"


def test_the_name_of_a_picker_that_is_installed_is_known():
    (picker,) = made("Backend", pools=[LLAMA | {"picker": {"tls": {"caFile": "ca.pem"}}}])
    assert picker["spec"]["tls"]["sni"] == "llama-picker.default.svc"


def test_an_endpoint_that_is_gone_is_noticed_where_nobody_picks_and_the_pick_is_followed_elsewhere():
    (asked,) = made("BackendTrafficPolicy")
    assert "healthCheck" not in asked["spec"]
    for policy in made("BackendTrafficPolicy", **EXAMPLES["native"]):
        assert policy["spec"]["healthCheck"]["passive"]["consecutiveLocalOriginFailures"] == 2
        assert "endpointOverride" not in policy["spec"]["loadBalancer"]


def test_each_share_has_a_route_and_a_picker_of_its_own():
    routes = {each["metadata"]["name"]: each["spec"]["rules"][0] for each in made("HTTPRoute", **EXAMPLES["weights"])}
    asked = {
        each["spec"]["targetRefs"][0]["name"]: each["spec"]["extProc"][0]["backendRefs"][0]["name"]
        for each in made("EnvoyExtensionPolicy", **EXAMPLES["weights"])
    }
    assert asked == {"inference-gateway-00-llama": "llama-picker", "inference-gateway-00-qwen": "qwen-picker"}
    assert [ref["name"] for ref in routes["inference-gateway-00-qwen"]["backendRefs"]] == ["qwen"]
    (policy,) = made("ClientTrafficPolicy", **EXAMPLES["weights"])
    assert policy["spec"]["headers"]["requestID"] == "Generate", "a client's own would not be random"


@pytest.mark.parametrize("weights", [(3, 1), (1_000_000, 1), (1, 1_000_000)])
def test_a_pool_with_several_ports_has_no_more_than_its_weight(weights):
    pools = [LLAMA, QWEN, {"name": "third", "selector": {"app": "third"}, "targetPorts": [1, 2, 3]}]
    shares = [{"name": pool["name"], "weight": weight} for pool, weight in zip(pools, (*weights, 5), strict=True)]
    (route,) = made("HTTPRoute", profile="native", pools=pools, routes=[{"pools": shares}])
    given = Counter()
    for reference in route["spec"]["rules"][0]["backendRefs"]:
        assert 1 <= reference["weight"] <= 1_000_000
        given[reference["name"]] += reference["weight"]
    for share in shares:
        part = given[share["name"]] / given.total()
        assert part == pytest.approx(share["weight"] / (sum(weights) + 5), abs=1e-5)


def test_a_route_for_a_model_stays_more_specific_than_a_part_of_one_for_all():
    model, *shares = made("HTTPRoute", **EXAMPLES["weights beside a model"])
    assert len(model["spec"]["rules"][0]["matches"][0]["headers"]) == 2
    assert {len(each["spec"]["rules"][0]["matches"][0]["headers"]) for each in shares} == {1}


@settings(max_examples=30)
@given(st.lists(st.integers(1, 1_000_000), min_size=2, max_size=16))
def test_ids_are_divided_as_the_weights_say(weights):
    patterns = [re.compile(pattern) for pattern in id_patterns(weights)]
    taken = Counter()
    for number in range(4096):
        (place,) = (place for place, each in enumerate(patterns) if each.fullmatch(f"{number:03x}0e2b1-4f7a"))
        taken[place] += 1
    for place, weight in enumerate(weights):
        assert taken[place] >= 1
        assert abs(taken[place] - 4096 * weight / sum(weights)) <= 1 + len(weights)


@given(
    st.text(st.characters(exclude_characters="\n\r\0", max_codepoint=255)), st.lists(st.integers(1, 99), min_size=2, max_size=5)
)
def test_an_id_of_any_form_goes_somewhere(request_id, weights):
    assert any(re.fullmatch(pattern, request_id) for pattern in id_patterns(weights))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"profile": "full"}, r"pools\[0\]\.picker\.failureMode must be FailClose"),
        ({"profile": "usage", "pools": [LLAMA | {"picker": {"collector": "a:1"}}]}, "nearest there is profile lean"),
        ({"routes": [{"pool": "llama", "models": ["a"]}]}, r"routes\[0\]\.models.*envoy-gateway-patch.*modelHeader"),
        ({"pools": [LLAMA | {"overflow": {"address": "a:443"}}]}, "overflow.*envoy-gateway-patch"),
        ({"pools": [QWEN | {"inferencePool": "qwen"}]}, r"pools\[0\]\.inferencePool.*envoy-gateway-patch"),
        ({"bodyRouter": {"addresses": ["a:9004"]}}, "bodyRouter.*envoy-gateway-patch"),
        ({"pools": [LLAMA | {"endpoints": [], "picker": {"tls": {"certFile": "a", "keyFile": "b"}}}]}, r"tls\.certFile"),
        ({"pools": [QWEN | {"endpoints": ["a:1", "10.0.0.1:1"]}]}, r"pools\[0\]\.endpoints: .* all of one kind"),
        (
            {"pools": [QWEN | {"picker": {"addresses": ["p:1"], "tls": {"caFile": "ca"}}}]},
            r"tls\.serverName must be",
        ),
        (
            {"pools": [QWEN | {"picker": {"addresses": ["p:1"], "tls": {"caFile": "ca", "serverName": "10.0.0.8"}}}]},
            r"pools\[0\]\.picker\.tls\.serverName must be",
        ),
        ({"pools": [QWEN | {"endpoints": ["a_b:1"]}]}, r"pools\[0\]\.endpoints 'a_b:1'.* no host name with _"),
        ({"pools": [QWEN | {"endpoints": [f"10.0.{n >> 8}.{n & 255}:1" for n in range(257)]}]}, "257 addresses .* 256"),
        ({"security": {"rateLimits": [{"requests": 1}] * 17}}, r"security\.rateLimits: 17 limits"),
        ({"routes": [{"pool": "llama", "hosts": [f"h{n}" for n in range(17)]}]}, r"routes\[0\]\.hosts: 17 hosts"),
        ({"routes": [{"pool": "llama", "prefix": "/" + 1024 * "a"}]}, r"routes\[0\]\.prefix: 1025 characters"),
        (
            {"modelHeader": "x-model", "routes": [{"pool": "llama", "models": [4097 * "a"]}]},
            r"routes\[0\]\.models: 4097 characters",
        ),
        ({"listeners": [{"hosts": [f"h{n}" for n in range(65)]}]}, "listeners: 65 hosts"),
        (
            {
                "profile": "native",
                "pools": [LLAMA | {"targetPorts": [*range(1, 9)]}, QWEN, LLAMA | {"name": "b", "targetPorts": [*range(1, 9)]}],
                "routes": [{"pools": [{"name": "llama"}, {"name": "qwen"}, {"name": "b"}]}],
            },
            r"routes\[0\]\.pools: 17 ports",
        ),
        ({"security": {"jwt": [{"name": "us", "issuer": "us", "jwksFile": "keys"}]}}, "jwksFile.*jwksUri"),
        ({"security": {"apiKeys": [{"client": "a", "key": "1"}, {"client": "a", "key": "2"}]}}, "has a key already"),
    ],
)
def test_what_it_cannot_do_is_refused_with_place_and_remedy(fields, words):
    with pytest.raises(IntentError, match=words):
        output(**fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pools": [QWEN]}, "enableBackend"),
        ({"pools": [LLAMA | {"picker": {"collector": "a:1"}}]}, "collector"),
        ({"profile": "native"}, "reads no bodies"),
        ({"admin": {"port": 9901}}, "admin"),
        ({"limits": {"queueSeconds": 10}}, "queueSeconds"),
        (EXAMPLES["weights"], "x-request-id"),
        (EXAMPLES["weights"] | {"security": {"rateLimits": [{"requests": 9}]}}, "each pool among which it is divided"),
        (
            {
                "modelHeader": "x-model",
                "routes": [{"pool": "llama", "models": ["a", "b"]}],
                "security": {"rateLimits": [{"requests": 9}]},
            },
            "in it each model",
        ),
    ],
)
def test_what_is_otherwise_there_is_told(fields, words):
    assert any(words in warning for warning in output(**fields).warnings)


def test_a_host_name_is_written_as_kubernetes_wants_it():
    model_servers, _ = made("Backend", pools=[QWEN | {"endpoints": ["VLLM.llm:1"]}])
    assert model_servers["spec"]["endpoints"] == [{"fqdn": {"hostname": "vllm.llm", "port": 1}}]


def test_a_picker_at_sockets_is_a_backend_of_paths_and_who_must_see_them_is_told():
    example = EXAMPLES["pickers at sockets"]
    _, picker = made("Backend", **example)
    assert picker["spec"]["endpoints"][:2] == [{"unix": {"path": "/run/p.0"}}, {"unix": {"path": "/run/p.1"}}]
    for target in (Target.ENVOY_GATEWAY, Target.ENVOY_GATEWAY_PATCH):
        told = generate(load_intent(json.dumps(example)), target).warnings
        assert any("pools[0].picker.addresses: Envoys reach a socket in a volume of their own" in each for each in told)


def test_nothing_to_warn_of_in_the_plain_case():
    assert output().warnings == ()
    assert output(security={"rateLimits": [{"requests": 9}]}).warnings == ()


@pytest.mark.parametrize(("version", "warned"), [((1, 36), False), ((1, 37), True), ((1, 38), True), ((1, 39), False)])
def test_an_envoy_that_ends_streams_too_early_is_warned_of(version, warned):
    asked = load_intent(json.dumps({"pools": [LLAMA]}))
    told = generate(asked, Target.ENVOY_GATEWAY, Settings(envoy_version=Version(*version))).warnings
    assert any("is taken for done" in each for each in told) == warned


@pytest.mark.parametrize(("seconds", "text"), [(0, "0s"), (2, "2s"), (0.025, "25ms"), (3599.5, "3599s500ms")])
def test_durations_are_gateway_apis(seconds, text):
    assert go_duration(seconds) == text


@pytest.mark.parametrize(("size", "text"), [(1 << 30, "1Gi"), (32 << 20, "32Mi"), (1536 << 10, "1536Ki"), (1048577, "1048577")])
def test_sizes_are_kubernetes_quantities(size, text):
    assert quantity(size) == text
