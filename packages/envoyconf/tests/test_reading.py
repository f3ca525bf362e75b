"""Bad intents are refused with place, value and remedy; good ones always become a consistent bootstrap."""

import contextlib
import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from shunter.envoyconf import IntentError, Listener, bootstrap, intent_schema, load_intent, render
from shunter.envoyconf.core.authority import split_authority
from shunter.envoyconf.core.documents import load_documents
from shunter.envoyconf.core.reading import MAX_INTENT_CHARACTERS

POOL = "{name: a, endpoints: ['10.0.0.1:80'], picker: {addresses: ['10.0.0.2:80']}}"
POOLS = f"pools: [{POOL}]\n"
COLLECTED = POOLS.replace("}}", ", collector: '[::1]:24224'}}")
ROUTER = "bodyRouter: {addresses: ['10.0.0.3:80']}\n"
OTHER = POOL.replace("name: a", "name: b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "intent: nothing is there; an intent begins with pools"),
        ("- pools", "intent:1: a list where a mapping is expected"),
        ("pools: [", "not YAML"),
        ("pools: !!int none", "not YAML: invalid literal"),
        (POOLS + POOLS, "key 'pools' is there twice"),
        ("pool: []", "$: unknown field 'pool'; did you mean pools"),
        (POOLS + "limits: {idleTimeout: 5}", "$.limits: unknown field 'idleTimeout'; did you mean idleTimeoutSeconds"),
        (POOLS + "admin: {prot: 5}", "$.admin: unknown field 'prot'; did you mean port"),
        (POOLS + "profile: leen", "$.profile: 'leen' is not a choice; did you mean lean?"),
        (POOLS + "profile: x", "$.profile: 'x' is not a choice; known: full, headers, lean, native, strict, usage"),
        (POOLS + "profile: usage", "$.pools[0].picker.collector is missing: in the profile usage token counts are told to"),
        (POOLS + "profile: strict", "$.pools[0].picker.collector is missing: in the profile strict only the collector learns"),
        (COLLECTED + "profile: strict", "$.pools[0].picker.failureMode must be FailClose in the profile strict"),
        (COLLECTED.replace("[::1]:24224", "24224"), "$.pools[0].picker.collector '24224' must be host:port"),
        (POOLS.replace("}}", ", failureMode: open}}"), "$.pools[0].picker.failureMode: 'open' is not a choice"),
        (
            POOLS.replace("}}", ", tls: {certFile: a}}}"),
            "$.pools[0].picker.tls.keyFile is missing: certFile is of no use without",
        ),
        (
            POOLS.replace("}}", ", tls: {keyFile: a}}}"),
            "$.pools[0].picker.tls.certFile is missing: keyFile is of no use without",
        ),
        (
            POOLS.replace("}}", ", tls: {serverName: a b}}}"),
            "$.pools[0].picker.tls.serverName 'a b' must be a host name or an IP",
        ),
        ("pools: []", "$.pools: expected `array` of length >= 1. Groups of"),
        (
            POOLS.replace("['10.0.0.1:80']", "[]"),
            "$.pools[0].endpoints are missing: list the model servers' host:port, or give",
        ),
        (POOLS.replace("name: a", "name: A"), "$.pools[0].name: 'A' must be lower-case letters, digits and -, such as"),
        (POOLS.replace("name: a", 'name: "a\\n"'), "$.pools[0].name: 'a\\n' must be lower-case letters, digits"),
        (POOLS.replace("'10.0.0.1:80'", "80"), "$.pools[0].endpoints[0]: expected `str`, got `int` (it is 80)"),
        (POOLS.replace("10.0.0.1:80", "10.0.0.1"), "$.pools[0].endpoints[0] '10.0.0.1' must be host:port"),
        (POOLS.replace("10.0.0.1:80", "10.0.0.1:0"), "$.pools[0].endpoints[0] '10.0.0.1:0' needs a port from 1 to 65535"),
        (POOLS.replace("10.0.0.1:80", "10.0.0.256:80"), "$.pools[0].endpoints[0] '10.0.0.256:80' must be host:port"),
        (POOLS.replace("10.0.0.2:80", "::1:80"), "$.pools[0].picker.addresses[0] '::1:80' must be host:port"),
        (POOLS.replace("10.0.0.2:80", "x:80', 'x:80"), "$.pools[0].picker.addresses[1] 'x:80' is addresses[0] once more"),
        (f"pools: [{POOL}, {POOL}]", "$.pools[1].name 'a' is the name of pools[0] already"),
        (f"pools: [{POOL}, {OTHER}]", "$.routes are missing: with several pools (a, b) say which requests go to which"),
        (POOLS + "routes: [{pool: c}]", "$.routes[0].pool 'c' is not a pool; pools: a"),
        (POOLS + "routes: [{pool: a, prefix: v1}]", "$.routes[0].prefix 'v1' must be / or begin with /"),
        (POOLS + "routes: [{pool: a, prefix: /a/../b}]", "and no segment empty, . or .."),
        (POOLS + "routes: [{pool: a, prefix: /a%2fb}]", "in the characters of a path (others as %XX)"),
        (POOLS + "listeners: [{hosts: [a, a]}]", "$.listeners[0].hosts ['a', 'a'] names a host twice"),
        ("pools: [{name: a, selector: {'b c': d}}]", "$.pools[0].selector 'b c': 'd' is no label: at most 63 letters"),
        ("pools: [{name: a, selector: {b: 'd:e'}}]", "$.pools[0].selector 'b': 'd:e' is no label: at most 63 letters"),
        (POOLS + "routes: [{pool: a}, {pool: a, prefix: /v1}]", "$.routes[1] (/v1) is never reached: routes[0] (/)"),
        (
            POOLS + "routes: [{pool: a, affinity: {header: x-session}}]",
            "$.routes[0].affinity counts in the profile native only, and this route has lean, in which the picker decides",
        ),
        (POOLS.replace("name: a", r'name: a, inferencePool: "a\n"'), "$.pools[0].inferencePool: 'a\\n' must be a name or"),
        (POOLS.replace("name: a", "name: a, inferencePool: '%a%'"), "$.pools[0].inferencePool: '%a%' must be a name or"),
        (
            POOLS + "modelHeader: X-Model",
            "$.modelHeader: 'X-Model' must be a header's name in lower case, such as x-model. Header",
        ),
        (POOLS + "listeners: [{hosts: ['a:80']}]", "$.listeners[0].hosts[0]: 'a:80' must be a host's name in lower case"),
        (
            POOLS + "routes: [{pool: a, affinity: {cookie: 'a b'}}]",
            "$.routes[0].affinity.cookie: 'a b' must be a cookie's name",
        ),
        (POOLS.replace("10.0.0.1:80", "unix:/run/a"), "$.pools[0].endpoints[0] 'unix:/run/a' is a socket in the file system"),
        (POOLS.replace("10.0.0.1:80", "/run/a"), "$.pools[0].endpoints[0] '/run/a' is a socket in the file system"),
        (POOLS.replace("10.0.0.2:80", "/run/a"), "$.pools[0].picker.addresses[0] '/run/a' is a path: write unix:/run/a, if"),
        (POOLS.replace("10.0.0.2:80", "unix:a"), "$.pools[0].picker.addresses[0] 'unix:a' must be unix: and the whole path of"),
        (POOLS.replace("10.0.0.2:80", "unix:@a"), "$.pools[0].picker.addresses[0] 'unix:@a' must be unix: and the whole path"),
        (POOLS.replace("10.0.0.2:80", "unix:/a/"), "$.pools[0].picker.addresses[0] 'unix:/a/' must be unix: and the whole"),
        (POOLS.replace("'10.0.0.2:80'", r'"unix:/a\0"'), "$.pools[0].picker.addresses[0] 'unix:/a\\x00' must be unix: and"),
        (POOLS.replace("10.0.0.2:80", f"unix:/{'é' * 54}"), "has a path of 109 bytes, and a socket's is 107 at most; choose"),
        (
            POOLS.replace("10.0.0.2:80", "unix:/a/b', 'unix://a/./b"),
            "$.pools[0].picker.addresses[1] 'unix://a/./b' is addresses[0] once more",
        ),
        (
            POOLS.replace("10.0.0.2:80", "unix:/a', '10.0.0.2:80', 'x:80"),
            "$.pools[0].picker.addresses[2] 'x:80' is a name and addresses[0] a socket: Envoy looks up all of them or",
        ),
        (POOLS + "bodyRouter: {addresses: ['unix:a']}", "$.bodyRouter.addresses[0] 'unix:a' must be unix: and the whole path"),
        (
            POOLS.replace("addresses: [", "collector: 'unix:/a', addresses: ["),
            "$.pools[0].picker.collector 'unix:/a' is a socket in the file system, at which only workers of a picker or a body",
        ),
        (
            POOLS.replace("name: a", "name: a, overflow: {address: 'b:80', tls: false, caFile: /ca}"),
            "$.pools[0].overflow.caFile is of no use without tls",
        ),
        (
            POOLS + "security: {rateLimits: [{requests: 5000000000}]}",
            "$.security.rateLimits[0].requests: expected `int` <= 4294967295 (it is 5000000000)",
        ),
        (
            POOLS + "security: {apiKeys: [{client: a, key: k}], rateLimits: [{requests: 1, by: x-api-key}]}",
            "$.security.rateLimits[0].by 'x-api-key' is taken from requests before they are counted",
        ),
        (
            POOLS + "routes: [{pool: a, baseModels: [m]}]",
            "$.routes[0].baseModels: only a bodyRouter knows whose adapter a model",
        ),
        (
            POOLS + f"{ROUTER}routes: [{{pool: a, models: [m, n]}}, {{pool: a, prefix: /v1, models: [n]}}]",
            "$.routes[1] (/v1) is never reached: routes[0] (/)",
        ),
        (POOLS + "routes: [{pool: a}, {pool: a, models: [m]}]", "requests; put the one for fewer paths or models first"),
        (
            POOLS + "profile: native\nsecurity: {apiKeys: [{client: a, key: k}]}\n"
            "routes: [{pool: a, affinity: {header: x-client-id}}]",
            "$.routes[0].affinity.header 'x-client-id' is none that a client's request has when it meets its route; let",
        ),
        (
            POOLS + "security: {rateLimits: [{requests: 1, by: x-prefiller-url}]}",
            "$.security.rateLimits[0].by 'x-prefiller-url' is a header that is never taken from clients; use another",
        ),
        (
            POOLS.replace("10.0.0.2:80", "[::a]:80', '[0::A]:80"),
            "$.pools[0].picker.addresses[1] '[0::A]:80' is addresses[0] once more",
        ),
        (POOLS + "bodyRouter: {addresses: [x]}", "$.bodyRouter.addresses[0] 'x' must be host:port"),
        (POOLS + "listeners: [{}, {}]", "$.listeners[1].name 'http' is the name of listeners[0] already"),
        (POOLS + "listeners: [{}, {name: b}]", "$.listeners[1] would listen on port 8080 of 127.0.0.1, as listeners[0] does"),
        (
            POOLS + "listeners: [{address: '::'}, {name: b, address: '0::0'}]",
            "$.listeners[1] would listen on port 8080 of 0::0, as listeners[0] does",
        ),
        (POOLS + "admin: {port: 8080}", "$.admin would listen on port 8080 of 127.0.0.1, as listeners[0] does already"),
        (POOLS + "listeners: [{port: 70000}]", "$.listeners[0].port: expected `int` <= 65535 (it is 70000). TCP port"),
        (POOLS + "listeners: [{address: localhost}]", "$.listeners[0].address 'localhost' must be an IP address"),
        (POOLS + "admin: {port: 1, address: x}", "$.admin.address 'x' must be an IP address"),
        (POOLS + "limits: {retries: 99}", "$.limits.retries: expected `int` <= 10 (it is 99)"),
        (POOLS + "limits: {queueSeconds: 600}", "$.limits.queueSeconds 600 is not below idleTimeoutSeconds 300, after which"),
        (POOLS + "limits: {bodyBytes: 1}", "$.limits.bodyBytes: expected `int` >= 1048576 (it is 1)"),
        (POOLS + "limits: {idleTimeoutSeconds: 5m}", "$.limits.idleTimeoutSeconds: expected `float`, got `str` (it is '5m')"),
        ("[" * 2000, "intent:1: not YAML: while increasing flow level, exceeded maximum nesting depth"),
        ("a: " + "[" * 200 + "]" * 200, "intent:1: nested more than 100 deep"),
        ("\n".join(f"{' ' * deep}a:" for deep in range(900)), "nested more than 100 deep"),
        ("&a [*a]", "intent:1: nested more than 100 deep, or refers to itself"),
        (POOLS + "---\n" + POOLS, "intent:3: a second document; one intent is read at a time"),
        ("#" * (MAX_INTENT_CHARACTERS + 1), f"an intent has at most {MAX_INTENT_CHARACTERS}"),
    ],
)
def test_a_bad_intent_is_refused_with_place_value_and_remedy(text, message):
    with pytest.raises(IntentError) as refusal:
        load_intent(text)
    assert message in str(refusal.value)


