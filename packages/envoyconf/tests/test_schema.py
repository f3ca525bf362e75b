"""What Envoy's own schema says of a resource: every place that Envoy would refuse, and nothing that it takes."""

import json
from pathlib import Path

import pytest
import yaml
from envoy.config.bootstrap.v3 import bootstrap_pb2
from google.protobuf.json_format import ParseError
from hypothesis import given
from hypothesis import strategies as st

from shunter.envoyconf import render
from shunter.envoyconf.core.documents import spell
from shunter.envoyconf.core.schema import envoy_schema, notes, problems
from shunter.envoyconf.core.schema.rules import COMPARISONS, MAKERS
from shunter.envoyconf.core.versions import Version
from shunter.envoyconf.shell import envoy

BOOTSTRAP = "envoy.config.bootstrap.v3.Bootstrap"
CLUSTER = "envoy.config.cluster.v3.Cluster"
GOLDEN = sorted((Path(__file__).parent / "golden").glob("*.bootstrap.yaml"))
TYPE = "type.googleapis.com/"


def load(path):
    return yaml.safe_load(path.read_text())


def told(resource, name=BOOTSTRAP, **more):
    return [f"{spell(each.path)}: {each}" for each in problems(envoy_schema(), resource, name, **more)]


def canonical(resource):
    return json.dumps(resource, sort_keys=True)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_nothing_is_wrong_with_a_golden_bootstrap(path):
    assert told(load(path)) == []


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.name)
def test_what_is_encoded_is_what_is_decoded(path):
    schema = envoy_schema()
    once = schema.decode(schema.encode(load(path), BOOTSTRAP).SerializeToString(), BOOTSTRAP)
    again = schema.decode(schema.encode(once, BOOTSTRAP).SerializeToString(), BOOTSTRAP)
    assert canonical(once) == canonical(again)
    assert told(once) == []


def test_it_lives_beside_another_idea_of_the_same_messages():
    assert envoy_schema().message(BOOTSTRAP) is not bootstrap_pb2.Bootstrap
    assert bootstrap_pb2.Bootstrap.DESCRIPTOR.full_name == BOOTSTRAP


def test_a_resource_is_packed_with_its_type():
    packed = envoy_schema().pack({"name": "a"}, CLUSTER)
    assert packed.type_url == TYPE + CLUSTER
    assert envoy_schema().decode(packed.value, CLUSTER) == {"name": "a"}


def test_an_unknown_message_is_a_key_error():
    with pytest.raises(KeyError):
        envoy_schema().message("envoy.Nothing")


ADDRESS = "envoy.config.core.v3.SocketAddress"
EXTENSION = "envoy.config.core.v3.TypedExtensionConfig"
HOST = "envoy.config.route.v3.VirtualHost"
ROUTER = {"@type": TYPE + "envoy.extensions.filters.http.router.v3.Router"}
SOCKET = {"address": "127.0.0.1", "port_value": 80}


