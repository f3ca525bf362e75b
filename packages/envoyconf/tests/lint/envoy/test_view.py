"""What Envoy makes of overrides, however a configuration is written down: the rules see the same."""

import json
import re
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter.envoyconf.core.documents import Document, load_documents
from shunter.envoyconf.core.lint import RULES
from shunter.envoyconf.core.lint.envoy.view import view
from shunter.envoyconf.core.lint.examine import examine
from shunter.envoyconf.core.versions import Version

HERE = Path(__file__).parent
GOLDEN = HERE.parents[1] / "golden"
E02 = yaml.safe_load((HERE / "E02" / "bad.yaml").read_text())
E07 = yaml.safe_load((HERE / "E07" / "bad.yaml").read_text())
EXT_PROC = "envoy.filters.http.ext_proc"
PER_ROUTE = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute"
FILTER_CONFIG = "type.googleapis.com/envoy.config.route.v3.FilterConfig"


def codes(*resources, file="it.yaml"):
    documents = [document for each in resources for document in load_documents(json.dumps(each), file)]
    return [rule.code for rule, _ in examine(documents)]


def copy(resource):
    return json.loads(json.dumps(resource))


def manager_of(resource):
    return resource["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]


def camel(value):
    """Spell fields as protobuf's JSON does by default; names in maps stay."""
    if isinstance(value, list):
        return [camel(each) for each in value]
    if not isinstance(value, dict):
        return value
    maps = {"typed_per_filter_config", "typed_extension_protocol_options"}
    return {
        re.sub(r"_([a-z0-9])", lambda found: found[1].upper(), key): dict(zip(each, map(camel, each.values()), strict=True))
        if key in maps
        else camel(each)
        for key, each in value.items()
    }


def test_both_spellings_of_fields_are_read():
    assert codes(camel(E02)) == codes(E02) == ["E02"]


def test_messages_without_a_known_type_are_read():
    resource = copy(E02)
    filters = manager_of(resource)["http_filters"]
    config = filters[0]["typed_config"]
    type_url = config.pop("@type")
    struct = {"@type": "type.googleapis.com/xds.type.v3.TypedStruct", "type_url": type_url, "value": config}
    filters[0]["typed_config"] = struct
    assert codes(resource) == ["E02"]


def test_routes_and_clusters_of_a_control_plane_are_read_together():
    resource = copy(E02)
    manager = manager_of(resource)
    routes = {"@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration", **manager.pop("route_config")}
    manager["rds"] = {"route_config_name": "routes", "config_source": {"ads": {}}}
    types = {"listeners": "listener.v3.Listener", "clusters": "cluster.v3.Cluster"}
    responses = [
        {"resources": [{"@type": f"type.googleapis.com/envoy.config.{types[kind]}", **each} for each in resources]}
        for kind, resources in resource["static_resources"].items()
    ]
    assert codes(*responses, {"resources": [routes]}) == ["E02"]
    assert codes(*resource["static_resources"]["listeners"], *resource["static_resources"]["clusters"], routes) == ["E02"]


def dump(resource):
    static = resource["static_resources"]
    prefix = "type.googleapis.com/envoy.admin.v3."
    return {
        "configs": [
            {"@type": f"{prefix}BootstrapConfigDump", "bootstrap": resource},
            {"@type": f"{prefix}ClustersConfigDump", "static_clusters": [{"cluster": each} for each in static["clusters"]]},
            {
                "@type": f"{prefix}ListenersConfigDump",
                "dynamic_listeners": [{"active_state": {"listener": each}} for each in static["listeners"]],
            },
            {
                "@type": f"{prefix}RoutesConfigDump",
                "static_route_configs": [{"route_config": manager_of(resource)["route_config"]}],
            },
        ]
    }


def test_what_an_envoy_tells_of_itself_is_read_once():
    typed = copy(E02)
    for kind, resources in {"listener.v3.Listener": "listeners", "cluster.v3.Cluster": "clusters"}.items():
        for each in typed["static_resources"][resources]:
            each["@type"] = f"type.googleapis.com/envoy.config.{kind}"
    manager_of(typed)["route_config"]["@type"] = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
    assert codes(dump(typed)) == ["E02"]
    assert codes(dump(E02)) == ["E02"]
    partly = copy(dump(E02))
    (told,) = partly["configs"][3]["static_route_configs"]
    told["route_config"]["@type"] = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
    (envoy,) = view(load_documents(json.dumps(partly), "it.yaml"))
    assert all(route.manager for route in envoy.routes)


@pytest.mark.parametrize(
    ("source", "files", "expected"),
    [
        (None, [], ["E07"]),
        ({"ads": {}}, [], []),  # the cluster may come yet
        ({"path_config_source": {"path": "/etc/envoy/cds.yaml"}}, [], []),
        ({"path_config_source": {"path": "/etc/envoy/cds.yaml"}}, ["cds.yaml"], ["E07"]),
        ({"path_config_source": {"path": "/etc/envoy/cds.yaml"}}, ["lds.yaml"], []),
    ],
)
def test_a_cluster_is_missing_only_if_all_are_known(source, files, expected):
    resource = copy(E07)
    if source:
        resource["dynamic_resources"] = {"cds_config": source}
    cluster = {"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "other"}
    loose = [document for file in files for document in load_documents(json.dumps({"resources": [cluster]}), f"conf/{file}")]
    found = examine([*load_documents(json.dumps(resource), "envoy.yaml"), *loose])
    assert [rule.code for rule, _ in found] == expected


def asked(route=None, host=None, routing=None, weighted=None, *, disabled=False):
    """Return what the picker is asked on the route: the body mode of each question."""
    resource = copy(E02)
    manager = manager_of(resource)
    if disabled:
        manager["http_filters"][0]["disabled"] = True
    there = manager["route_config"]["virtual_hosts"][0]["routes"][0]
    entry = {"name": "pool", "weight": 1}
    del there["route"]["cluster"]
    there["route"]["weighted_clusters"] = {"clusters": [entry, {"name": "none", "weight": 0}]}
    places = {id(there): route, id(manager["route_config"]["virtual_hosts"][0]): host, id(manager["route_config"]): routing}
    places[id(entry)] = weighted
    for scope in (there, manager["route_config"]["virtual_hosts"][0], manager["route_config"], entry):
        if (said := places[id(scope)]) is not None:
            scope["typed_per_filter_config"] = {EXT_PROC: said}
    (envoy,) = view(load_documents(json.dumps(resource), "it.yaml"))
    ((branch,),) = [each.branches for each in envoy.routes]
    return [question.mode("request_body_mode") for question in branch.questions]


def override(mode):
    return {"@type": PER_ROUTE, "overrides": {"processing_mode": {"request_body_mode": mode}}}


OFF = {"@type": PER_ROUTE, "disabled": True}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, ["FULL_DUPLEX_STREAMED"]),
        ({"routing": override("BUFFERED")}, ["BUFFERED"]),
        ({"routing": override("BUFFERED"), "host": override("STREAMED")}, ["STREAMED"]),
        ({"host": override("STREAMED"), "route": override(1)}, ["STREAMED"]),
        ({"route": override("BUFFERED"), "weighted": override("NONE")}, ["NONE"]),
        ({"route": OFF}, []),
        ({"host": OFF, "route": override("BUFFERED")}, ["BUFFERED"]),
        ({"host": OFF, "weighted": {"@type": FILTER_CONFIG, "config": {}}}, []),
        ({"route": {"@type": FILTER_CONFIG, "disabled": True}}, []),
        ({"disabled": True}, []),
        ({"disabled": True, "route": {"@type": FILTER_CONFIG, "config": {}}}, ["FULL_DUPLEX_STREAMED"]),
        ({"disabled": True, "weighted": {"@type": FILTER_CONFIG, "config": override("BUFFERED")}}, ["BUFFERED"]),
        ({"disabled": True, "host": override("NONE"), "route": {"@type": FILTER_CONFIG, "disabled": True}}, []),
    ],
)
def test_the_most_specific_word_counts(said, expected):
    assert asked(**said) == expected


