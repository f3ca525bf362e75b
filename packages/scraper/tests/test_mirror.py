"""The objects of an API make the same cluster as files with them do; what cannot be used is complained of and left out."""

import json

import msgspec
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from shunter.scraper.core.assembly import assemble
from shunter.scraper.core.documents import read_documents
from shunter.scraper.core.manifests import Key
from shunter.scraper.core.mirror import Mirror
from shunter.scraper.core.pods import Pod
from shunter.scraper.core.reflection import Reflection
from shunter.scraper.core.resources import RESOURCES

GIE, LEGACY, LLMD = "inference.networking.k8s.io", "inference.networking.x-k8s.io", "llm-d.ai"


def meta(name, **rest):
    return {"name": name, "namespace": "llm", "creationTimestamp": "2026-11-26T00:00:00Z", **rest}


def pool(name, selector, *ports, **spec):
    ports = [{"number": port} for port in ports]
    spec = {"selector": {"matchLabels": selector}, "targetPorts": ports, "endpointPickerRef": {"name": "epp"}, **spec}
    return {"apiVersion": f"{GIE}/v1", "kind": "InferencePool", "metadata": meta(name), "spec": spec}


def pod(name, ip, labels, *, ready="True", annotations=None, **rest):
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta(name, labels=labels, annotations=annotations or {}, **rest),
        "spec": {"containers": []},
        "status": {"podIP": ip, "phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
    }


def belongs(kind, name, pool, group=LLMD, **spec):
    manifest = {"apiVersion": f"{group}/v1alpha2", "kind": kind, "metadata": meta(name)}
    return manifest | {"spec": {"poolRef": {"name": pool}, **spec}}


A = {"app": "a"}
OBJECTS = [
    pool("a", A, 8000, 8001),
    pool("b", {"app": "b"}, 8000),
    {
        "apiVersion": f"{LEGACY}/v1alpha2",
        "kind": "InferencePool",
        "metadata": meta("old"),
        "spec": {
            "selector": {"app": "old"},
            "targetPortNumber": 9000,
            "extensionRef": {"name": "x", "failureMode": "FailOpen"},
        },
    },
    pod("a-0", "10.0.0.1", A),
    pod("a-1", "fd00::1", A, annotations={"llm-d.ai/active-ports": "8001, x"}),
    pod("a-2", "10.0.0.3", A, ready="False"),
    pod("a-3", "10.0.0.4", A, deletionTimestamp="2026-11-26T00:00:00Z"),
    pod("b-0", "10.0.1.1", {"app": "b", "llm-d.ai/engine-type": "sglang"}),
    pod("old-0", "10.0.2.1", {"app": "old"}),
    pod("other", "10.0.3.1", {"app": "other"}),
    belongs("InferenceObjective", "urgent", "a", priority=10),
    belongs("InferenceObjective", "batch", "a", LEGACY, priority=-1),
    belongs(
        "InferenceModelRewrite",
        "canary",
        "a",
        rules=[{"matches": [{"model": {"value": "m"}}], "targets": [{"modelRewrite": "m2", "weight": 1}]}],
    ),
    belongs("InferenceModel", "m", "old", LEGACY, modelName="m", criticality="Critical", targetModels=[{"name": "m1"}]),
]


def mirror(objects):
    """What the API has of these objects, as reflections know it."""
    reflections = []
    for resource in RESOURCES:
        api = f"{resource.group}/{resource.version}".lstrip("/")
        plural = resource.plural.removesuffix("s")
        items = [each for each in objects if each["apiVersion"] == api and each["kind"].lower() == plural]
        reflection = Reflection(resource)
        reflection.begin()
        reflection.take_page(json.dumps({"metadata": {"resourceVersion": "1"}, "items": items}).encode())
        reflections.append(reflection)
    return Mirror(reflections)


def from_files(objects):
    return assemble(read_documents("objects.yaml", yaml.safe_dump_all(objects).encode()))


