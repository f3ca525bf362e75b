"""An Envoy's configuration comes back as the intent that it could have been generated from; what is lost is told."""

import contextlib
import json
from pathlib import Path

import aiohttp
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from shunter.envoyconf import IntentError, bootstrap, load_intent, render
from shunter.envoyconf.cli import main
from shunter.envoyconf.core.documents import Document, load_documents
from shunter.envoyconf.core.importing import import_envoy
from shunter.envoyconf.core.intent import Profile
from shunter.envoyconf.core.reading import read_intent
from shunter.envoyconf.testing import running_envoy

POOLS = """\
pools:
- name: llama
  endpoints: ["10.0.0.1:8000", "[fd00::7]:8000", "vllm.llm.svc:8000"]
  picker:
    addresses: ["127.0.0.1:9002", "127.0.0.1:9012"]
    collector: 127.0.0.1:9100
    failureMode: FailClose
    tls: {caFile: /ca.pem, serverName: epp.local}
- name: qwen
  endpoints: ["10.0.0.2:8000"]
  http2: true
  picker: {addresses: ["127.0.0.1:9003"], collector: "127.0.0.1:9101", failureMode: FailClose}
"""
REST = """\
listeners: [{name: http, address: 0.0.0.0, port: 80}]
routes:
- {pool: qwen, models: [qwen, qwen-2], prefix: /v1}
- {pools: [{name: llama, weight: 9}, {name: qwen, weight: 1}], hosts: [a.example.com]}
- {pool: llama}
limits: {retries: 3, bodyBytes: 2097152, idleTimeoutSeconds: 77, connectTimeoutSeconds: 0.5}
admin: {port: 9901}
"""


def imported(text):
    return import_envoy(load_documents(text, "envoy.yaml"))


def generated(text):
    return render(bootstrap(load_intent(text)))


@pytest.mark.parametrize("profile", ["lean", "usage", "strict", "headers", "full"])
def test_what_was_generated_comes_back(profile):
    intent = load_intent(f"{POOLS}{REST}profile: {profile}\n")
    back = read_intent(Document(imported(render(bootstrap(intent))).plain, "", {(): 1}))
    assert sorted(back.pools, key=lambda pool: pool.name) == list(intent.pools)
    assert back.profile is intent.profile
    assert (back.listeners, back.admin, back.observability) == (intent.listeners, intent.admin, intent.observability)
    for limit in ("retries", "body_bytes", "idle_timeout_seconds", "connect_timeout_seconds"):
        assert getattr(back.limits, limit) == getattr(intent.limits, limit)
    # What every host is served, each host that is named is served, too.
    assert {*intent.routes} <= {*back.routes}


def test_an_import_of_an_import_is_the_same():
    once = imported(generated(POOLS + REST)).plain
    assert imported(render(bootstrap(read_intent(Document(once, "", {(): 1}))))).plain == once


@pytest.mark.parametrize(
    ("before", "after", "note"),
    [
        ("timeout: 0s", "timeout: 60s", "the route's timeout is left out"),
        ("prefix: /\n", "safe_regex: {regex: .*}\n", "is left out"),
    ],
)
def test_what_is_lost_is_told_with_its_line(before, after, note):
    text = generated(POOLS + REST)
    assert before in text
    notes = imported(text.replace(before, after)).notes
    assert any(note in each for each in notes)
    assert all(each.startswith("envoy.yaml:") and each.split(":")[1].isdigit() for each in notes)


def test_what_a_filter_does_that_an_intent_has_no_word_for_is_told():
    config = bootstrap(load_intent(POOLS + REST))
    manager = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    lua = {"@type": "type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua"}
    manager["http_filters"].insert(0, {"name": "mine", "typed_config": lua})
    assert any("the filter mine is left out" in note for note in imported(json.dumps(config)).notes)


def edited(edit):
    """Import what was generated, changed in one place: in the manager, or in the host for all and its routes."""
    config = bootstrap(load_intent(POOLS + REST))
    listener = config["static_resources"]["listeners"][0]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    hosts = manager["route_config"]["virtual_hosts"]
    edit(config=config, listener=listener, manager=manager, host=hosts[-1], routes=hosts[-1]["routes"])
    return imported(json.dumps(config))


QWEN = {"route": {"cluster": "pool/qwen", "timeout": "0s"}}
QWEN_ROUTE = {"match": {"path_separated_prefix": "/x"}, **QWEN}