@pytest.mark.parametrize(
    ("resource", "name", "message"),
    [
        # names
        (
            {"cluster": 1},
            BOOTSTRAP,
            "$.cluster: unknown field 'cluster' in envoy.config.bootstrap.v3.Bootstrap; did you mean clus",
        ),
        (
            {"xyzzy": 1},
            "google.rpc.Status",
            "$.xyzzy: unknown field 'xyzzy' in google.rpc.Status; known: code, message, details",
        ),
        ({"name": "a", "type": "EDSS"}, CLUSTER, "$.type: 'EDSS' is not a choice; did you mean EDS?"),
        ({"name": "a", "type": 77}, CLUSTER, "$.type: 77 is not a choice"),
        ({"@type": 1}, BOOTSTRAP, "$.@type: unknown field '@type'"),
        # kinds of values
        ([], BOOTSTRAP, "$: a list where an object belongs"),
        ({"name": 7}, CLUSTER, "$.name: 7 where text belongs"),
        (
            {"name": "a", "connect_timeout": 5},
            CLUSTER,
            "$.connect_timeout: 5 where a duration in seconds, such as 0.25s belongs",
        ),
        ({"name": "a", "connect_timeout": "5"}, CLUSTER, "$.connect_timeout: '5' where a duration"),
        ({"name": "a", "health_checks": [7]}, CLUSTER, "$.health_checks[0]: 7 where an object belongs"),
        (
            {"name": "a", "metadata": {"filter_metadata": []}},
            CLUSTER,
            "$.metadata.filter_metadata: a list where an object belongs",
        ),
        (
            {"name": "a", "metadata": {"filter_metadata": {"b": 1}}},
            CLUSTER,
            "$.metadata.filter_metadata.b: 1 where an object belongs",
        ),
        ({"name": "a", "ignore_health_on_host_removal": "sure"}, CLUSTER, ": 'sure' where true or false belongs"),
        ({**SOCKET, "port_value": -1}, ADDRESS, "-1 where a whole number from 0 to 4294967295"),
        ({**SOCKET, "port_value": "80a"}, ADDRESS, "'80a' where a whole number"),
        ({**SOCKET, "port_value": True}, ADDRESS, "True where a whole number"),
        ({"value": "many"}, "envoy.type.v3.Percent", "$.value: 'many' where a number belongs"),
        ({"inline_bytes": "?"}, "envoy.config.core.v3.DataSource", "$.inline_bytes: '?' where base64 text belongs"),
        # protoc-gen-validate
        ({}, CLUSTER, "$: name is missing: it must not be empty"),
        ({"name": ""}, CLUSTER, "$.name: '' must not be empty"),
        ({"name": "a", "connect_timeout": "0s"}, CLUSTER, "$.connect_timeout: '0s' must be greater than 0s"),
        ({**SOCKET, "port_value": 65536}, ADDRESS, "$.port_value: 65536 must be at most 65535"),
        ({"address": "a"}, ADDRESS, "$: port_specifier is missing in envoy.config.core.v3.SocketAddress"),
        ({**SOCKET, "named_port": "b"}, ADDRESS, "$.named_port: port_value and named_port are alternatives"),
        ({"name": "a"}, HOST, "$: domains is missing: it must not be empty"),
        ({"name": "a", "domains": ["\n"]}, HOST, "$.domains[0]: '\\n' must be fit for a header's value"),
        (
            {"header": {}, "append": True},
            "envoy.config.core.v3.HeaderValueOption",
            "$.header: key is missing: it must not be empty",
        ),
        ({"value": 101}, "envoy.type.v3.Percent", "$.value: 101 must be at most 100"),
        ({"name": "a", "connect_timeout": {}}, CLUSTER, "$.connect_timeout: {} must be greater than 0s"),
        ({"name": "a", "connect_timeout": "315576000001s"}, CLUSTER, "'315576000001s' is more than 10,000 years"),
        # inside extensions
        ({"name": "a"}, EXTENSION, "$: typed_config is missing; it is required"),
        ({"name": "a", "typed_config": {"a": 1}}, EXTENSION, "$.typed_config: @type is missing"),
        ({"name": "a", "typed_config": {"@type": "a.b"}}, EXTENSION, "'a.b' is no type URL; write type.googleapis.com/a.b"),
        (
            {"name": "a", "typed_config": {"@type": TYPE + "envoy.extensions.filters.http.router.v3.Ruoter"}},
            EXTENSION,
            "$.typed_config.@type: no message is called 'envoy.extensions.filters.http.router.v3.Ruoter'; did you mean envoy.",
        ),
        (
            {"name": "a", "typed_config": {**ROUTER, "dynamic_stat": True}},
            EXTENSION,
            "$.typed_config.dynamic_stat: unknown field 'dynamic_stat' in envoy.extensions.filters.http.router.v3.Router; did",
        ),
    ],
)
def test_a_mistake_is_named_with_its_place(resource, name, message):
    found = told(resource, name)
    assert message in found[0]


@pytest.mark.parametrize(
    ("resource", "name"),
    [
        ({"name": "a", "connectTimeout": "0.25s", "type": None}, CLUSTER),
        ({"name": "a", "type": 3, "per_connection_buffer_limit_bytes": "32768"}, CLUSTER),
        ({**SOCKET, "port_value": 80.0}, ADDRESS),
        ({"inline_bytes": "-_8"}, "envoy.config.core.v3.DataSource"),
        ({"value": "1e1"}, "envoy.type.v3.Percent"),
        ({"name": "a", "typed_config": {}}, EXTENSION),
        ({"name": "a", "typed_config": {**ROUTER, "dynamic_stats": False}}, EXTENSION),
        ({"name": "a", "typed_config": {"@type": TYPE + "google.protobuf.Struct", "value": {"b": None}}}, EXTENSION),
        ({"name": "a", "metadata": {"filter_metadata": {"b": {"c": [None, 1]}}}}, CLUSTER),
    ],
)
def test_what_every_parser_takes_is_let_be(resource, name):
    assert told(resource, name) == []
    envoy_schema().encode(resource, name)


