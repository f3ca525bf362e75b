"""What of an intent becomes which resource, and that a change touches no other."""

import json

import pytest
from envoy.config.endpoint.v3 import endpoint_pb2
from envoy.service.discovery.v3 import discovery_pb2
from hypothesis import given
from hypothesis import strategies as st

from shunter.envoyconf import IntentError, load_intent
from shunter.envoyconf.core.envoy.dynamic import divide
from shunter.envoyconf.core.envoy.remote import from_control_plane, remote_bootstrap
from shunter.envoyconf.core.output import Settings
from shunter.envoyconf.core.schema import envoy_schema, problems
from shunter.envoyconf.core.xds.channel import Response
from shunter.envoyconf.core.xds.encoding import encode_state
from shunter.envoyconf.core.xds.kinds import Kind
from shunter.envoyconf.core.xds.members import Member, assignment, assignment_item
from shunter.envoyconf.core.xds.report import Held, Report, Seen, render_metrics
from shunter.envoyconf.core.xds.state import make_item
from shunter.envoyconf.core.xds.stream import Form
from shunter.envoyconf.core.xds.wire import Node, Wire, WireError

SCHEMA = envoy_schema()


def intent(**fields):
    pool = {"name": "llama", "endpoints": ["10.0.0.1:80"], "picker": {"addresses": ["10.0.0.9:9002"]}} | fields.pop("pool", {})
    return load_intent(json.dumps({"pools": [pool]} | fields))


def state(**fields):
    return encode_state(divide(intent(**fields), Settings(), from_control_plane).resources, SCHEMA)


@pytest.mark.parametrize(
    ("change", "touched"),
    [
        ({"pool": {"endpoints": ["10.0.0.1:80", "10.0.0.2:80"]}}, {Kind.ENDPOINTS}),
        ({"pool": {"picker": {"addresses": ["10.0.0.8:9002"]}}}, {Kind.ENDPOINTS}),
        ({"pool": {"picker": {"addresses": ["unix:/run/p.0", "unix:/run/p.1"]}}}, {Kind.ENDPOINTS}),
        ({"routes": [{"pool": "llama", "prefix": "/v1"}]}, {Kind.ROUTES}),
        ({"limits": {"retries": 5}}, {Kind.ROUTES}),
        ({"limits": {"connectTimeoutSeconds": 5}}, {Kind.CLUSTER}),
        ({"observability": {"accessLog": "none"}}, {Kind.LISTENER}),
    ],
)
def test_a_change_touches_as_little_as_it_can(change, touched):
    before, after = state(), state(**change)
    assert {kind for kind in Kind if before.version(kind) != after.version(kind)} == touched


def test_names_stay_with_dns_unless_the_endpoints_are_known():
    named = intent(pool={"endpoints": ["vllm.llm.svc:8000"]})
    plain = divide(named, Settings(), from_control_plane).resources
    assert plain[Kind.CLUSTER]["pool/llama"]["type"] == "STRICT_DNS"
    known = divide(named, Settings(), from_control_plane, {"llama": [Member("10.0.0.7", 8000)]}).resources
    assert known[Kind.CLUSTER]["pool/llama"]["type"] == "EDS"
    assert known[Kind.ENDPOINTS]["pool/llama"] == assignment("pool/llama", [Member("10.0.0.7", 8000)])
    for kind, resources in known.items():
        for resource in resources.values():
            assert problems(SCHEMA, resource, kind.message) == ()


def test_the_clusters_of_a_pool_share_its_endpoints():
    routes = [{"pool": "llama", "prefix": "/native", "profile": "native"}, {"pool": "llama"}]
    clusters = divide(intent(routes=routes), Settings(), from_control_plane).resources[Kind.CLUSTER]
    used = {name: each["eds_cluster_config"]["service_name"] for name, each in clusters.items() if name != "picker/llama"}
    assert used == dict.fromkeys(("pool/llama", "native/llama", "native/llama/keyed"), "pool/llama")


def test_the_bootstrap_is_one_that_envoy_reads():
    tls = {"caFile": "/ca.pem", "certFile": "/envoy.pem", "keyFile": "/envoy.key", "serverName": "control.example.com"}
    plane = {"addresses": ["control.example.com:18000"], "tls": tls, "cluster": "edge"}
    resource = remote_bootstrap(intent(controlPlane=plane), Settings())
    assert problems(SCHEMA, resource, "envoy.config.bootstrap.v3.Bootstrap") == ()
    assert [each["name"] for each in resource["static_resources"]["clusters"]] == ["control-plane"]


def test_collectors_are_there_from_the_start():
    picker = {"addresses": ["10.0.0.9:9002"], "collector": "10.0.0.9:24224"}
    told = intent(pool={"picker": picker})
    static = remote_bootstrap(told, Settings())["static_resources"]["clusters"]
    assert [each["name"] for each in static] == ["control-plane", "collector/llama"]
    assert "collector/llama" not in divide(told, Settings(), from_control_plane).resources[Kind.CLUSTER]


def test_a_control_plane_is_named_by_host_and_port():
    with pytest.raises(IntentError, match=r"controlPlane.addresses\[0\] 'nowhere' must be host:port"):
        intent(controlPlane={"addresses": ["nowhere"]})


