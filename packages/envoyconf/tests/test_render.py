"""YAML that says why, and means what was given."""

import contextlib
import itertools
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from shunter.envoyconf import IntentError, load_intent
from shunter.envoyconf.core.comments import WHY, comments
from shunter.envoyconf.core.generate import MAKERS, generate
from shunter.envoyconf.core.output import Settings
from shunter.envoyconf.core.render import HEADER, render
from shunter.envoyconf.core.versions import DEFAULT_VERSION, OLDEST_VERIFIED

GOLDEN = Path(__file__).parent / "golden"

# Keys that have comments among keys that have none.
steps = sorted({step.partition("=")[0] for key in WHY for step in key.split(".")})
keys = st.sampled_from([*steps, "@type", "kind", "a"]) | st.text(max_size=200)
scalars = (
    st.text() | st.integers() | st.booleans() | st.none() | st.sampled_from(["0s", "BUFFERED", "a.b.HttpConnectionManager"])
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=5), max_leaves=30
)
resources = st.dictionaries(keys, values, max_size=5)


@given(st.lists(resources, min_size=1, max_size=2))
def test_comments_change_no_value(documents):
    assert [*yaml.safe_load_all(render(documents))] == documents


def test_a_reason_stands_above_its_value_once_in_a_text():
    cluster = {"clusters": [{"name": "a", "connect_timeout": "2s"}, {"name": "b", "connect_timeout": "2s"}]}
    assert render([cluster, cluster]) == (
        HEADER
        + """clusters:
- name: a
  # A pod that vanished without a word holds a request this long.
  connect_timeout: 2s
- name: b
  connect_timeout: 2s
---
clusters:
- name: a
  connect_timeout: 2s
- name: b
  connect_timeout: 2s
"""
    )
    assert "#" not in render([cluster, cluster], "json")


def test_a_reason_may_be_that_of_one_value():
    assert "would cut streams" in render({"route": {"timeout": "0s"}})
    assert "would cut streams" not in render({"route": {"timeout": "60s"}})


KUBERNETES = Path(__file__).parent / "kubernetes"
SESSIONS = """
pools: [{name: llama, selector: {app: vllm}, picker: {collector: "llama-picker:24224"}}]
routes: [{pool: llama, profile: native, affinity: {header: x-session}}]
"""


def test_every_reason_is_met_somewhere():
    said = set()
    keyed = (GOLDEN / "guarded.intent.yaml").read_text().replace("{address:", "{credentialFile: /run/key, address:")
    intents = [SESSIONS, keyed, *(path.read_text() for each in (GOLDEN, KUBERNETES) for path in each.glob("*.intent.yaml"))]
    for text, target, version in itertools.product(intents, MAKERS, (OLDEST_VERIFIED, DEFAULT_VERSION)):
        with contextlib.suppress(IntentError):  # not for that target, or version
            for document in generate(load_intent(text), target, Settings(envoy_version=version)).documents:
                assert {why for _, why in comments(document, said)} <= {*WHY.values()}
    assert {*WHY} - said == set()


@pytest.mark.parametrize("key", WHY)
def test_reasons_are_sentences(key):
    assert WHY[key].endswith(".")