HABITS = [
    {"name": "a", "ignore_health_on_host_removal": "yes"},
    {"name": "a", "type": "static", "health_checks": [[]]},
    {"name": "a", "load_assignment": {"cluster_name": "a", "endpoints": [None, []]}},
    {"name": "a", "per_connection_buffer_limit_bytes": "1e3", "connect_timeout": {"seconds": 5}},
    {"name": "a", "per_connection_buffer_limit_bytes": {"value": "+5"}, "metadata": {"filter_metadata": {"b": None}}},
    {"name": "a", "altStatName": "b", "alt_stat_name": 0.5},
    {"name": 4294967296, "load_assignment": {"cluster_name": "a", "endpoints": {"priority": 0}}},
]


@pytest.mark.envoy
@pytest.mark.parametrize("cluster", HABITS, ids=str)
def test_the_older_habits_of_envoys_parser_are_known(cluster, envoy_binary):
    envoy.validate(render({"static_resources": {"clusters": [cluster]}}), envoy_binary)
    assert told(cluster, CLUSTER) == []


def test_half_a_character_is_counted():
    (problem,) = told({"key": "\ud800" * 9000}, "envoy.config.core.v3.HeaderValue")
    assert problem.endswith("must have at most 16384 bytes")


def test_a_value_is_shown_to_be_recognised_no_more():
    (problem,) = told({"name": "a", "type": "secret" * 1000}, CLUSTER)
    assert len(problem) < 200


def test_what_is_deprecated_or_unfinished_is_noted():
    usage = load(next(path for path in GOLDEN if path.name == "usage.bootstrap.yaml"))
    noted = [str(each) for each in notes(envoy_schema(), usage, BOOTSTRAP)]
    assert (
        "envoy.extensions.filters.http.sse_to_metadata.v3.SseToMetadata is work in progress, and may change without" in noted[0]
    )
    (old,) = notes(envoy_schema(), {"name": "a", "dns_resolvers": []}, CLUSTER)
    assert (spell(old.path), str(old)) == ("$.dns_resolvers", "dns_resolvers is deprecated")


POLICY = "envoy.extensions.load_balancing_policies"


@pytest.mark.envoy
@pytest.mark.parametrize(
    ("name", "message", "fields", "path"),
    [
        ("least_request", "LeastRequest", {"choice_count": 1}, "choice_count"),
        ("least_request", "LeastRequest", {"locality_lb_config": {}}, "locality_lb_config"),
        ("maglev", "Maglev", {"consistent_hashing_lb_config": {"hash_balance_factor": 50}}, "hash_balance_factor"),
        ("ring_hash", "RingHash", {"hash_function": 99}, "hash_function"),
    ],
)
@pytest.mark.parametrize("within", [False, True])
def test_a_limit_that_envoy_does_not_check_is_noted(name, message, fields, path, within, envoy_binary):
    def policies(name, **config):
        return {"policies": [{"typed_extension_config": {"name": name, "typed_config": config}}]}

    policy = policies(name, **{"@type": f"{TYPE}{POLICY}.{name}.v3.{message}"}, **fields)
    if within:
        host = {"@type": f"{TYPE}{POLICY}.override_host.v3.OverrideHost", "override_host_sources": [{"header": "x"}]}
        policy = policies("override_host", **host, fallback_policy=policy)
    cluster = {"name": "a", "connect_timeout": "1s", "load_balancing_policy": policy}
    bootstrap = {"static_resources": {"clusters": [cluster]}}
    envoy.validate(json.dumps(bootstrap), envoy_binary)
    assert told(bootstrap) == []
    assert [each.path[-1] for each in notes(envoy_schema(), bootstrap, BOOTSTRAP)] == [path]