@pytest.mark.parametrize("key", ["Bearer kk-1", r"kk-1\n", " kk-1", "kk-1é"])
def test_a_key_that_no_client_can_send_is_refused_and_not_told(key):
    with pytest.raises(IntentError, match=r"\$\.security\.apiKeys\[0\]\.key has a space, a newline or another") as refusal:
        load_intent(POOLS + f'security: {{apiKeys: [{{client: a, key: "{key}"}}]}}')
    assert "kk-1" not in str(refusal.value)


def test_an_error_names_the_line_if_there_is_a_file():
    with pytest.raises(IntentError, match=r"^gateway\.yaml:4: \$\.limits\.retries: expected `int` <= 10 \(it is 11\)"):
        load_intent(POOLS + "limits:\n  # more\n  retries: 11\n", "gateway.yaml")
    with pytest.raises(IntentError, match=r"^gateway\.yaml:2: key 'pools' is there twice"):
        load_intent(POOLS + POOLS, "gateway.yaml")


VARIABLES = """
pools:
- {name: a, endpoints: ["${HOST}:80"], picker: {addresses: ["10.0.0.2:${PORT:-9002}"]}}
limits:
  retries: ${RETRIES}
observability:
  accessLog: "${NAME:-}$$${NAME}$x"
"""


def test_variables_in_values_are_replaced():
    environment = {"HOST": "10.0.0.1", "RETRIES": "7", "NAME": "7", "PORT": ""}
    intent = load_intent(VARIABLES, environment=environment)
    assert intent.pools[0].endpoints == ("10.0.0.1:80",)
    assert intent.pools[0].picker.addresses == ("10.0.0.2:9002",)
    assert intent.limits.retries == 7
    assert intent.observability.access_log == "7$7$x"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (POOLS + "profile: ${A}", "gateway.yaml:2: $.profile: ${A} is not set; set it, or give a default: ${A:-…}"),
        (POOLS + "profile: ${", "gateway.yaml:2: $.profile: ${ begins a variable: write ${NAME} or ${NAME:-default}, or $${"),
        (POOLS + "profile: ${1}", "gateway.yaml:2: $.profile: ${ begins a variable"),
        (POOLS + "profile: ${B}", "gateway.yaml:2: $.profile: 'lean\\\\nadmin: {port: 1}' is not a choice"),
        (POOLS + "${C}: lean", "unknown field '${C}'"),
    ],
)
def test_a_variable_that_cannot_be_replaced_is_named_with_its_place(text, message):
    with pytest.raises(IntentError) as error:
        load_intent(text, "gateway.yaml", {"B": "lean\nadmin: {port: 1}", "C": "profile"})
    assert message in str(error.value)