weights = st.integers(1, 128)
servers = st.builds(Member, st.ip_addresses().map(str), st.integers(1, 65535), weights)
sockets = st.builds(Member, st.text(max_size=9).map("/{}".format), st.just(0), weights)
members = st.lists(servers | sockets, unique=True, max_size=20)


@given(members)
def test_endpoints_are_the_same_as_json_and_as_bytes(members):
    expected = SCHEMA.encode(assignment("pool/a", members), Kind.ENDPOINTS.message).SerializeToString(deterministic=True)
    assert assignment_item("pool/a", members, SCHEMA) == make_item("pool/a", expected)


names = st.lists(st.text(min_size=1, max_size=8), max_size=4, unique=True)


errors = st.none() | st.text("aé→ \n", max_size=50)


@given(names, names, st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3), errors)
def test_a_request_is_what_was_written(subscribed, dropped, held, error):
    message = SCHEMA.message("envoy.service.discovery.v3.DeltaDiscoveryRequest")(
        type_url=Kind.CLUSTER.url,
        resource_names_subscribe=subscribed,
        resource_names_unsubscribe=dropped,
        initial_resource_versions=held,
        response_nonce="7",
    )
    message.node.id = "envoy-1"
    message.node.user_agent_build_version.version.major_number = 1
    if error is not None:
        message.error_detail.message = error
        message.error_detail.code = 13
    request, node = Wire(SCHEMA, Form.DELTA).decode(message.SerializeToString())
    assert (request.kind, request.nonce, request.error) == (Kind.CLUSTER, "7", error)
    assert (request.names, request.unwanted, request.held) == (tuple(subscribed), tuple(dropped), held)
    assert (node.id, node.version) == ("envoy-1", "1.0.0")


@given(st.binary(max_size=200), st.sampled_from(Form), st.none() | st.sampled_from(Kind))
def test_foreign_bytes_are_a_request_or_an_error_of_ours(data, form, kind):
    try:
        request, _ = Wire(SCHEMA, form).decode(data, kind)
    except WireError:
        return
    assert request is None or request.kind in Kind


def test_a_client_cannot_write_lines_of_its_own():
    message = SCHEMA.message("envoy.service.discovery.v3.DiscoveryRequest")(type_url=Kind.CLUSTER.url)
    message.node.id = message.version_info = "edge\nall is well"
    message.error_detail.message = "bad\n\x1b[2Jall is well"
    request, node = Wire(SCHEMA, Form.STATE_OF_THE_WORLD).decode(message.SerializeToString())
    assert node.id == request.version == "edge?all is well"
    assert request.error == "bad\n?[2Jall is well"  # lines of it are indented


def test_several_streams_of_a_kind_on_one_connection_are_one_sample():
    streams = [
        Seen(node=Node("edge"), peer="ipv4:10.0.0.1:1", form="delta", connected=True, silent_s=0.0, kinds={"EDS": held})
        for held in (Held("1", current=True), Held("", current=False), Held("1", current=True))
    ]
    text = render_metrics(Report(clients=tuple(streams)))
    samples = [line for line in text.splitlines() if line.startswith("shunter_xds_client_current")]
    assert samples == ['shunter_xds_client_current{node="edge",peer="ipv4:10.0.0.1:1",kind="EDS"} 0']


def test_requests_of_a_kind_that_is_not_served_are_none():
    message = SCHEMA.message("envoy.service.discovery.v3.DiscoveryRequest")
    other = "type.googleapis.com/envoy.service.runtime.v3.Runtime"
    for url, kind in [(other, None), (Kind.CLUSTER.url, Kind.LISTENER), ("", None)]:
        assert Wire(SCHEMA, Form.STATE_OF_THE_WORLD).decode(message(type_url=url).SerializeToString(), kind)[0] is None


def test_responses_are_read_by_another_implementation():
    response = Response(kind=Kind.ENDPOINTS, items=(make_item("a", b"\x0a\x01a"),), version="v", removed=("b",), nonce="n")
    delta = discovery_pb2.DeltaDiscoveryResponse.FromString(Wire(SCHEMA, Form.DELTA).encode(response))
    assert endpoint_pb2.ClusterLoadAssignment.FromString(delta.resources[0].resource.value).cluster_name == "a"
    assert (delta.nonce, [*delta.removed_resources], delta.resources[0].version) == ("n", ["b"], response.items[0].version)
    whole = discovery_pb2.DiscoveryResponse.FromString(Wire(SCHEMA, Form.STATE_OF_THE_WORLD).encode(response))
    assert (whole.version_info, whole.resources[0].type_url) == ("v", Kind.ENDPOINTS.url)


def test_a_control_plane_by_name_is_met_where_it_listens():
    """On localhost, say, that is IPv4's; Envoy by itself takes an IPv6 address if there is one."""
    wanted = intent(controlPlane={"addresses": ["localhost:18000"]})
    plane, *_ = remote_bootstrap(wanted, Settings())["static_resources"]["clusters"]
    assert (plane["type"], plane["dns_lookup_family"]) == ("STRICT_DNS", "V4_PREFERRED")
