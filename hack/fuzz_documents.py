"""Fuzz target: any text is documents, of which the schema says what is wrong and where, or an error that names the file."""

from pathlib import Path

from shunter.envoyconf import IntentError
from shunter.envoyconf.core.comparison import compare
from shunter.envoyconf.core.documents import load_documents
from shunter.envoyconf.core.schema import envoy_schema, notes, problems
from shunter.envoyconf.core.validation import check_schema
from shunter.envoyconf.core.versions import DEFAULT_VERSION

GOLDEN = Path(__file__).resolve().parents[1] / "packages" / "envoyconf" / "tests" / "golden"
CORPUS = [path.read_bytes() for path in sorted(GOLDEN.glob("minimal.bootstrap.yaml"))]
CORPUS += [
    b"{static_resources: {clusters: [{name: a, connect_timeout: 1s, type: EDS, metadata: {filter_metadata: {b: {}}}}]}}",
    b"apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: a}}\n---\n- b\n",
    b"""\
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyPatchPolicy
spec:
  jsonPatches:
  - type: type.googleapis.com/envoy.config.cluster.v3.Cluster
    operation: {path: "", value: {name: b, a: {"@type": type.googleapis.com/envoy.config.cluster.v3.Cluster}}}
""",
    b"a: &a {x: 1}\nb: {<<: *a, y: .nan}\nc: [*a, 2026-01-31, !!binary aGk=, 0x1F, 1_000, yes]\n? [k]\n: v\n",
]
BOOTSTRAP = "envoy.config.bootstrap.v3.Bootstrap"


def target(data):
    documents, message = (), "file.yaml"
    try:
        documents = load_documents(data.decode(errors="replace"), "file.yaml")
    except IntentError as error:
        message = str(error)
    assert message.startswith("file.yaml"), f"the file is not named: {message}"
    assert compare(documents, documents) == []
    check_schema(documents, DEFAULT_VERSION)
    for document in documents:
        for each in (*problems(envoy_schema(), document.body, BOOTSTRAP), *notes(envoy_schema(), document.body, BOOTSTRAP)):
            assert document.line(each.path) >= 1
            assert str(each)
