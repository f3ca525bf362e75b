"""What a control plane of ours sends passes the checks for control planes, and the rules for everybody."""

import json
from pathlib import Path

import pytest

from shunter.envoyconf import load_intent, render
from shunter.envoyconf.core.documents import load_documents
from shunter.envoyconf.core.generate import generate
from shunter.envoyconf.core.lint.envoy.discovery_rules import SELF_CHECKS
from shunter.envoyconf.core.lint.examine import examine
from shunter.envoyconf.core.targets import Target

GOLDEN = Path(__file__).parents[2] / "golden"


def sent(name):
    output = generate(load_intent((GOLDEN / f"{name}.intent.yaml").read_text()), Target.ENVOY_FS)
    return {artefact.name: artefact.documents for artefact in output.artefacts}


def codes(files, rules=SELF_CHECKS):
    documents = [
        document
        for name, bodies in files.items()
        for body in bodies
        for document in load_documents(render(body), f"{name}.yaml")
    ]
    return sorted({rule.code for rule, _ in examine(documents, rules=rules)})


@pytest.mark.parametrize("name", ["minimal", "models", "named", "usage", "full", "strict", "everything"])
def test_ours_sends_all_that_is_named(name):
    assert codes(sent(name)) == []


def change(files, name, edit):
    bodies = json.loads(json.dumps(files[name]))
    edit(bodies[0]["resources"])
    return {**files, name: tuple(bodies)}


def test_what_is_left_out_is_found():
    files = sent("minimal")
    assert codes({name: bodies for name, bodies in files.items() if name != "eds.pool_llama"}) == ["X1"]
    assert codes(change(files, "cds", lambda clusters: clusters.pop(0))) == ["X2"]
    assert codes(change(files, "eds.pool_llama", lambda found: found[0]["endpoints"][0].pop("load_balancing_weight"))) == ["X5"]
    assert codes(change(files, "eds.pool_llama", lambda found: found[0]["endpoints"][0].pop("locality"))) == ["X5"]