def as_sets(cluster):
    """A cluster without its order, which is that of the file or of names."""
    pools = cluster.pools
    members = frozenset(
        msgspec.json.encode(
            [each.name, each.host, each.port, each.rank, each.dialect.name, sorted(pools[i].name for i in each.pools)]
        )
        for each in cluster.members
        if each.pools
    )
    rest = (cluster.pools, cluster.objectives, cluster.rewrites, cluster.models)
    return members, *(frozenset(map(msgspec.json.encode, each)) for each in rest)


def test_an_api_and_a_file_with_the_same_objects_are_the_same_cluster():
    made = mirror(OBJECTS)
    assert as_sets(made.cluster()) == as_sets(from_files(OBJECTS))
    assert made.complaints == {}  # not even of `old`, whose pod is there


@given(st.lists(st.sampled_from(OBJECTS), unique_by=lambda each: each["metadata"]["name"]))
def test_so_they_are_whatever_part_of_them_is_there(objects):
    pools = {each["metadata"]["name"] for each in objects if each["kind"] == "InferencePool"}
    homed = [each for each in objects if each["spec"].get("poolRef", {}).get("name", next(iter(pools), None)) in pools]
    if pools:
        assert as_sets(mirror(objects).cluster()) == as_sets(from_files(homed))


def test_members_are_the_live_ports_of_pods_that_serve():
    cluster = mirror(OBJECTS).cluster()
    assert [(each.name, each.host, each.port, each.rank) for each in cluster.members] == [
        ("a-0-rank-0", "10.0.0.1", 8000, 0),
        ("a-0-rank-1", "10.0.0.1", 8001, 1),
        ("a-1-rank-1", "fd00::1", 8001, 1),
        ("b-0-rank-0", "10.0.1.1", 8000, 0),
        ("old-0-rank-0", "10.0.2.1", 9000, 0),
    ]


@pytest.mark.parametrize(
    ("text", "ports"),
    [("", []), ("8000", [8000]), (" 8001,8000 ", [8000, 8001]), ("9,²,-1,", []), ("8000," + "9" * 5000, [8000])],
)
def test_active_ports_are_read_loosely(text, ports):
    annotations = {"inference.networking.k8s.io/active-ports": text}
    cluster = mirror([pool("a", A, 8000, 8001), pod("p", "10.0.0.1", A, annotations=annotations)]).cluster()
    assert sorted(each.port for each in cluster.members) == ports


def test_the_newer_annotation_wins():
    annotations = {"inference.networking.k8s.io/active-ports": "8000", "llm-d.ai/active-ports": "8001"}
    cluster = mirror([pool("a", A, 8000, 8001), pod("p", "10.0.0.1", A, annotations=annotations)]).cluster()
    assert [each.port for each in cluster.members] == [8001]


def test_a_pod_of_two_pools_with_one_port_is_one_member():
    cluster = mirror([pool("a", A, 8000), pool("b", A, 8001, 8000), pod("p", "10.0.0.1", A)]).cluster()
    assert [(each.port, each.pools) for each in cluster.members] == [(8000, (0, 1)), (8001, (1,))]


@pytest.mark.parametrize(
    ("pods", "reason"),
    [
        ([], "SelectorMatchesNothing"),
        ([pod("p", "10.0.0.1", {"app": "b"})], "SelectorMatchesNothing"),
        ([pod("p", "10.0.0.1", A, ready="False")], "NoReadyPods"),
        ([pod("p", "10.0.0.1", A, annotations={"llm-d.ai/active-ports": "9"})], "NoLivePorts"),
        ([pod("p", "10.0.0.1", A), pod("q", "10.0.0.2", A, ready="False")], None),
    ],
)
def test_a_pool_that_nobody_can_be_sent_to_is_complained_of(pods, reason):
    made = mirror([pool("a", A, 8000), *pods])
    assert len(made.cluster().pools) == 1
    assert [(place, each.reason) for place, each in made.complaints.items()] == (
        [((f"inferencepools.{GIE}", Key("llm", "a")), reason)] if reason else []
    )