@pytest.mark.parametrize(
    ("match", "what"),
    [
        ({"headers": [{"name": "x-canary", "string_match": {"exact": "1"}}]}, "the header x-canary"),
        ({"headers": [{"name": "x-model", "string_match": {"exact": "a"}, "invert_match": True}]}, "the header x-model"),
        ({"headers": [{"name": "x-model", "string_match": {"prefix": "a"}}]}, "the header x-model"),
        ({"query_parameters": [{"name": "v", "string_match": {"exact": "1"}}]}, "query_parameters"),
        ({"runtime_fraction": {"default_value": {"numerator": 10}}}, "runtime_fraction"),
        ({"caseSensitive": False}, "case_sensitive"),
        ({"dynamic_metadata": [{"filter": "a", "path": [{"key": "tier"}], "value": {"present_match": True}}]}, "metadata tier"),
    ],
)
def test_a_route_by_what_an_intent_cannot_tell_by_takes_no_other_requests(match, what):
    before = edited(lambda **_: None)
    after = edited(lambda routes, **_: routes.insert(0, {"match": {"prefix": "/", **match}, **QWEN}))
    assert after.plain["routes"] == before.plain["routes"]
    assert [note for note in after.notes if f"a route by {what} is left out" in note]


@pytest.mark.parametrize(
    ("answer", "is_told"),
    [({"direct_response": {"status": 403}}, True), ({"redirect": {"https_redirect": True}}, True), (QWEN, False)],
)
def test_what_envoy_answers_itself_is_no_pool(answer, is_told):
    back = edited(lambda routes, **_: routes.insert(0, {"match": {"prefix": "/admin"}, **answer}))
    assert {pool["name"] for pool in back.plain["pools"]} == {"llama", "qwen"}
    assert any("a route that Envoy answers itself is left out" in note for note in back.notes) is is_told


def test_a_listener_that_redirects_does_not_come_to_serve_pools():
    def edit(config, listener, **_):
        other = json.loads(json.dumps(listener))
        other |= {"name": "plain", "address": {"socket_address": {"address": "0.0.0.0", "port_value": 8081}}}
        route = {"match": {"prefix": "/"}, "redirect": {"https_redirect": True}}
        manager = other["filter_chains"][0]["filters"][0]["typed_config"]
        manager["route_config"] = {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]}
        config["static_resources"]["listeners"].append(other)

    back = edited(edit)
    assert [listener["name"] for listener in back.plain["listeners"]] == ["http"]
    assert any("a listener from which no route leads to model servers is left out" in note for note in back.notes)


@pytest.mark.parametrize(
    ("before", "after", "field", "value"),
    [
        ("idle_timeout: 77s", "idle_timeout: 86400s", "idleTimeoutSeconds", 3600),
        ("request_body_buffer_limit: 2097152", "request_body_buffer_limit: 32768", "bodyBytes", 1048576),
        ("num_retries: 3", "num_retries: 30", "retries", 10),
    ],
)
def test_a_limit_that_no_intent_may_have_becomes_the_nearest(before, after, field, value):
    text = generated(POOLS + REST)
    assert before in text
    back = imported(text.replace(before, after))
    assert back.plain["limits"][field] == value
    assert any(f"limits.{field} is {value}, the nearest to {after.split()[1].rstrip('s')} that" in note for note in back.notes)
    read_intent(Document(back.plain, "", {(): 1}))


def test_envoys_own_pages_are_no_pool():
    plain = bootstrap(load_intent(POOLS + REST))
    resources = plain["static_resources"]
    place = {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 9901}}}}
    assignment = {"cluster_name": "stats", "endpoints": [{"lb_endpoints": [place]}]}
    resources["clusters"].append({"name": "stats", "type": "STATIC", "load_assignment": assignment})
    pages = json.loads(json.dumps(resources["listeners"][0]))
    pages["name"], pages["address"]["socket_address"]["port_value"] = "pages", 19001
    manager = pages["filter_chains"][0]["filters"][0]["typed_config"]
    route = {"match": {"prefix": "/stats/prometheus"}, "route": {"cluster": "stats"}}
    manager["route_config"] = {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]}
    resources["listeners"].append(pages)
    found = imported(yaml.safe_dump(plain, sort_keys=False))
    before = imported(generated(POOLS + REST))
    assert (found.plain["pools"], found.plain["listeners"]) == (before.plain["pools"], before.plain["listeners"])
    assert any(note.endswith("a route to Envoy's own admin interface is left out") for note in found.notes)


def test_a_host_beside_everybody_is_everybody():
    def edit(manager, **_):
        manager["route_config"]["virtual_hosts"] = [{**manager["route_config"]["virtual_hosts"][-1], "domains": ["a.b", "*"]}]

    assert all("hosts" not in route for route in edited(edit).plain["routes"])


@pytest.mark.parametrize(
    ("domains", "hosts"), [(["A.b:8080", "a.b", "*.c", "d.*"], ["a.b", "*.c"]), (["d.*"], None), (["[::1]:80"], None)]
)
def test_hosts_that_an_intent_cannot_name_are_told(domains, hosts):
    def edit(manager, **_):
        manager["route_config"]["virtual_hosts"].insert(0, {"name": "x", "domains": domains, "routes": [QWEN_ROUTE]})

    back = edited(edit)
    assert [route.get("hosts") for route in back.plain["routes"] if route.get("prefix") == "/x"] == ([hosts] if hosts else [])
    assert any("the host " in note and "is left out" in note for note in back.notes)


