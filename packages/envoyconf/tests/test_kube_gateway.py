"""What Gateway API is told of listeners and routes, and where it would decide otherwise than the intent."""

import contextlib
import itertools
import json

import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from shunter.envoyconf import IntentError, load_intent
from shunter.envoyconf.core.intent.hosts import meet
from shunter.envoyconf.core.kube.gateway import gateway, http_route, model_header, reference_grant
from shunter.envoyconf.core.kube.precedence import check_precedence

POOL = {"name": "llama", "selector": {"app": "vllm"}}


def intent(**fields):
    return load_intent(json.dumps({"pools": [POOL, POOL | {"name": "other"}], "routes": [{"pool": "llama"}]} | fields))


def routes(asked):
    check_precedence(asked)
    header = model_header(asked)
    return [http_route(asked, index, [], header=header)["spec"] for index in range(len(asked.effective_routes))]


def test_a_listener_becomes_one_for_each_of_its_hosts():
    tls = {"secret": "shown"}
    made = gateway(intent(listeners=[{"port": 443, "hosts": ["a.example", "*.b.example"], "tls": tls}]), "eg")
    assert made["spec"]["gatewayClassName"] == "eg"
    first, second = made["spec"]["listeners"]
    assert (first["name"], first["hostname"], first["port"], first["protocol"]) == ("http-0", "a.example", 443, "HTTPS")
    assert (second["name"], second["hostname"]) == ("http-1", "*.b.example")
    assert second["tls"]["certificateRefs"] == [{"name": "shown"}]


@pytest.mark.parametrize(
    ("listener", "place"),
    [
        ({"port": 0}, r"listeners\[0\]\.port"),
        ({"tls": {"certFile": "c", "keyFile": "k"}}, r"listeners\[0\]\.tls\.secret"),
        ({"tls": {"secret": "s", "clientCaFile": "ca"}}, r"listeners\[0\]\.tls\.clientCaFile"),
    ],
)
def test_what_a_gateway_cannot_do_is_refused_with_its_place(listener, place):
    with pytest.raises(IntentError, match=place):
        gateway(intent(listeners=[listener]), "eg")


def test_two_listeners_that_differ_in_their_address_only_are_refused():
    with pytest.raises(IntentError, match=r"listeners\[1\] is listeners\[0\] once more"):
        gateway(intent(listeners=[{"port": 80}, {"name": "other", "port": 80, "address": "127.0.0.2"}]), "eg")


@pytest.mark.parametrize("field", ["namespace", "gateway"])
def test_names_that_are_labels_in_dns_have_no_dots(field):
    with pytest.raises(IntentError, match=rf"\$\.kubernetes\.{field} 'a\.b' must have no dots"):
        intent(kubernetes={field: "a.b"})


def test_two_listeners_that_would_have_one_name_are_refused():
    with pytest.raises(IntentError, match=r"listeners\[1\]\.name 'http-0'.*listeners\[0\]"):
        gateway(intent(listeners=[{"port": 80, "hosts": ["a", "b"]}, {"name": "http-0", "port": 81}]), "eg")


def test_models_are_alternatives_and_are_not_taken_from_an_earlier_route():
    asked = intent(
        modelHeader="x-model", routes=[{"pool": "llama", "models": ["a", "b"]}, {"pool": "other", "models": ["b", "c"]}]
    )
    first, second = ([match["headers"][0]["value"] for match in route["rules"][0]["matches"]] for route in routes(asked))
    assert (first, second) == (["a", "b"], ["c"])


def test_a_route_whose_models_are_all_taken_is_refused():
    asked = intent(modelHeader="x-model", routes=[{"pool": "llama", "models": each} for each in (["a"], ["b"], ["a", "b"])])
    with pytest.raises(IntentError, match=r"routes\[2\] is never reached"):
        routes(asked)


def test_many_models_are_divided_among_rules():
    asked = intent(modelHeader="x-model", routes=[{"pool": "llama", "models": [f"m{n}" for n in range(100)]}])
    assert [len(rule["matches"]) for rule in routes(asked)[0]["rules"]] == [64, 36]


def test_models_in_bodies_need_somebody_who_reads_them():
    with pytest.raises(IntentError, match=r"routes\[0\]\.models.*bodyRouter"):
        routes(intent(routes=[{"pool": "llama", "models": ["a"]}]))


@pytest.mark.parametrize(
    ("listeners", "first", "second", "place"),
    [
        ([], {"prefix": "/v1", "models": ["a"]}, {"prefix": "/v1/chat"}, r"routes\[0\].*before routes\[1\]"),
        (["a.example"], {"hosts": ["a.example"]}, {"prefix": "/v1"}, r"routes\[0\].*before routes\[1\].*a\.example"),
        (["a.example"], {"hosts": ["*.example"]}, {"hosts": ["a.example"]}, r"routes\[1\].*before routes\[0\]"),
        ([], {"hosts": ["a.example"], "prefix": "/v1"}, {}, r"routes\[1\] \(/\) takes.*add one with hosts \[a\.example\]"),
        ([], {"hosts": ["a.example"]}, {"hosts": ["*", "b.example"]}, r"routes\[1\]\.hosts.*divide it"),
        ([], {"hosts": ["*.example"], "prefix": "/v1"}, {"hosts": ["a.example"]}, None),
        (["*", "a.example"], {"hosts": ["a.example"], "prefix": "/v1"}, {}, None),
    ],
)
def test_what_gateway_api_would_decide_otherwise_is_refused(listeners, first, second, place):
    served = [{"hosts": listeners}] if listeners else [{}]
    asked = intent(modelHeader="x-model", listeners=served, routes=[{"pool": "llama"} | first, {"pool": "other"} | second])
    with pytest.raises(IntentError, match=place) if place else contextlib.nullcontext():
        routes(asked)


