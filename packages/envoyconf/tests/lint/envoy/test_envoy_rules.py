"""Each rule finds what its bad examples show, at the line that says ``# here``, and nothing in the good one.

An example is a bootstrap that Envoy accepts. Comments at its top may say for which Envoy it is, and what else it breaks.
"""

import json
import re
from pathlib import Path

import pytest
import trustme
import yaml

from shunter.envoyconf import EnvoyRefusedError
from shunter.envoyconf.core.documents import load_documents
from shunter.envoyconf.core.lint import RULES
from shunter.envoyconf.core.lint.correct import correct
from shunter.envoyconf.core.lint.examine import examine
from shunter.envoyconf.core.versions import DEFAULT_VERSION, parse_version
from shunter.envoyconf.shell import envoy

HERE = Path(__file__).parent
EXAMPLES = sorted(HERE.glob("*/*.yaml"))
BAD = [path for path in EXAMPLES if path.stem != "good"]
named = pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}-{path.stem}")
bad_named = pytest.mark.parametrize("path", BAD, ids=lambda path: f"{path.parent.name}-{path.stem}")


def version_of(text):
    said = re.search(r"^# envoy: (.*)", text, re.MULTILINE)
    return parse_version(said[1]) if said else DEFAULT_VERSION


def found_in(text):
    return [
        (rule.code, finding.document.line(finding.path))
        for rule, finding in examine(load_documents(text, "it.yaml"), version_of(text))
    ]


@bad_named
def test_a_bad_example_breaks_its_rule_at_that_line(path):
    text = path.read_text()
    lines = [number for number, line in enumerate(text.splitlines(), 1) if line.endswith("# here")]
    also = re.search(r"^# also: (.*)", text, re.MULTILINE)
    found = found_in(text)
    assert [(code, line) for code, line in found if code == path.parent.name] == [(path.parent.name, line) for line in lines]
    assert {code for code, _ in found} - {path.parent.name} == (set(also[1].split()) if also else set())


@pytest.mark.parametrize("path", sorted(HERE.glob("*/good.yaml")), ids=lambda path: path.parent.name)
def test_a_good_example_breaks_nothing(path):
    assert found_in(path.read_text()) == []


# What has no remedy that a program could write: it needs another cluster, a certificate, a decision.
UNFIXABLE = {
    "E01",
    "E07",
    "E09",
    "W11",
    "W18",
    "W19",
    "E28",
    "E29",
    "E30",
    "W32",
    "E33",
    "E34",
    "E35",
    "W49",
    "W51",
    "E62",
    "W63",
    "W97",
    "E98",
    "E102",
}


def corrected(path):
    """Return an example after the corrections that its rule offers."""
    text = path.read_text()
    rules = [rule for rule in RULES if rule.code == path.parent.name]
    texts, _ = correct({"it.yaml": text}, lambda documents: examine(documents, version_of(text), rules))
    return texts["it.yaml"]


@bad_named
def test_a_correction_leaves_nothing_of_it(path):
    left = [code for code, _ in found_in(corrected(path)) if code == path.parent.name]
    partly = {
        "E95/bad",
        "E95/bad-least-request",
        "E103/bad-expression",
        "E104/bad-name",
        "W06/bad-grpc",
        "W06/bad-observing",
        "W16/bad-relied",
        "W47/bad-model",
    }
    if path.parent.name in UNFIXABLE or f"{path.parent.name}/{path.stem}" in partly:
        assert left == [path.parent.name]
        assert corrected(path) == path.read_text()
    else:
        assert left == []


@pytest.fixture(scope="module")
def accepted(envoy_binary, tmp_path_factory):
    """Has Envoy accept what a text says, once: corrections often say what another example does."""
    ca = tmp_path_factory.mktemp("ca") / "ca.pem"
    trustme.CA().cert_pem.write_to_path(ca)
    seen = set()

    def accept(text):
        said = json.dumps(yaml.safe_load(text.replace("/etc/envoy/ca.pem", str(ca))), sort_keys=True)
        if said not in seen:
            envoy.validate(said, envoy_binary)
            seen.add(said)

    return accept


@pytest.mark.envoy
@named
def test_envoy_accepts_examples_and_corrections(path, accepted):
    accepted(path.read_text())
    accepted(corrected(path))


@pytest.mark.envoy
@pytest.mark.parametrize("code", ["E14", "E62"])
def test_what_is_too_new_an_older_envoy_refuses(code, monkeypatch):
    monkeypatch.delenv("ENVOY_PATH", raising=False)
    if (binary := envoy.find("1.37.0")) is None:
        pytest.skip("not here: shunter envoyconf fetch-envoy --version 1.37.0")
    envoy.validate((HERE / code / "good.yaml").read_text(), binary)
    with pytest.raises(EnvoyRefusedError):
        envoy.validate((HERE / code / "bad.yaml").read_text(), binary)