@given(st.text(min_size=1))
def test_no_variable_can_add_a_field(value):
    text = POOLS + 'observability:\n  accessLog: "${VALUE}"'
    assert load_intent(text, environment={"VALUE": value}).observability.access_log == value


def test_a_value_is_set_in_the_place_of_another():
    changes = [
        "limits.retries=4",
        "pools[0].name=b",
        'pools[0].endpoints=["10.0.0.9:1"]',
        "$.pools[0].endpoints[1]='10.0.0.9:2'",
    ]
    intent = load_intent(POOLS, changes=changes)
    assert (intent.limits.retries, intent.pools[0].name) == (4, "b")
    assert intent.pools[0].endpoints == ("10.0.0.9:1", "10.0.0.9:2")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("limits", "--set 'limits' must be like limits.retries=3"),
        ("limits.retries=[", "--set limits.retries: '[' is not YAML"),
        ("limits.retries=eleven", "$.limits.retries: expected `int`, got `str` (it is 'eleven')"),
        ("limit.retries=1", "$: unknown field 'limit'; did you mean limits"),
        ("pools[2].name=b", "--set $.pools[2]: $.pools has 1 items, from [0] on"),
        ("pools[0].name.b=1", "--set $.pools[0].name.b: $.pools[0].name has no fields"),
    ],
)
def test_a_change_that_cannot_be_made_is_named(change, message):
    with pytest.raises(IntentError) as error:
        load_intent(POOLS, changes=[change])
    assert str(error.value).startswith(message)