# What our own output is warned of: what the profile full is for, an unfinished filter of the profile usage, and a route for
# models that no other route knows, which somebody asked for.
ACCEPTED = {"W18", "W32", "W63"}


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.bootstrap.yaml")), ids=lambda path: path.name)
def test_there_is_nothing_wrong_with_what_we_generate(path):
    found = examine(load_documents(path.read_text(), path.name))
    assert {rule.code for rule, _ in found} <= ACCEPTED, [finding.message for _, finding in found]


def test_a_thousand_routes_are_examined_in_two_seconds():
    resource = yaml.safe_load((GOLDEN / "everything.bootstrap.yaml").read_text())
    host = manager_of(resource)["route_config"]["virtual_hosts"][0]
    host["routes"] = [{**each, "name": f"{each['name']}{number}"} for number in range(500) for each in host["routes"][:2]]
    documents = load_documents(json.dumps(resource), "it.json")
    begun_s = time.process_time()
    examine(documents)
    assert time.process_time() - begun_s < 10  # 0.5 s on a machine that does nothing else


def test_no_two_rules_share_a_code():
    assert len({rule.code for rule in RULES}) == len(RULES)


SEEDS = [yaml.safe_load(path.read_text()) for path in sorted(HERE.glob("*/bad*.yaml"))]
examples = st.integers(0, len(SEEDS) - 1).map(lambda number: copy(SEEDS[number]))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=4,
)


@st.composite
def mutilated(draw):
    """Draw an example, a few of whose values are others, or whole examples."""
    body = draw(examples)
    for _ in range(draw(st.integers(1, 4))):
        holder, step = body, draw(st.sampled_from(sorted(body)))
        while isinstance(child := holder[step], dict | list) and child and draw(st.integers(0, 9)):
            holder, step = child, draw(st.sampled_from(sorted(child) if isinstance(child, dict) else range(len(child))))
        holder[step] = draw(values | examples)
    return Document(body, "it.yaml", {(): 1})


