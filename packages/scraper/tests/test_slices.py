"""A Service is a pool of those pods that its EndpointSlices say are ready, each once."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.scraper.core.manifests import Key
from shunter.scraper.core.mirror import Mirror
from shunter.scraper.core.reflection import Reflection
from shunter.scraper.core.resources import RESOURCES_OF_SERVICES
from shunter.scraper.core.slices import SERVICE_LABEL, Service, Slice, members_of_service, parse_service


def slice_of(*endpoints, service="vllm", name="vllm-1", ports=((None, 8000),), labels=()):
    return msgspec.convert(
        {
            "metadata": {"name": name, "namespace": "llm", "labels": {SERVICE_LABEL: service, **dict(labels)}},
            "addressType": "IPv4",
            "endpoints": [*endpoints],
            "ports": [{"name": port_name, "port": port, "protocol": "TCP"} for port_name, port in ports],
        },
        Slice,
    )


def at(address, pod="", **conditions):
    ref = {"targetRef": {"kind": "Pod", "name": pod, "namespace": "llm"}} if pod else {}
    return {"addresses": [address], "conditions": conditions, **ref}


def members(*slices, service="vllm"):
    wanted = parse_service(service)
    assert wanted
    return members_of_service(wanted, "llm", 0, slices)


def places(*slices, service="vllm"):
    return [(each.name, each.host, each.port) for each in members(*slices, service=service)[1]]


@pytest.mark.parametrize(
    ("conditions", "serves"),
    [
        ({}, True),
        ({"ready": None}, True),
        ({"ready": True, "serving": True, "terminating": False}, True),
        ({"ready": False}, False),
        ({"ready": False, "serving": True, "terminating": True}, False),
        ({"ready": True, "terminating": True}, False),  # publishNotReadyAddresses
        ({"ready": True, "serving": False}, False),
    ],
)
def test_who_is_not_ready_or_is_leaving_gets_nothing(conditions, serves):
    assert places(slice_of(at("10.0.0.1", "a", **conditions))) == ([("a-rank-0", "10.0.0.1", 8000)] if serves else [])


def test_null_conditions_are_those_of_somebody_ready():
    assert places(slice_of({"addresses": ["10.0.0.1"], "conditions": None})) == [("10.0.0.1", "10.0.0.1", 8000)]


@pytest.mark.parametrize("order", [1, -1])
def test_a_pod_of_both_address_families_is_one_endpoint_at_its_ipv4_address(order):
    both = [slice_of(at("fd00::1", "a"), at("fd00::2", "b"), name="six"), slice_of(at("10.0.0.1", "a"), name="four")]
    assert places(*both[::order]) == [("a-rank-0", "10.0.0.1", 8000), ("b-rank-0", "fd00::2", 8000)]


def test_slices_of_one_service_are_one_pool_and_whoever_is_in_two_is_there_once():
    pool, found, complaint = members(
        slice_of(at("10.0.0.1", "a"), at("10.0.0.2", "b"), name="x"),
        slice_of(at("10.0.0.2", "b"), at("10.0.0.3", "c"), name="y"),
        slice_of(at("10.0.0.9", "z"), service="other"),
    )
    assert [each.host for each in found] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert (pool.name, pool.namespace, pool.target_ports, complaint) == ("vllm", "llm", (8000,), None)


def test_whoever_is_ready_in_one_of_two_slices_is_ready():
    assert len(places(slice_of(at("10.0.0.1", "a", ready=False), name="x"), slice_of(at("10.0.0.1", "a"), name="y"))) == 1


def test_a_named_port_may_have_different_numbers():
    both = slice_of(at("10.0.0.1"), ports=[("http", 8000)]), slice_of(at("10.0.0.2"), name="y", ports=[("http", 9000)])
    assert [port for _, _, port in places(*both, service="vllm:http")] == [8000, 9000]
    assert members(*both, service="vllm:http")[0].target_ports == (8000, 9000)


@pytest.mark.parametrize(
    ("service", "ports", "words"),
    [
        ("vllm", [("http", 8000), ("metrics", 9090)], "which port? its pods have http 8000, metrics 9090: write NAME:PORT"),
        ("vllm:80", [("http", 8000)], "port 80 is not there; its pods have http 8000: write NAME:PORT"),
        ("vllm:web", [(None, 8000)], "port web is not there; its pods have 8000: write NAME:PORT"),
        ("vllm", [], "which port? its EndpointSlices name none: write NAME:NUMBER"),
    ],
)
def test_a_port_that_is_missing_is_complained_of_with_those_there_are(service, ports, words):
    _, found, complaint = members(slice_of(at("10.0.0.1"), ports=ports), service=service)
    assert not found
    assert complaint == ("PortMissing", words)


def test_a_number_serves_where_no_port_is_named():
    assert places(slice_of(at("10.0.0.1"), ports=[]), service="vllm:8000") == [("10.0.0.1", "10.0.0.1", 8000)]


def test_a_service_without_slices_or_without_anybody_ready_is_a_pool_that_is_complained_of():
    for slices, reason in (((), "NoEndpointSlices"), ((slice_of(at("10.0.0.1", ready=False)),), "NoReadyEndpoints")):
        pool, found, complaint = members(*slices)
        assert (pool.name, found, complaint.reason) == ("vllm", (), reason)


def test_the_engine_is_that_of_the_services_label():
    labelled = slice_of(at("10.0.0.1"), labels={"llm-d.ai/engine-type": "sglang"}.items())
    assert members(labelled)[1][0].dialect.name == "sglang"


def test_an_unknown_engine_is_taken_for_the_default_one_and_complained_of():
    labelled = slice_of(at("10.0.0.1"), labels={"llm-d.ai/engine-type": "sgland"}.items())
    _, (only,), complaint = members(labelled)
    assert (only.dialect.name, complaint.reason) == ("vllm", "UnknownEngine")
    assert complaint.message == "metadata.labels[llm-d.ai/engine-type]: sgland is no engine; taken for vllm"


@pytest.mark.parametrize(
    ("text", "service"),
    [
        ("vllm", Service("vllm")),
        ("vllm-0:http", Service("vllm-0", "http")),
        ("vllm:8000", Service("vllm", 8000)),
        *((text, None) for text in ("", ":80", "vllm:", "vllm:0", "vllm:65536", "VLLM", "-a", "a b", "a/b", "é", "v" * 64)),
    ],
)
def test_a_service_is_named_with_its_port(text, service):
    assert parse_service(text) == service


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda some: st.lists(some) | st.dictionaries(st.text(), some)
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("endpoints", "ports", "addressType", "spec"), JSON)))
def test_whatever_stands_in_a_slice_it_is_read_or_refused(parts):
    item = {"metadata": {"name": "x", "namespace": "llm", "labels": {SERVICE_LABEL: "vllm"}}} | parts
    reflections = [Reflection(resource) for resource in RESOURCES_OF_SERVICES]
    reflections[0].begin()
    reflections[0].take_page(json.dumps({"metadata": {"resourceVersion": "1"}, "items": [item]}).encode())
    mirror = Mirror(reflections, [("llm", Service("vllm"))])
    assert [each.name for each in mirror.cluster().pools] == ["vllm"]
    assert ("services", Key("llm", "vllm")) in mirror.complaints


def test_objectives_belong_to_services_as_to_pools():
    reflections = [Reflection(resource) for resource in RESOURCES_OF_SERVICES]
    objective = {"metadata": {"name": "o", "namespace": "llm"}, "spec": {"poolRef": {"name": "vllm"}, "priority": 3}}
    for reflection in reflections:
        items = {"EndpointSlice": [msgspec.to_builtins(slice_of(at("10.0.0.1", "a")))], "InferenceObjective": [objective]}
        reflection.begin()
        wanted = items.get(reflection.resource.kind, []) if reflection.resource.group != "inference.networking.x-k8s.io" else []
        reflection.take_page(json.dumps({"metadata": {"resourceVersion": "1"}, "items": wanted}).encode())
    mirror = Mirror(reflections, [("llm", Service("vllm"))])
    cluster = mirror.cluster()
    assert ([each.pools for each in cluster.members], [each.priority for each in cluster.objectives]) == ([(0,)], [3])
    assert not mirror.complaints