def test_filter_chains_of_one_listener_are_one_listener():
    def edit(listener, **_):
        chain = json.loads(json.dumps(listener["filter_chains"][0]))
        listener["filter_chains"].insert(0, {**chain, "filter_chain_match": {"server_names": ["a.b"]}})

    back = edited(edit)
    assert len(back.plain["listeners"]) == 1
    assert [note for note in back.notes if "filter_chain_match of a filter chain is left out" in note]


@pytest.mark.parametrize(
    ("edit", "note"),
    [
        (lambda routes, **_: routes[0]["route"].update(prefix_rewrite="/x"), "prefix_rewrite of a route"),
        (lambda routes, **_: routes[0].update(requestHeadersToAdd=[{}]), "request_headers_to_add of a route"),
        (lambda host, **_: host["retry_policy"].update(per_try_timeout="9s"), "per_try_timeout of a retry"),
        (lambda host, **_: host["retry_policy"].update(retry_on="5xx"), "retry_on 5xx"),
        (lambda manager, **_: manager.update(xff_num_trusted_hops=2), "xff_num_trusted_hops of a connection manager"),
        (lambda manager, **_: manager.update(local_reply_config={"mappers": []}), "local_reply_config of a connection"),
        (lambda manager, **_: manager.update(local_reply_config=["x"]), "local_reply_config of a connection"),
        (lambda manager, **_: manager["common_http_protocol_options"].update(idle_timeout="9s"), "idle_timeout of common_http"),
        (lambda manager, **_: manager.update(access_log=[{"typed_config": {"@type": "x/a.b.Mine"}}]), "the access log Mine"),
        (lambda listener, **_: listener.update(listener_filters=[{}]), "listener_filters of a listener"),
        (lambda config, **_: config.update(overload_manager={}), "overload_manager of the bootstrap"),
        (
            lambda config, **_: config["static_resources"]["clusters"][0].update(transport_socket={"name": "x"}),
            "transport_socket of a cluster of model servers",
        ),
        (
            lambda config, **_: config["static_resources"]["clusters"][0].update(circuit_breakers={"thresholds": []}),
            "circuit_breakers of a cluster of model servers",
        ),
        (
            lambda manager, **_: manager["early_header_mutation_extensions"][0]["typed_config"]["mutations"].append(
                {"remove": "x-mine"}
            ),
            "the removal of the header x-mine",
        ),
    ],
)
def test_every_field_that_an_intent_has_no_word_for_is_told(edit, note):
    assert not [each for each in edited(lambda **_: None).notes if "left out" in each]
    assert [each for each in edited(edit).notes if f"{note}" in each and "left out" in each]


GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", ["minimal", "full", "models", "named", "strict", "usage"])
def test_of_what_is_generated_nothing_is_lost(name):
    intent = load_intent((GOLDEN / f"{name}.intent.yaml").read_text())
    back = imported((GOLDEN / f"{name}.bootstrap.yaml").read_text())
    assert back.notes == ()
    read = read_intent(Document(back.plain, "", {(): 1}))
    assert (read.body_router, read.observability) == (intent.body_router, intent.observability)
    assert read.profile is (intent.profile or Profile.LEAN)
    assert {pool.name: pool.picker for pool in read.pools} == {pool.name: pool.picker for pool in intent.pools}


def test_a_picker_at_sockets_comes_back_and_what_an_intent_cannot_name_is_told():
    text = POOLS.replace("127.0.0.1:9012", "unix:/run/p.1").replace("127.0.0.1:9003", "unix:/run/q.0")
    back = imported(generated(f"bodyRouter: {{addresses: ['unix:/run/r']}}\n{text}{REST}"))
    assert not [each for each in back.notes if "left out" in each]
    assert back.plain["bodyRouter"] == {"addresses": ["unix:/run/r"]}
    assert [pool["picker"]["addresses"] for pool in sorted(back.plain["pools"], key=lambda pool: pool["name"])] == [
        ["127.0.0.1:9002", "unix:/run/p.1"],
        ["unix:/run/q.0"],
    ]
    abstract = imported(generated(text + REST).replace("path: /run/p.1", "path: '@p.1'"))
    assert ["127.0.0.1:9002"] in [pool["picker"]["addresses"] for pool in abstract.plain["pools"]]
    assert any("'unix:@p.1' must be unix: and the whole path" in note for note in abstract.notes)