@given(st.sampled_from(["limits.retries", "pools[0]", "pools[0].endpoints[1]", "x[0][0].y", ""]), st.text(max_size=12))
def test_any_change_is_made_or_refused(place, value):
    with contextlib.suppress(IntentError):
        load_intent(POOLS, changes=[f"{place}={value}"])


def test_a_struct_refuses_itself_in_python_too():
    with pytest.raises(IntentError, match="must be an IP address"):
        Listener(address="localhost")


def test_every_field_says_what_it_is_for():
    for name, struct in intent_schema()["$defs"].items():
        for field, schema in struct.get("properties", {}).items():
            assert schema.get("description"), f"{name}.{field}"


names = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,5}[a-z0-9])?(\.[a-z0-9]{1,5})?", fullmatch=True)
ports = st.integers(1, 65535)
hosts = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(lambda address: f"[{address}]"),
    st.from_regex(r"[a-z][a-z0-9]{0,8}(\.[a-z][a-z0-9]{0,8}){0,3}", fullmatch=True),
)
authorities = st.lists(st.builds("{}:{}".format, hosts, ports), min_size=1, max_size=4, unique=True)
seconds = st.floats(0.001, 3600)


@st.composite
def intents(draw):
    profile = draw(st.sampled_from(["lean", "usage", "strict", "full"]))
    modes = ["FailClose"] if profile == "strict" else ["FailOpen", "FailClose"]
    collector = st.just("[::1]:24224") if profile in {"usage", "strict"} else st.none() | st.just("collector:24224")
    pools = [
        {
            "name": name,
            "endpoints": draw(authorities),
            "picker": {
                "addresses": draw(authorities),
                "failureMode": draw(st.sampled_from(modes)),
                "collector": draw(collector),
            },
        }
        for name in draw(st.lists(names, min_size=1, max_size=3, unique=True))
    ]
    prefixes = draw(st.lists(st.from_regex(r"/[a-z]{1,5}", fullmatch=True), max_size=3, unique=True))
    routes = [{"pool": draw(st.sampled_from(pools))["name"], "prefix": prefix} for prefix in [*prefixes, "/"]]
    named = draw(st.lists(names, min_size=1, max_size=2, unique=True))
    place = st.tuples(st.ip_addresses().map(str), st.integers(0, 65535))
    places = draw(st.lists(place, min_size=len(named), max_size=len(named), unique=True))
    free = ports.filter(lambda port: ("127.0.0.1", port) not in places)
    return {
        "pools": pools,
        "routes": routes,
        "listeners": [
            {"name": name, "address": address, "port": port} for name, (address, port) in zip(named, places, strict=True)
        ],
        "profile": profile,
        "limits": {
            "bodyBytes": draw(st.integers(1 << 20, 1 << 30)),
            "connectTimeoutSeconds": draw(seconds),
            "idleTimeoutSeconds": (idle := draw(seconds)),
            "pickTimeoutSeconds": draw(seconds),
            "queueSeconds": idle * draw(st.sampled_from([0, 0.5, 0.99])),
            "retries": draw(st.integers(0, 10)),
        },
        "observability": {"accessLog": draw(st.sampled_from(["none", "stdout", "/x"])), "servedHeader": draw(st.booleans())},
        "admin": draw(st.none() | st.builds(dict, port=free)),
    }


