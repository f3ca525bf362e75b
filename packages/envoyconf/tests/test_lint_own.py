"""What is generated for gateways in Kubernetes breaks no rule, whatever the intent; an exception is named with its reason."""

from pathlib import Path

import pytest

from shunter.envoyconf import IntentError, load_intent
from shunter.envoyconf.core.documents import Document
from shunter.envoyconf.core.generate import MAKERS, generate
from shunter.envoyconf.core.lint.examine import examine

HERE = Path(__file__).parent
INTENTS = sorted([*HERE.glob("golden/*.intent.yaml"), *HERE.glob("kubernetes/*.intent.yaml")])

TARGETS = [target for target in MAKERS if not target.value.startswith("envoy-") or "gateway" in target.value]

# What an intent may ask for though a rule warns of it, and what no file could tell.
KNOWN = {
    "W63": "the profile usage counts tokens by filters that are marked as work in progress",
    "W76": "FailOpen is not heeded by AI Gateway, as `generate` says too",
}


@pytest.mark.parametrize("path", INTENTS, ids=lambda path: path.name.removesuffix(".intent.yaml"))
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.value)
def test_what_is_generated_breaks_no_rule(path, target):
    try:
        output = generate(load_intent(path.read_text()), target)
    except IntentError:
        pytest.skip("this gateway cannot be told so, which other tests see to")
    found = examine(Document(body, "generated.yaml", {(): 1}) for body in output.documents)
    assert [(rule.code, finding.path, finding.message) for rule, finding in found if rule.code not in KNOWN] == []