def test_pools_of_the_same_pods_and_ports_share_them_and_the_later_one_is_complained_of():
    made = mirror([pool("a", A, 8000, 8001), pool("b", A, 8001, 8000), pool("c", A, 8000), pod("p", "10.0.0.1", A)])
    assert [(each.port, each.pools) for each in made.cluster().members] == [(8000, (0, 1, 2)), (8001, (0, 1))]
    ((place, complaint),) = made.complaints.items()
    assert place == (f"inferencepools.{GIE}", Key("llm", "b"))
    assert complaint == ("DuplicatePool", "spec: has the same pods and ports as InferencePool a")


def test_what_refers_to_no_pool_waits_for_it():
    made = mirror([belongs("InferenceObjective", "urgent", "a", priority=10)])
    assert made.cluster().objectives == ()
    ((place, complaint),) = made.complaints.items()
    assert place == (f"inferenceobjectives.{LLMD}", Key("llm", "urgent"))
    assert complaint == ("PoolNotFound", "spec.poolRef.name: there is no InferencePool a in its namespace yet")


def test_what_refers_to_a_pool_of_another_cluster_is_told_so():
    imported = {"apiVersion": f"{LEGACY}/v1alpha1", "kind": "InferencePoolImport", "metadata": meta("a")}
    imported["status"] = {"controllers": [{"name": "x/y", "exportingClusters": [{"name": "west"}, {"name": "east"}]}]}
    made = mirror([imported, belongs("InferenceObjective", "urgent", "a", priority=10)])
    assert made.cluster().imports == (("llm", "a", ("east", "west")),)
    assert [each.message.partition("namespace")[2] for each in made.complaints.values()] == [
        ", only one that is imported from other clusters"
    ]
    assert from_files([imported]).imports == made.cluster().imports


def test_of_two_groups_the_newer_counts():
    twins = [belongs("InferenceObjective", "o", "a", group, priority=len(group)) for group in (LEGACY, LLMD)]
    made = mirror([pool("a", A, 1), pod("p", "10.0.0.1", A), *twins])
    assert [each.priority for each in made.cluster().objectives] == [len(LLMD)]
    ((place, complaint),) = made.complaints.items()
    assert place == (f"inferenceobjectives.{LEGACY}", Key("llm", "o"))
    assert complaint.reason == "NameInUse"
    assert complaint.message == f"metadata.name: left out, since inferenceobjectives.{LLMD} has one of this name, too"


def test_an_object_of_impossible_values_is_complained_of_and_the_rest_works():
    made = mirror([pool("a", A, 8000), pool("bad", A, 0), pod("p", "10.0.0.1", A)])
    assert len(made.cluster().members) == 1
    ((place, complaint),) = made.complaints.items()
    assert place == (f"inferencepools.{GIE}", Key("llm", "bad"))
    assert complaint.reason == "Invalid"
    assert "targetPorts" in complaint.message


def test_an_unknown_engine_is_taken_for_the_default_one():
    made = mirror([pool("a", A, 8000), pod("p", "10.0.0.1", {**A, "llm-d.ai/engine-type": "vlmm"})])
    assert [each.dialect.name for each in made.cluster().members] == ["vllm"]
    assert "vlmm is no engine" in made.complaints["pods", Key("llm", "p")].message


def test_the_members_of_a_pod_that_has_not_changed_are_made_once():
    made = mirror(OBJECTS)
    first = made.cluster().members
    assert all(one is other for one, other in zip(first, made.cluster().members, strict=True))


def test_no_pools_are_no_members_and_no_error():
    assert mirror([pod("p", "10.0.0.1", A)]).cluster().members == ()
    assert mirror([]).cluster().pools == ()


def test_a_pod_without_conditions_does_not_serve():
    assert not msgspec.json.decode(b'{"metadata": {"name": "a"}}', type=Pod).serves
