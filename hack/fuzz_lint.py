"""Fuzz target: any text is examined, corrected, migrated and imported, or is an error; no document is lost on the way."""

import contextlib
from pathlib import Path

from shunter.envoyconf import IntentError
from shunter.envoyconf.core.documents import load_documents
from shunter.envoyconf.core.importing import import_envoy
from shunter.envoyconf.core.kube.migrate import migrate
from shunter.envoyconf.core.kube.reading import intent_from
from shunter.envoyconf.core.lint.correct import correct
from shunter.envoyconf.core.lint.examine import examine
from shunter.envoyconf.core.lint.report import Report, as_json, as_sarif, as_text
from shunter.envoyconf.core.lint.suppress import sort_out, suppressions

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "packages" / "envoyconf" / "tests" / "lint" / "kube"
CORPUS = [path.read_bytes() for path in sorted((ROOT / "docs" / "gateway" / "lint").glob("*.yaml"))]
CORPUS += [(EXAMPLES / code / "bad.yaml").read_bytes() for code in ("E37", "E58", "E59", "E75", "E82", "W64", "W76")]
CORPUS += [
    b"apiVersion: inference.networking.x-k8s.io/v1alpha2\nkind: InferenceModel\nmetadata: {name: a}\nspec: {modelName: a}\n",
    b"# shunter-lint: ignore=W61 new\napiVersion: gateway.networking.k8s.io/v1\nkind: ReferenceGrant\nspec: {from: []}\n",
]


def target(data):
    text = data.decode(errors="replace")
    try:
        documents = load_documents(text, "file.yaml")
    except IntentError:
        return
    report = Report(*sort_out(examine(documents), suppressions(text, "file.yaml")))
    assert all((as_text(report), as_json(report), as_sarif(report, "0"))) or not report.found
    corrected, done = correct({"file.yaml": text}, examine)
    assert len(load_documents(corrected["file.yaml"], "file.yaml")) == len(documents)
    assert done or corrected["file.yaml"] == text
    migrated = migrate(text, "file.yaml")
    assert len(load_documents(migrated.text, "file.yaml")) >= len(documents)
    for read in (intent_from, import_envoy):
        with contextlib.suppress(IntentError):
            read(documents)