HOSTS = st.sampled_from(["*", "*.example", "a.example", "b.example", "*.a.example"])
MODELS = st.lists(st.sampled_from("ab"), max_size=2, unique=True)
ROUTES = st.fixed_dictionaries(
    {
        "hosts": st.lists(HOSTS, max_size=2, unique=True),
        "prefix": st.sampled_from(["/", "/v1", "/v1/chat", "/v2"]),
        "models": MODELS,
    }
)
LISTENERS = st.fixed_dictionaries(
    {"port": st.sampled_from([80, 81]), "hosts": st.lists(HOSTS, min_size=1, max_size=2, unique=True)}
)
REQUESTS = [*itertools.product(["a.example", "b.example", "c.a.example", "x"], ["/", "/v1/chat/x", "/v1/y", "/v2"], "abc")]


def matches(pattern, host):
    return pattern in ("*", host) or (pattern.startswith("*") and host.endswith(pattern[1:]))


def exactness(pattern):
    return not pattern.startswith("*"), len(pattern)


def below(path, prefix):
    return f"{path}/".startswith(f"{prefix.rstrip('/')}/")


def by_intent(asked, request):
    """The index of the route that a request is for, None for a 404; as the intent's own fields are described."""
    host, path, model = request
    ranked = [
        (exactness(pattern), -index, index)
        for index, route in enumerate(asked.routes)
        for pattern in route.hosts or ("*",)
        if matches(pattern, host) and below(path, route.prefix) and model in (route.models or (model,))
    ]
    return max(ranked)[-1] if ranked else None


def by_gateway(served, made, request):
    """The same as a gateway decides on its objects, on a port where it has listeners for these host names."""
    host, path, model = request
    listener = max((each for each in served if matches(each, host)), key=exactness)
    names = [{met for each in route.get("hostnames", ["*"]) if (met := meet(listener, each))} for route in made]
    known = [name for each in names for name in each if matches(name, host)]
    if not known:
        return None
    name = max(known, key=exactness)
    ranked = [
        (len(match["path"]["value"]), len(match.get("headers", ())), -index, index)
        for index, route in enumerate(made)
        if name in names[index]
        for rule in route["rules"]
        for match in rule["matches"]
        if below(path, match["path"]["value"]) and all(each["value"] == model for each in match.get("headers", ()))
    ]
    return max(ranked)[-1] if ranked else None


@settings(max_examples=150)
@given(st.lists(LISTENERS, min_size=1, max_size=2), st.lists(ROUTES, min_size=1, max_size=4))
def test_a_gateway_gives_each_request_to_the_route_that_the_intent_does(listeners, plain):
    try:
        named = [each | {"name": f"l{index}", "address": f"127.0.0.{index + 1}"} for index, each in enumerate(listeners)]
        asked = intent(modelHeader="x-model", listeners=named, routes=[{"pool": "llama"} | each for each in plain])
        made, built = routes(asked), gateway(asked, "any")["spec"]["listeners"]
    except IntentError:
        reject()
    for port in {each["port"] for each in built}:
        served = [each.get("hostname", "*") for each in built if each["port"] == port]
        for request in REQUESTS:
            if any(matches(each, request[0]) for each in served):
                assert by_gateway(served, made, request) == by_intent(asked, request), request


def test_routes_that_share_no_request_may_stand_in_any_order():
    asked = intent(
        modelHeader="x-model",
        routes=[
            {"pool": "llama", "prefix": "/v1", "models": ["a"]},
            {"pool": "other", "prefix": "/v1/chat", "models": ["b"]},
            {"pool": "llama", "prefix": "/v2", "hosts": ["a.example"]},
            {"pool": "other", "prefix": "/v1", "models": ["a"], "hosts": ["a.example"]},
            {"pool": "other", "prefix": "/v1/chat", "models": ["b"], "hosts": ["a.example"]},
            {"pool": "llama", "prefix": "/v2", "hosts": ["b.example"]},
            {"pool": "other", "prefix": "/v1", "hosts": ["b.example"]},
        ],
    )
    assert len(routes(asked)) == 7


def test_a_reference_grant_names_both_sides():
    made = reference_grant("llm", ("inference.networking.k8s.io", "InferencePool", "llama"), from_namespace="web")
    assert made["metadata"] == {"name": "llama-web", "namespace": "llm"}
    assert made["spec"]["from"][0]["namespace"] == "web"
    assert made["spec"]["to"] == [{"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "llama"}]
