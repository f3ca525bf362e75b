"""What a Kubernetes API answers becomes facts; what it does not answer, or in another shape, is no crash."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.stack.core.doctor import objects
from shunter.stack.core.doctor.facts import Condition

META = {"name": "a", "namespace": "llm", "labels": {"app": "a"}}


def items(*found):
    return json.dumps({"items": [*found]}).encode()


def pools(spec, **status):
    (pool,) = objects.decode(items({"metadata": META, "spec": spec, "status": status}), objects.PoolList).items
    return objects.pool_facts(pool)


def test_pools_of_both_versions_say_the_same():
    new = {
        "selector": {"matchLabels": {"app": "a"}},
        "targetPorts": [{"number": 8000}],
        "endpointPickerRef": {"name": "epp", "port": {"number": 9002}},
    }
    old = {"selector": {"app": "a"}, "targetPortNumber": 8000, "extensionRef": {"name": "epp", "portNumber": 9002}}
    assert pools(new) == pools(old)
    assert (pools(new).selector, pools(new).ports, pools(new).picker_port) == ({"app": "a"}, (8000,), 9002)


def test_what_gateways_say_of_a_pool_counts_and_what_old_definitions_make_up_does_not():
    condition = {"type": "Accepted", "status": "True", "reason": "Accepted", "message": "", "lastTransitionTime": "x"}
    parents = [{"parentRef": {"kind": kind, "name": "x"}, "conditions": [condition]} for kind in ("Gateway", "Status")]
    assert pools({"selector": {"app": "a"}}, parents=parents).conditions == (Condition("Accepted", "True", "Accepted"),)


@pytest.mark.parametrize(
    ("changes", "ready"),
    [({}, True), ({"deletionTimestamp": "2026-11-26T00:00:00Z"}, False)],
)
def test_a_pod_that_is_leaving_is_not_ready(changes, ready):
    pod = {
        "metadata": META | changes,
        "spec": {
            "containers": [{"name": "c", "ports": [{"containerPort": 8000}]}],
            "initContainers": [{"name": "s", "ports": [{"name": "http-scraper", "containerPort": 9091}]}],
        },
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    }
    (read,) = objects.decode(items(pod), objects.PodList).items
    facts = objects.pod_facts(read)
    assert (facts.ready, facts.ports) == (ready, {8000, 9091})


def test_a_service_has_those_behind_it_who_are_ready_in_its_slices():
    service = {"metadata": META | {"name": "epp"}, "spec": {"ports": [{"port": 9002}], "selector": {"app": "a"}}}
    endpoints = [{"conditions": {"ready": ready}} for ready in (True, False, None)]
    slices = [
        {"metadata": META | {"labels": {"kubernetes.io/service-name": name}}, "endpoints": endpoints} for name in ("epp", "x")
    ]
    services = objects.decode(items(service), objects.ServiceList).items
    found = objects.decode(items(*slices), objects.SliceList).items
    assert objects.service_facts(services, found)["llm/epp"].ready == 2
    assert objects.service_facts(services, None)["llm/epp"].ready == 1
    (pod,) = objects.decode(items({"metadata": META}), objects.PodList).items
    pool = pools({"selector": {"app": "b"}, "endpointPickerRef": {"name": "epp"}})
    assert objects.behind([pool], services, [pod]) == [pod]
    assert objects.behind([], services, [pod]) == []


@given(
    st.binary()
    | st.builds(
        lambda value: json.dumps(value).encode(),
        st.dictionaries(st.sampled_from(["items", "status"]), st.lists(st.dictionaries(st.text(), st.text()))),
    )
)
def test_whatever_is_answered_is_read_or_refused_with_words(body):
    for shape in (
        objects.PodList,
        objects.PoolList,
        objects.ServiceList,
        objects.SliceList,
        objects.StatusList,
        objects.Review,
    ):
        with contextlib.suppress(ValueError):
            assert isinstance(objects.decode(body, shape), shape)


@given(st.dictionaries(st.text(), st.text() | st.lists(st.text()) | st.none()))
def test_a_selector_of_any_shape_is_a_selector(selector):
    assert isinstance(pools({"selector": {"matchLabels": selector}}).selector, dict)
    assert isinstance(pools({"selector": selector}).selector, dict)