# PyYAML takes a tenth of a second for a large intent and its bootstrap.
@settings(max_examples=30)
@given(intents())
def test_a_valid_intent_becomes_one_consistent_bootstrap(stated):
    first, again = (bootstrap(load_intent(text)) for text in (json.dumps(stated), yaml.safe_dump(stated)))
    assert render(first, "json") == render(again, "json")
    assert yaml.safe_load(render(first)) == json.loads(render(first, "json")) == first

    reached = {route["pool"] for route in stated["routes"]} or {stated["pools"][0]["name"]}
    told = sum(pool["name"] in reached and pool["picker"]["collector"] is not None for pool in stated["pools"])
    clusters = [cluster["name"] for cluster in first["static_resources"]["clusters"]]
    assert len(set(clusters)) == len(clusters) == 2 * len(reached) + told
    for listener in first["static_resources"]["listeners"]:
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        filters = {each["name"]: each["typed_config"] for each in manager["http_filters"]}
        assert list(filters)[-1] == "envoy.filters.http.router"
        for name, each in filters.items():
            if "ext_proc" in name:
                assert each["grpc_service"]["envoy_grpc"]["cluster_name"] in clusters
        records = [each["typed_config"] for each in manager["access_log"] if each["name"].endswith("fluentd")]
        assert len(records) == told
        assert {each["cluster"] for each in records} < set(clusters)
        for route in manager["route_config"]["virtual_hosts"][0]["routes"]:
            assert route["route"]["cluster"] in clusters
            assert set(route["typed_per_filter_config"]) < set(filters)