def test_what_envoy_no_longer_takes_is_refused():
    source = {"api_type": "DEPRECATED_AND_UNAVAILABLE_DO_NOT_USE"}
    (problem,) = told(source, "envoy.config.core.v3.ApiConfigSource")
    assert problem.endswith("DEPRECATED_AND_UNAVAILABLE_DO_NOT_USE is deprecated, and Envoy refuses it; choose another")


@pytest.mark.parametrize(
    ("resource", "name", "since"),
    [
        ({"allow_paths": [{"exact": "/ready"}]}, "envoy.config.bootstrap.v3.Admin", Version(1, 37)),
        (
            {"name": "a", "typed_config": {"@type": TYPE + "envoy.extensions.filters.http.sse_to_metadata.v3.SseToMetadata"}},
            EXTENSION,
            Version(1, 38),
        ),
    ],
)
def test_what_an_older_envoy_lacks_is_named(resource, name, since):
    older = Version(since.major, since.minor - 1)
    assert not any("is there since" in each for each in told(resource, name, version=since))
    assert any(
        f"is there since Envoy {since}; this is for {older}; leave it out" in each
        for each in told(resource, name, version=older)
    )


# Whatever somebody may write, at the names that Envoy knows and at others.
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["1s", "EDS", ROUTER["@type"]])
)
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "@type", "value"]) | st.text(max_size=3), inner)
    ),
    max_leaves=8,
)
MESSAGES = sorted(envoy_schema().names)


@given(st.data())
def test_about_anything_the_schema_has_something_to_say_or_nothing(data):
    name = data.draw(st.sampled_from(MESSAGES))
    names = envoy_schema().shape(name).names
    fields = st.dictionaries(st.sampled_from(names), values) if names else st.just({})
    resource = data.draw(fields | values)
    for each in (*problems(envoy_schema(), resource, name), *notes(envoy_schema(), resource, name)):
        assert spell(each.path).startswith("$")
        assert each.text


# Where Python's parser is laxer than Envoy's: an empty list or text for a message, blanks in numbers, any case of NaN, bytes,
# and for choices false and true, which Python takes for numbers.
LAX = ("a list where an object", "where base64 text", "'' where", "where a number", "where a whole number", "where a duration")
LAX += ("False where one of its choices", "True where one of its choices")


@given(st.data())
def test_what_a_strict_parser_takes_is_not_named_as_wrong(data):
    name = data.draw(st.sampled_from(MESSAGES))
    names = envoy_schema().shape(name).names
    resource = data.draw(st.dictionaries(st.sampled_from(names), values) if names else st.just({}))
    try:
        envoy_schema().encode(resource, name)
    except (ParseError, AttributeError, TypeError, ValueError):  # Python's parser is not total
        return
    found = [each for each in told(resource, name) if not any(lax in each for lax in LAX)]
    assert not [each for each in found if "unknown field" in each or " belongs" in each or "is not a choice" in each]


def stated_rules(rules):
    """Yield the kind and name of each constraint, those of items, keys and values included."""
    for field, value in rules.ListFields():
        if field.name == "message":
            yield from (("message", each.name) for each, _ in value.ListFields())
            continue
        for each, inner in value.ListFields():
            if each.name in {"items", "keys", "values"}:
                yield from stated_rules(inner)
            else:
                yield field.name, each.name


def test_every_constraint_of_envoys_api_is_known():
    """One that was not known would be heeded by nobody."""
    schema = envoy_schema()
    options = schema.message("google.protobuf.FieldOptions")
    extension = schema.pool.FindExtensionByName("validate.rules")
    names = [*schema.names]
    stated = []
    while names:
        descriptor = schema.pool.FindMessageTypeByName(names.pop())
        assert schema.shape(descriptor.full_name).full_name == descriptor.full_name
        names += [each.full_name for each in descriptor.nested_types]
        for field in descriptor.fields:
            read = options.FromString(field.GetOptions().SerializeToString())
            stated += stated_rules(read.Extensions[extension])
    assert len(stated) > 1000
    elsewhere = {"required", "skip", "ignore_empty", "defined_only", "well_known_regex", "strict"}
    assert {name for _, name in stated} <= COMPARISONS.keys() | MAKERS.keys() | elsewhere
