"""What Gateway API is told of listeners and routes, and where it would decide otherwise than the intent."""

import json

import pytest

from shunter.envoyconf import IntentError, load_intent
from shunter.envoyconf.core.kube.gateway import gateway, http_route, model_header, reference_grant

POOL = {"name": "llama", "selector": {"app": "vllm"}}


def intent(**fields):
    return load_intent(json.dumps({"pools": [POOL, POOL | {"name": "other"}], "routes": [{"pool": "llama"}]} | fields))


def routes(asked):
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
    ("first", "second"),
    [
        ({"prefix": "/v1", "models": ["a"]}, {"prefix": "/v1/chat"}),
        ({"hosts": ["*.example"], "prefix": "/v1"}, {"hosts": ["a.example"]}),
        ({"hosts": ["a.example"], "prefix": "/v1"}, {"hosts": ["a.example"], "prefix": "/v1/chat", "models": ["a"]}),
    ],
)
def test_an_order_that_gateway_api_would_not_keep_is_refused(first, second):
    asked = {"pool": "llama"}, {"pool": "other"}
    kept = intent(modelHeader="x-model", routes=[asked[1] | second, asked[0] | first])
    assert len(routes(kept)) == 2
    if "models" not in second:  # or the intent itself says that the second is never reached
        with pytest.raises(IntentError, match=r"routes\[0\].*before routes\[1\]"):
            routes(intent(modelHeader="x-model", routes=[asked[0] | first, asked[1] | second]))


def test_routes_that_share_no_request_may_stand_in_any_order():
    asked = intent(
        modelHeader="x-model",
        routes=[
            {"pool": "llama", "prefix": "/v1", "models": ["a"]},
            {"pool": "other", "prefix": "/v1/chat", "models": ["b"]},
            {"pool": "llama", "prefix": "/v2", "hosts": ["a.example"]},
            {"pool": "llama", "prefix": "/v2", "hosts": ["b.example"]},
        ],
    )
    assert len(routes(asked)) == 4


def test_a_reference_grant_names_both_sides():
    made = reference_grant("llm", ("inference.networking.k8s.io", "InferencePool", "llama"), from_namespace="web")
    assert made["metadata"] == {"name": "llama-web", "namespace": "llm"}
    assert made["spec"]["from"][0]["namespace"] == "web"
    assert made["spec"]["to"] == [{"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "llama"}]
