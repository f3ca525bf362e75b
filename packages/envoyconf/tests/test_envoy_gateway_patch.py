"""Envoy Gateway with a patch: that it is one of ours inside, by which names it is anchored, what it is refused."""

import json

import pytest

from shunter.envoyconf import IntentError, load_intent
from shunter.envoyconf.core.envoy.bootstrap import clusters
from shunter.envoyconf.core.envoy.route import route_configuration
from shunter.envoyconf.core.generate import generate
from shunter.envoyconf.core.output import Settings
from shunter.envoyconf.core.targets import Target
from shunter.envoyconf.core.versions import Version
from shunter.envoyconf.errors import ToolMissingError
from shunter.envoyconf.testing_crds import load_definitions
from shunter.envoyconf.testing_kube import find_crds

LLAMA = {"name": "llama", "selector": {"app": "llama"}, "picker": {"collector": "llama-picker:24224"}}
EVERYTHING = {
    "pools": [LLAMA, {"name": "qwen", "endpoints": ["10.0.0.7:8000"], "picker": {"addresses": ["10.0.0.8:9002"], "tls": {}}}],
    "listeners": [{"port": 80}, {"name": "https", "port": 443, "hosts": ["llm.example"], "tls": {"secret": "shown"}}],
    "routes": [
        {"prefix": "/a", "pool": "llama", "models": ["a"], "profile": "usage"},
        {"prefix": "/b", "pools": [{"name": "llama"}, {"name": "qwen"}], "profile": "full"},
        {"pool": "llama", "profile": "native"},
    ],
}


def asked(**fields):
    return load_intent(json.dumps({"pools": [LLAMA]} | fields))


def documents(settings=None, **fields):
    made = generate(asked(**fields), Target.ENVOY_GATEWAY_PATCH, settings).documents
    return {each["kind"]: each for each in made if each["apiVersion"].startswith("gateway.")}


def patches(settings=None, **fields):
    return documents(settings, **fields)["EnvoyPatchPolicy"]["spec"]["jsonPatches"]


def test_envoy_gateways_own_definitions_agree():
    try:
        definitions = load_definitions(find_crds())
    except ToolMissingError as error:
        pytest.skip(str(error))
    for document in documents(**EVERYTHING).values():
        assert definitions.examine(document).problems == (), document


def test_clusters_are_those_of_an_envoy_of_ours():
    wanted = {each["name"]: each for each in clusters(asked(**EVERYTHING))}
    added = {each["name"]: each["operation"]["value"] for each in patches(**EVERYTHING) if each["type"].endswith("v3.Cluster")}
    started = documents(**EVERYTHING)["EnvoyProxy"]["spec"]["bootstrap"]["jsonPatches"]
    assert added | {each["value"]["name"]: each["value"] for each in started} == wanted
    assert [each["value"]["name"] for each in started] == ["collector/llama"], "a listener with records is refused without it"


def test_of_the_routes_of_an_envoy_of_ours_nothing_is_missing():
    fields = EVERYTHING | {"listeners": [{"port": 80}]}
    ours = route_configuration(asked(**fields))
    operations = [each["operation"] for each in patches(**fields) if each["type"].endswith("v3.RouteConfiguration")]
    patched = {each["path"].removeprefix("/"): each["value"] for each in operations}
    assert patched.keys() >= ours.keys() - {"name"}
    assert patched["typed_per_filter_config"] == ours["typed_per_filter_config"]


@pytest.mark.parametrize(
    ("scheme", "names"),
    [
        (1, {"default/inference-gateway/http", "default/inference-gateway/https"}),
        (2, {"tcp-80", "tcp-443", "http-80", "default/inference-gateway/https"}),
    ],
)
def test_listeners_and_routes_have_the_names_of_the_scheme(scheme, names):
    found = patches(Settings(xds_names=scheme), **EVERYTHING)
    assert {each["name"] for each in found if not each["type"].endswith("v3.Cluster")} == names


def test_fields_that_the_shipped_envoy_lacks_are_left_out():
    limits = {"security": {"rateLimits": [{"requests": 1}]}}
    assert "enable_retry_after_header" not in json.dumps(patches(Settings(envoy_version=Version(1, 40)), **limits))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pools": [LLAMA | {"overflow": {"address": "a:443"}}]}, r"pools\[0\]\.overflow"),
        ({"pools": [LLAMA | {"picker": {"tls": {"caFile": "ca"}}}]}, r"pools\[0\]\.picker\.tls.*envoy-gateway"),
        ({"security": {"jwt": [{"name": "us", "issuer": "us", "jwksFile": "keys"}]}}, "jwksFile.*jwksUri"),
    ],
)
def test_what_needs_files_or_another_bootstrap_is_refused(fields, words):
    with pytest.raises(IntentError, match=words):
        documents(**fields)
