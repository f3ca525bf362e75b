"""Findings come in the order of their places, each once."""

import json
from textwrap import indent

import pytest

from shunter.envoyconf.core.documents import load_documents
from shunter.envoyconf.core.lint.examine import examine
from shunter.envoyconf.core.versions import Version

OPEN = """\
admin:
  address:
    socketAddress: {address: 0.0.0.0, port_value: 9901}
"""


def test_a_finding_has_its_line_and_its_remedy():
    ((rule, finding),) = examine(load_documents(OPEN, "a.yaml"))
    assert rule.code == "W26"
    assert finding.document.line(finding.path) == 3
    assert finding.path == ("admin", "address", "socketAddress", "address")
    assert finding.fixes[0].path == ("admin", "allow_paths")


def test_a_fix_is_one_that_the_version_has():
    ((_, finding),) = examine(load_documents(OPEN, "a.yaml"), Version(1, 36))
    assert [(fix.path, fix.value) for fix in finding.fixes] == [(finding.path, "127.0.0.1")]


def test_findings_are_sorted_by_file_and_line():
    documents = [*load_documents(OPEN, "b.yaml"), *load_documents("---\n\n" + OPEN + "---\n" + OPEN, "a.yaml")]
    found = examine(documents)
    assert [(finding.document.file, finding.document.line(finding.path)) for _, finding in found] == [
        ("a.yaml", 5),
        ("a.yaml", 9),
        ("b.yaml", 3),
    ]


@pytest.mark.parametrize("kind", ["type.googleapis.com/acme.Resource", "acme", "/", "type.googleapis.com/google.protobuf.Any"])
@pytest.mark.parametrize("form", ['{{"@type": "{}", "value": 1}}', '{{"resources": [{{"@type": "{}"}}, 3, null, "a"]}}'])
def test_resources_of_a_kind_that_nobody_knows_are_let_be(kind, form):
    assert examine(load_documents(form.format(kind), "a.json"), Version(1, 36)) == []


INNER = f"static_resources: {{}}\n{OPEN}"
BLOCK = "|\n" + indent(INNER, "    ")


@pytest.mark.parametrize(
    ("text", "line"), [(BLOCK, 9), (f"{BLOCK}binaryData: {{}}\n", 9), (f"{json.dumps(INNER)}\nbinaryData: {{}}\n", 5)]
)
def test_an_envoy_in_a_config_map_is_examined_where_it_stands(text, line):
    head = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: envoy}\ndata:\n"
    ((rule, finding),) = examine(load_documents(f"{head}  envoy.yaml: {text}", "a.yaml"))
    assert (rule.code, finding.document.line(finding.path)) == ("W26", line)
    assert finding.fixes == ()  # it is not edited inside of another text


@pytest.mark.parametrize("text", ["static_resources: [", "[static_resources]", "static_resources", "kind: EnvoyGateway"])
def test_any_other_text_in_a_config_map_is_let_be(text):
    body = json.dumps({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": text, "b": 3, "c": None}})
    assert examine(load_documents(body, "a.json")) == []


def test_envoy_gateways_own_configuration_is_read_where_it_is_installed():
    text = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: envoy-gateway-config}
data:
  envoy-gateway.yaml: |
    apiVersion: gateway.envoyproxy.io/v1alpha1
    kind: EnvoyGateway
    extensionApis: {enableEnvoyPatchPolicy: false}
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyPatchPolicy
metadata: {name: a}
"""
    assert [rule.code for rule, _ in examine(load_documents(text, "a.yaml"))] == ["E55"]
    assert examine(load_documents(text.replace("false", "true"), "a.yaml")) == []
