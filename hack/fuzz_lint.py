"""Fuzz target: whatever is examined, the linter finds something or nothing, at places that are there; its fixes can be read."""

from pathlib import Path

from shunter.envoyconf import IntentError
from shunter.envoyconf.core.documents import load_documents
from shunter.envoyconf.core.lint.correct import correct
from shunter.envoyconf.core.lint.examine import examine
from shunter.envoyconf.core.versions import Version

EXAMPLES = Path(__file__).resolve().parents[1] / "packages" / "envoyconf" / "tests" / "lint"
CORPUS = [path.read_bytes() for path in sorted(EXAMPLES.glob("*/*/bad*.yaml"))]


def target(data):
    text = data.decode(errors="replace")
    try:
        documents = load_documents(text, "file.yaml")
    except IntentError:
        return
    for rule, finding in examine(documents, Version(1, 36)):
        assert rule.code
        assert finding.message
        assert finding.document.line(finding.path) >= 1
    texts, _ = correct({"file.yaml": text}, examine)
    load_documents(texts["file.yaml"], "file.yaml")
