"""What routes with ways of their own need of an intent, and what of it becomes part of Envoy's resources."""

import json
import sys

import pytest

from shunter.envoyconf import IntentError, bootstrap, load_intent
from shunter.envoyconf.core.generate import generate
from shunter.envoyconf.core.intent.unreached import unreached
from shunter.envoyconf.core.names import PICKER_HEADERS
from shunter.envoyconf.core.targets import Target

POOL = {"name": "a", "endpoints": ["10.0.0.1:1"], "picker": {"addresses": ["10.0.0.2:2"], "collector": "10.0.0.2:3"}}
NATIVE = {"pool": "a", "profile": "native"}


def intent(*routes, **fields):
    return load_intent(json.dumps({"pools": [POOL], "routes": list(routes)} | fields))


def parts(*routes, **fields):
    """Return the clusters by name, and the connection manager."""
    static = bootstrap(intent(*routes, **fields))["static_resources"]
    manager = static["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    return {each["name"]: each for each in static["clusters"]}, manager


@pytest.mark.parametrize("header", [each for each in PICKER_HEADERS if each != "x-gateway-model-name"])
def test_the_model_is_not_looked_for_in_headers_that_clients_must_not_send(header):
    with pytest.raises(IntentError, match=f"modelHeader '{header}' is a header that is never taken from clients"):
        intent(modelHeader=header)


def test_keys_are_looked_for_in_one_list_of_fields():
    other = NATIVE | {"prefix": "/other", "affinity": {"body": ["user"]}}
    with pytest.raises(IntentError, match=r"routes\[1\]\.affinity\.body \['prompt_cache_key', 'user'\] is not that"):
        intent(other, NATIVE)
    assert intent(other | {"affinity": {"body": []}}, NATIVE).key_fields == ("prompt_cache_key", "user")
    assert intent(other, {"pool": "a"}).key_fields == ("user",)  # affinity is nothing to other profiles


@pytest.mark.parametrize(
    ("first", "second", "reached"),
    [
        ({}, {"hosts": ["a.example"]}, True),  # the more exact host goes first
        ({"hosts": ["*.example"]}, {"hosts": ["a.example"]}, True),
        ({"hosts": ["a.example"]}, {"hosts": ["a.example", "b.example"]}, True),
        ({"hosts": ["a.example", "b.example"]}, {"hosts": ["a.example"]}, False),
        ({}, {}, False),
    ],
)
def test_a_route_is_reached_by_a_host_of_its_own(first, second, reached):
    routes = [{"pool": "a"} | first, {"pool": "a", "prefix": "/v1"} | second]
    if reached:
        assert intent(*routes)
    else:
        with pytest.raises(IntentError, match=r"routes\[1\] \(/v1\) is never reached"):
            intent(*routes)


def test_a_route_is_for_hosts_that_somebody_serves():
    listeners = [{"hosts": ["*.example.com"]}, {"name": "inside", "port": 81, "hosts": ["inside"]}]
    assert intent({"pool": "a", "hosts": ["elsewhere.org", "a.example.com"]}, {"pool": "a"}, listeners=listeners)
    with pytest.raises(IntentError, match=r"routes\[0\]\.hosts \['example\.com'\]: listeners serve \*\.example\.com, inside"):
        intent({"pool": "a", "hosts": ["example.com"]}, listeners=listeners)


@pytest.mark.parametrize(("profile", "checked"), [("lean", False), ("usage", False), ("headers", True), ("full", True)])
def test_only_who_streams_bodies_has_its_pickers_health_checked(profile, checked):
    clusters, _ = parts({"pool": "a", "profile": profile})
    assert ("health_checks" in clusters["picker/a"]) is checked


def test_a_pool_has_what_its_ways_need_and_no_more():
    clusters, manager = parts(NATIVE)
    assert list(clusters) == ["native/a", "native/a/keyed", "collector/a"]
    assert not any("ext_proc" in each["name"] for each in manager["http_filters"])
    clusters, manager = parts(
        {"pool": "a", "prefix": "/x", "profile": "full"}, {"pool": "a"}, NATIVE | {"hosts": ["n.example"]}
    )
    assert list(clusters) == ["pool/a", "native/a", "native/a/keyed", "picker/a", "collector/a"]
    names = [each["name"].removeprefix("envoy.filters.http.") for each in manager["http_filters"]]
    assert names == [
        "json_to_metadata/request",
        "set_filter_state/request",
        "ext_proc/a/lean",
        "ext_proc/a/full",
        "router",
    ]
    assert [each.get("disabled", False) for each in manager["http_filters"]] == [True] * 4 + [False]


@pytest.mark.parametrize("target", Target)
def test_what_nobody_reaches_is_said(target):
    pools = [{"name": name, "selector": {"app": name}, "picker": {"failureMode": "FailClose"}} for name in ("a", "b", "c")]
    routes = [{"pool": "a", "models": ["m", "n"]}, {"pool": "b", "models": ["n", "o"]}, {"pool": "a"}]
    warnings = generate(intent(*routes, pools=pools, profile="full", modelHeader="x-model"), target).warnings
    assert "pools[2] (c): no route leads to it" in warnings
    assert "routes[1].models 'n': routes[0] takes its requests" in warnings
    assert not any("'m'" in each or "'o'" in each or "(a)" in each for each in warnings)


def test_a_model_that_is_taken_for_one_host_only_is_reached():
    routes = [{"pool": "a", "models": ["m"], "hosts": ["x"]}, {"pool": "a", "models": ["m"], "hosts": ["x", "y"]}]
    assert [*unreached(intent(*routes))] == []


def test_no_pool_takes_the_name_of_the_body_routers_filter():
    name = "body-router"
    _, manager = parts(
        {"pool": name, "models": ["m"]}, pools=[POOL | {"name": name}], bodyRouter={"addresses": ["10.0.0.4:9004"]}
    )
    names = [each["name"] for each in manager["http_filters"]]
    assert len({*names}) == len(names)


def test_only_a_record_that_releases_says_so():
    _, manager = parts({"pool": "a", "prefix": "/x", "profile": "headers"}, {"pool": "a"})
    (record,) = [each["typed_config"]["record"] for each in manager["access_log"] if each["name"].endswith("fluentd")]
    assert record["releases"] == "%METADATA(ROUTE:shunter:releases)%"
    found = [route.get("metadata") for route in manager["route_config"]["virtual_hosts"][0]["routes"]]
    assert found == [{"filter_metadata": {"shunter": {"releases": "yes"}}}, None]


def test_listeners_with_the_same_hosts_have_the_same_routes_by_name():
    hosts = [["*"], ["a.example", "b.example"], ["*"]]
    listeners = [{"name": f"l{number}", "port": 80 + number, "hosts": each} for number, each in enumerate(hosts)]
    static = bootstrap(intent({"pool": "a"}, listeners=listeners))["static_resources"]
    managers = [each["filter_chains"][0]["filters"][0]["typed_config"] for each in static["listeners"]]
    assert [each["route_config"]["name"] for each in managers] == ["routes", "routes/a.example,b.example", "routes"]
    assert managers[0]["route_config"] == managers[2]["route_config"]


def calls(run):
    """Return how many functions are called, and generators resumed, to do something."""
    count = 0

    def seen(frame, event, argument):
        nonlocal count
        count += event in {"call", "c_call"}

    others = sys.getprofile()
    sys.setprofile(seen)
    try:
        run()
    finally:
        sys.setprofile(others)
    return count


@pytest.mark.parametrize("own", [lambda name: {"prefix": f"/{name}"}, lambda name: {"hosts": [name]}])
def test_twice_the_pools_and_routes_are_twice_the_work(own):
    """For a bootstrap: an intent itself compares each route with those before it."""

    def work(count):
        names = [f"n{number}" for number in range(count)]
        stated = [POOL | {"name": name} for name in names]
        wanted = intent(*[{"pool": name} | own(name) for name in names], pools=stated)
        return calls(lambda: bootstrap(wanted))

    few = work(10)
    assert work(40) - few == pytest.approx(3 * (work(20) - few), rel=0.1)