def test_routes_of_several_profiles_keep_them():
    text = f"{POOLS}{REST}".replace("{pool: qwen,", "{pool: qwen, profile: native,")
    assert [route.get("profile") for route in imported(generated(text)).plain["routes"] if route.get("pool") == "qwen"] == [
        "native"
    ]


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_no_number_is_no_port(number):
    back = edited(lambda listener, **_: listener["address"]["socket_address"].update(port_value=number))
    assert "listeners" not in back.plain


def test_no_retries_are_none():
    def edit(config, **_):
        for listener in config["static_resources"]["listeners"]:
            manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
            for host in manager["route_config"]["virtual_hosts"]:
                del host["retry_policy"]

    assert edited(edit).plain["limits"]["retries"] == 0


def test_a_cluster_without_endpoints_is_incomplete_and_says_of_what():
    text = """\
static_resources:
  listeners:
  - name: main
    address: {socket_address: {address: 0.0.0.0, port_value: 8081}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: x
          http_filters:
          - name: ext
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExternalProcessor
              grpc_service: {envoy_grpc: {cluster_name: epp}}
              processing_mode: {request_body_mode: FULL_DUPLEX_STREAMED, response_body_mode: FULL_DUPLEX_STREAMED}
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{match: {prefix: /}, route: {cluster: Original Destination, timeout: 86400s}}]
  clusters:
  - name: Original Destination
    type: ORIGINAL_DST
    original_dst_lb_config: {use_http_header: true, http_header_name: x-gateway-destination-endpoint}
  - name: epp
    type: STATIC
    load_assignment:
      cluster_name: epp
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 10.0.0.9, port_value: 9002}}}}]}]
"""
    result = CliRunner().invoke(main, ["import"], input=text)
    assert result.exit_code == 1
    assert "goes wherever the picker says" in result.stderr
    assert "Incomplete: $.pools[0].endpoints are missing" in result.stderr
    plain = yaml.safe_load(result.stdout)
    assert plain["pools"][0]["name"] == "original-destination"
    assert plain["pools"][0]["picker"] == {"addresses": ["10.0.0.9:9002"], "failureMode": "FailClose"}
    assert plain["profile"] == "full"


def test_the_command_prints_an_intent_of_manifests_too():
    text = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: all}
spec: {rules: [{timeouts: {request: 9s}, backendRefs: [{group: inference.networking.k8s.io, kind: InferencePool, name: a}]}]}
---
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {name: a}
spec: {selector: {matchLabels: {app: a}}, targetPorts: [{number: 80}], endpointPickerRef: {name: b, port: {number: 9002}}}
"""
    result = CliRunner().invoke(main, ["import"], input=text)
    assert result.exit_code == 0
    assert load_intent(result.stdout).pools[0].picker.addresses == ("b.default.svc.cluster.local:9002",)
    assert "Note: <stdin>:4: timeouts.request 9s is left out" in result.stderr


@pytest.mark.parametrize("text", ["a: [", "a: 1", "apiVersion: v1\nkind: Service\nmetadata: {name: a}\n"])
def test_what_is_no_gateway_is_one_message_and_exit_code_2(text):
    result = CliRunner().invoke(main, ["import"], input=text)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Error: ")


ORIGINAL = json.dumps(bootstrap(load_intent(POOLS + REST)))
words = st.sampled_from([None, "", "a", 0, -1, float("nan"), float("inf"), True, [], {}, [{}], "10.0.0.1"])


@given(st.data())
def test_a_configuration_with_anything_anywhere_is_imported_or_refused(data):
    body = json.loads(ORIGINAL)
    here = body
    while True:
        step = data.draw(st.sampled_from(list(here) if isinstance(here, dict) else range(len(here))))
        if not isinstance(here[step], dict | list) or not here[step] or data.draw(st.integers(0, 7)) == 0:
            here[step] = data.draw(words)
            break
        here = here[step]
    with contextlib.suppress(IntentError):
        import_envoy([Document(body, "envoy.yaml", {(): 1})])


@pytest.mark.envoy
async def test_a_running_envoy_tells_the_same_as_the_bootstrap_it_began_with(envoy_binary):
    text = f"{POOLS}routes: [{{pool: qwen, prefix: /v1}}, {{pool: llama}}]\nlisteners: [{{port: 0}}]\nprofile: full\n"
    intent = load_intent(text.replace("tls: {caFile: /ca.pem, serverName: epp.local}", "tls: {}"))
    async with (
        running_envoy(bootstrap(intent), envoy_binary) as envoy,
        aiohttp.request("GET", f"http://{envoy.admin}/config_dump") as response,
    ):
        dump = await response.text()
    told = imported(dump)
    assert not [note for note in told.notes if "left out" in note]
    back = read_intent(Document(told.plain, "", {(): 1}))
    assert sorted(back.pools, key=lambda pool: pool.name) == list(intent.pools)
    assert (back.routes, back.profile, back.limits) == (intent.routes, intent.profile, intent.limits)