@settings(deadline=None, max_examples=100)
@given(st.lists(mutilated(), min_size=1, max_size=2), st.sampled_from([Version(1, 36), Version(1, 40)]))
def test_whatever_is_examined_nothing_is_raised(documents, version):
    for rule, finding in examine(documents, version):
        assert rule.code
        assert finding.message
        assert finding.remedy
        assert finding.document.line(finding.path) == 1


PER_ROUTE_MUTATION = "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute"
MUTATION = "type.googleapis.com/envoy.extensions.filters.http.header_mutation.v3.HeaderMutation"
REMOVAL = {"request_mutations": [{"remove": "X-Gateway-Destination-Endpoint"}]}


@pytest.mark.parametrize(
    ("config", "per_route", "at", "is_safe"),
    [
        ({"mutations": REMOVAL}, None, 0, True),
        ({"mutations": REMOVAL}, None, 1, False),  # behind the picker's it removes the pick
        ({}, {"mutations": REMOVAL}, 0, True),
        ({}, {"mutations": {}}, 0, False),
    ],
)
def test_what_a_filter_before_the_picker_removes_no_client_can_send(config, per_route, at, is_safe):
    resource = yaml.safe_load((HERE / "E21" / "bad.yaml").read_text())
    manager = manager_of(resource)
    manager["http_filters"].insert(at, {"name": "clean", "typed_config": {"@type": MUTATION, **config}})
    if per_route is not None:
        (host,) = manager["route_config"]["virtual_hosts"]
        host["typed_per_filter_config"] = {"clean": {"@type": PER_ROUTE_MUTATION, **per_route}}
    assert codes(resource) == ([] if is_safe else ["E21"])


def test_a_script_that_names_the_header_is_believed():
    resource = yaml.safe_load((HERE / "E21" / "bad.yaml").read_text())
    code = {"inline_string": "function envoy_on_request(h) h:headers():remove('x-gateway-destination-endpoint') end"}
    lua = {"@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua", "default_source_code": code}
    manager_of(resource)["http_filters"].insert(0, {"name": "lua", "typed_config": lua})
    assert codes(resource) == []


def test_a_cluster_that_is_fetched_when_it_is_asked_for_is_not_missing():
    resource = yaml.safe_load((HERE / "E35" / "bad.yaml").read_text())
    filters = manager_of(resource)["http_filters"]
    on_demand = {"@type": "type.googleapis.com/envoy.extensions.filters.http.on_demand.v3.OnDemand", "odcds": {}}
    filters.insert(0, {"name": "on_demand", "typed_config": on_demand})
    assert codes(resource) == []


def test_the_admin_interface_of_a_running_envoy_is_seen():
    resource = yaml.safe_load((HERE / "W26" / "bad.yaml").read_text())
    assert codes(dump(resource)) == codes(resource) == ["W26"]


def test_what_no_route_uses_is_nobodys_harm():
    resource = copy(E02)
    manager = manager_of(resource)
    for route in manager["route_config"]["virtual_hosts"][0]["routes"]:
        route["typed_per_filter_config"] = {EXT_PROC: override("BUFFERED")}
    assert codes(resource) == []
    manager["route_config"]["virtual_hosts"][0]["routes"].append({"match": {"prefix": "/"}, "direct_response": {"status": 404}})
    assert codes(resource) == ["E02"]  # a filter asks before an answer of Envoy's own, too


def test_two_listeners_in_two_documents_are_two():
    listeners = [copy(E02["static_resources"]["listeners"][0]) for _ in range(2)]
    for number, listener in enumerate(listeners):
        listener["name"] = f"http{number}"
    assert codes(*listeners, *E02["static_resources"]["clusters"]) == ["E02", "E02"]


@pytest.mark.parametrize("code", ["E01", "W19"])
def test_what_is_said_of_pickers_is_not_said_of_others_that_are_asked_before(code):
    resource = yaml.safe_load((HERE / code / "bad.yaml").read_text())
    filters = manager_of(resource)["http_filters"]
    router = {**copy(filters[0]), "name": "body-router"}
    router["typed_config"].pop("metadata_options", None)
    filters.insert(0, router)
    if code == "E01":
        filters[1]["typed_config"] |= {"failure_mode_allow": False, "status_on_error": {"code": "ServiceUnavailable"}}
    else:
        clusters = resource["static_resources"]["clusters"]
        clusters.append({**copy(clusters[-1]), "name": "one"})
        clusters[-1]["load_assignment"]["endpoints"][0]["lb_endpoints"].pop()
        filters[1]["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"] = "one"
    assert codes(resource) == []


def test_sizes_are_told_to_the_byte():
    resource = yaml.safe_load((HERE / "W47" / "bad.yaml").read_text())
    resource["static_resources"]["listeners"][0].pop("per_connection_buffer_limit_bytes", None)
    ((_, finding),) = examine(load_documents(json.dumps(resource), "it.yaml"))
    assert finding.message.startswith("at most 1048576 bytes")
