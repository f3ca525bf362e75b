"""Lists and watches of a resource add up to what the server has, whatever happens on the way."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.scraper.core.manifests import Key
from shunter.scraper.core.reflection import Reflection, VersionGoneError
from shunter.scraper.core.resources import RESOURCES
from shunter.scraper.errors import ApiError

PODS, POOLS = RESOURCES[:2]


def pod(name, version, ip="10.0.0.1", **meta):
    return {"metadata": {"name": name, "namespace": "n", "resourceVersion": str(version), **meta}, "status": {"podIP": ip}}


def page(*items, version="1", token=""):
    return json.dumps({"kind": "PodList", "metadata": {"resourceVersion": version, "continue": token}, "items": items}).encode()


def event(kind, item):
    return json.dumps({"type": kind, "object": item}).encode()


def listed(*items, **rest):
    reflection = Reflection(PODS)
    reflection.begin()
    reflection.take_page(page(*items, **rest))
    return reflection


def names(reflection):
    return {key.name: found.status.pod_ip for key, found in reflection.objects.items()}


def test_a_list_of_several_pages_counts_when_its_last_page_is_there():
    reflection = listed(pod("a", 1), version="1")
    reflection.begin()
    assert reflection.take_page(page(pod("b", 2), version="7", token="more")) == "more"
    assert (names(reflection), reflection.version) == ({"a": "10.0.0.1"}, "1")
    assert reflection.take_page(page(pod("c", 2), version="7")) == ""
    assert (set(names(reflection)), reflection.version) == ({"b", "c"}, "7")


def test_an_unfinished_list_leaves_nothing_behind():
    reflection = listed(pod("a", 1))
    reflection.begin()
    reflection.take_page(page(pod("b", 2), token="more"))
    reflection.begin()
    reflection.take_page(page(pod("a", 1), version="9"))
    assert set(names(reflection)) == {"a"}


def test_events_change_what_the_list_said():
    reflection = listed(pod("a", 1))
    assert reflection.take_line(event("ADDED", pod("b", 2)))
    assert reflection.take_line(event("MODIFIED", pod("a", 3, ip="10.0.0.9")))
    assert names(reflection) == {"a": "10.0.0.9", "b": "10.0.0.1"}
    assert reflection.take_line(event("DELETED", pod("b", 4)))
    assert (names(reflection), reflection.version) == ({"a": "10.0.0.9"}, "4")


def test_what_changes_nothing_of_interest_is_no_change():
    reflection = listed(pod("a", 1))
    assert not reflection.take_line(event("MODIFIED", pod("a", 2) | {"spec": {"nodeName": "n"}}))
    assert reflection.version == "2"


def test_a_bookmark_moves_the_version_and_nothing_else():
    reflection = listed(pod("a", 1))
    assert not reflection.take_line(event("BOOKMARK", {"metadata": {"resourceVersion": "50"}}))
    assert (reflection.version, set(names(reflection))) == ("50", {"a"})


def test_gone_is_told_apart_from_other_errors():
    reflection = listed(pod("a", 1))
    with pytest.raises(VersionGoneError, match="410 too old"):
        reflection.take_line(event("ERROR", {"code": 410, "message": "too old"}))
    with pytest.raises(ApiError, match="500 oops") as failure:
        reflection.take_line(event("ERROR", {"code": 500, "message": "oops"}))
    assert not isinstance(failure.value, VersionGoneError)
    assert set(names(reflection)) == {"a"}


def test_an_object_that_does_not_fit_is_refused_alone():
    reflection = Reflection(POOLS)
    reflection.begin()
    good = {
        "metadata": {"name": "a", "namespace": "n"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "targetPorts": [{"number": 1}]},
    }
    bad = json.loads(json.dumps(good).replace('"number": 1', '"number": 99999').replace('"name": "a"', '"name": "b"'))
    reflection.take_page(page(good, bad))
    assert set(reflection.objects) == {Key("n", "a")}
    assert "$.spec.targetPorts" in reflection.refused[Key("n", "b")].reason
    assert reflection.take_line(event("MODIFIED", bad | {"spec": good["spec"]}))
    assert set(reflection.objects) == {Key("n", "a"), Key("n", "b")}
    assert not reflection.refused


def test_a_newer_server_may_send_more_fields():
    reflection = listed(pod("a", 1, shoeSize=43))
    assert set(names(reflection)) == {"a"}


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"metadata": 1}', b'{"metadata": {}, "items": [1]}', b"\xff" * 9])
def test_what_is_no_list_is_an_error(body):
    with pytest.raises(ApiError, match="a list of pods cannot be read"):
        Reflection(PODS).take_page(body)


@given(st.binary(max_size=300))
def test_no_bytes_do_worse_than_an_error(body):
    reflection = listed(pod("a", 1))
    for take in (reflection.take_page, reflection.take_line):
        try:
            take(body)
        except ApiError:
            assert set(names(reflection)) == {"a"}


class Server:
    """An API server in a dictionary: it remembers its last few changes only."""

    MEMORY = 4

    def __init__(self):
        self.version, self.pods, self.log = 1, {}, []

    def change(self, name, ip):
        self.version += 1
        kind = "DELETED" if ip is None else "MODIFIED" if name in self.pods else "ADDED"
        if ip is None:
            if name not in self.pods:
                return
            item = pod(name, self.version, self.pods.pop(name))
        else:
            self.pods[name] = ip
            item = pod(name, self.version, ip)
        self.log.append((self.version, event(kind, item)))

    def watch(self, since):
        forgotten = self.log[: -self.MEMORY]
        if forgotten and since < forgotten[-1][0]:
            return [event("ERROR", {"code": 410, "message": "gone"})]
        return [line for version, line in self.log if version > since]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("change"), st.sampled_from("abcd"), st.sampled_from([None, "10.0.0.1", "10.0.0.2"])),
        st.tuples(st.just("watch"), st.integers(0, 3)),
        st.tuples(st.just("page")),
    ),
    max_size=40,
)


@given(STEPS)
def test_whatever_happens_the_reflection_ends_as_the_server(steps):
    server, reflection = Server(), Reflection(PODS)

    def relist():
        reflection.begin()
        reflection.take_page(page(*(pod(name, 1, ip) for name, ip in server.pods.items()), version=str(server.version)))

    def watch(most=None):
        if not reflection.version:
            relist()
        try:
            for line in server.watch(int(reflection.version))[:most]:
                reflection.take_line(line)
        except VersionGoneError:
            relist()

    for step in steps:
        match step:
            case ("change", name, ip):
                server.change(name, ip)
            case ("watch", most):
                watch(most)
            case _:
                reflection.begin()
                reflection.take_page(page(pod("z", 1), token="never asked for"))
    watch()
    assert names(reflection) == server.pods


def test_the_shapes_hold_no_more_than_is_read():
    """Thousands of pods are kept: what a pod has beyond its address and labels must not be."""
    reflection = listed(pod("a", 1) | {"spec": {"containers": [{"name": "x" * 10_000}]}})
    assert len(msgspec.json.encode(next(iter(reflection.objects.values())))) < 500