@given(st.data())
def test_a_mutated_intent_is_read_or_refused(data):
    text = data.draw(st.sampled_from([POOLS, json.dumps(data.draw(intents())), yaml.safe_dump(data.draw(intents()))]))
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 20)))
    inserted = data.draw(
        st.text(max_size=8) | st.sampled_from(["\n- ", "{", "&a ", "*a", "null", "!!python/none", "<<: ", "1e999"])
    )
    with contextlib.suppress(IntentError):
        bootstrap(load_intent(text[:start] + inserted + text[end:]))


@given(st.text(max_size=40) | st.builds("{}{}:{}".format, hosts, st.text(max_size=3), st.integers()))
def test_an_authority_is_split_or_refused(text):
    try:
        host, port = split_authority(text)
    except IntentError:
        return
    assert text == (f"[{host}]:{port}" if ":" in host else f"{host}:{text.rpartition(':')[2]}")
    assert 1 <= port <= 65535


def test_routes_by_model_need_not_stand_in_an_order():
    text = POOLS + ROUTER + "routes: [{pool: a, models: [m]}, {pool: a, baseModels: [m]}, {pool: a, models: [n]}, {pool: a}]"
    assert [route.models for route in load_intent(text).routes] == [("m",), (), ("n",), ()]


def test_keys_are_as_they_are_written_and_dates_and_times_are_text():
    text = "on: 1\ntrue: 2\n010: 3\n~: 4\nday: 2024-01-31\nno_day: 2024-02-31\nhour: 8:30\nnumbers: [1, 0x10, 1.5]"
    (document,) = load_documents(text, "")
    assert document.body == {
        "on": 1,
        "true": 2,
        "010": 3,
        "~": 4,
        "day": "2024-01-31",
        "no_day": "2024-02-31",
        "hour": "8:30",
        "numbers": [1, 16, 1.5],
    }


def test_what_must_fit_a_pattern_is_said_in_words():
    def patterns(node):
        if isinstance(node, dict):
            if "pattern" in node:
                yield node
            node = list(node.values())
        if isinstance(node, list):
            for each in node:
                yield from patterns(each)

    found = list(patterns(intent_schema()))
    assert found
    assert [each for each in found if "patternErrorMessage" not in each] == []


def test_an_editor_shows_descriptions_as_text_and_not_as_code():
    found = [each.get("description", "") for each in intent_schema()["$defs"].values()]
    further = [[line for line in each.splitlines()[1:] if line] for each in found]
    assert any(further)
    assert not [lines for lines in further if lines and all(line.startswith("    ") for line in lines)]
