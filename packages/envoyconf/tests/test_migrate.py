"""Old API versions become those of today; comments, order and what is not old stay."""

import contextlib
import json

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from shunter.envoyconf import IntentError
from shunter.envoyconf.cli import main
from shunter.envoyconf.core.documents import load_documents
from shunter.envoyconf.core.kube.migrate import migrate
from shunter.envoyconf.core.kube.reading import intent_from
from shunter.envoyconf.core.lint.examine import examine

OLD = """\
# our pool
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferencePool
metadata:
  name: llama  # the name
spec:
  # who is in it
  selector:
    app: vllm
  targetPortNumber: 8000  # where vLLM listens
  extensionRef:
    name: llama-epp  # the picker
    portNumber: 9002
    failureMode: FailOpen
"""
NEW = """\
# our pool
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata:
  name: llama  # the name
spec:
  # who is in it
  selector:
    matchLabels:
      app: vllm
  targetPorts: [{number: 8000}]  # where vLLM listens
  endpointPickerRef:
    name: llama-epp  # the picker
    port: {number: 9002}
    failureMode: FailOpen
"""
MODEL = """\
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceModel
metadata:
  name: chat  # for the chat
  namespace: llm
spec:
  modelName: chat
  criticality: Sheddable
  poolRef:
    name: llama
  targetModels:
  - name: llama-1
    weight: 9
  - name: llama-2
    weight: 1
"""


def plain(text):
    return [document.body for document in load_documents(text, "")]


def test_a_pool_keeps_its_comments_and_its_order():
    assert migrate(OLD, "pool.yaml").text == NEW


def test_what_is_new_stays_as_it_is():
    assert migrate(NEW, "pool.yaml").text == NEW
    assert migrate(NEW, "pool.yaml").notes == ()


def test_a_pool_with_fields_of_both_versions_is_put_right():
    mixed = NEW.replace("targetPorts: [{number: 8000}]", "targetPortNumber: 8000")
    mixed = mixed.replace("    matchLabels:\n      app: vllm", "    app: vllm")
    assert migrate(mixed, "pool.yaml").text == NEW


def test_the_port_that_was_inferred_is_written_and_told():
    result = migrate(OLD.replace("    portNumber: 9002\n", ""), "pool.yaml")
    assert plain(result.text)[0]["spec"]["endpointPickerRef"]["port"] == {"number": 9002}
    assert result.notes == ("pool.yaml:12: v1 wants the picker's port; 9002 is what v1alpha2 inferred",)


@pytest.mark.parametrize("group", ["llm-d.ai", "inference.networking.x-k8s.io"])
def test_a_model_becomes_an_objective_and_a_rewrite(group):
    result = migrate(MODEL, "model.yaml", group)
    objective, rewrite = plain(result.text)
    pool = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "llama"}
    assert objective == {
        "apiVersion": f"{group}/v1alpha2",
        "kind": "InferenceObjective",
        "metadata": {"name": "chat", "namespace": "llm"},
        "spec": {"priority": -10, "poolRef": pool},
    }
    assert rewrite == {
        "apiVersion": f"{group}/v1alpha2",
        "kind": "InferenceModelRewrite",
        "metadata": {"name": "chat", "namespace": "llm"},
        "spec": {
            "poolRef": pool,
            "rules": [
                {
                    "matches": [{"model": {"type": "Exact", "value": "chat"}}],
                    "targets": [{"modelRewrite": "llama-1", "weight": 9}, {"modelRewrite": "llama-2", "weight": 1}],
                }
            ],
        },
    }
    assert "# for the chat" in result.text
    assert any("x-llm-d-inference-objective: chat" in note for note in result.notes)


def test_a_file_of_json_stays_one_and_the_rewrite_is_told():
    result = migrate(json.dumps(yaml.safe_load(MODEL)), "m.json")
    assert json.loads(result.text)["kind"] == "InferenceObjective"
    (told,) = [note for note in result.notes if "add {" in note]
    assert json.loads(told.partition(" add ")[2])["spec"]["rules"][0]["targets"][1] == {"modelRewrite": "llama-2", "weight": 1}


def test_a_reference_that_names_no_kind_follows_too():
    text = "apiVersion: llm-d.ai/v1alpha2\nkind: InferenceObjective\nspec: {poolRef: {name: a, group: GROUP}}\n"
    old, new = "inference.networking.x-k8s.io", "inference.networking.k8s.io"
    assert migrate(text.replace("GROUP", old), "m").text == text.replace("GROUP", new)


def test_what_has_to_be_written_by_hand_is_told():
    text = "apiVersion: gateway.networking.k8s.io/v1alpha2\nkind: BackendTLSPolicy\nspec: {targetRef: {}}\n"
    assert migrate(text, "m.yaml").text == text
    assert [note for note in migrate(text, "m.yaml").notes if note.startswith("m.yaml:1: v1 has targetRefs")]


def test_a_model_without_targets_needs_no_rewrite():
    text = MODEL.partition("  targetModels:")[0].replace("  criticality: Sheddable\n", "")
    assert [(body["kind"], body["spec"]["priority"]) for body in plain(migrate(text, "m").text)] == [("InferenceObjective", 0)]


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [
        ("HTTPRoute", "gateway.networking.k8s.io/v1beta1", "gateway.networking.k8s.io/v1"),
        ("Gateway", "gateway.networking.k8s.io/v1alpha2", "gateway.networking.k8s.io/v1"),
        ("ReferenceGrant", "gateway.networking.k8s.io/v1alpha2", "gateway.networking.k8s.io/v1beta1"),
        ("ReferenceGrant", "gateway.networking.k8s.io/v1beta1", "gateway.networking.k8s.io/v1beta1"),
        ("BackendTLSPolicy", "gateway.networking.k8s.io/v1alpha3", "gateway.networking.k8s.io/v1"),
        ("DestinationRule", "networking.istio.io/v1beta1", "networking.istio.io/v1"),
        ("InferenceObjective", "inference.networking.x-k8s.io/v1alpha2", "llm-d.ai/v1alpha2"),
        ("InferenceObjective", "inference.networking.k8s.io/v1", "llm-d.ai/v1alpha2"),
        ("InferencePoolImport", "inference.networking.x-k8s.io/v1alpha1", "inference.networking.x-k8s.io/v1alpha1"),
        ("Deployment", "apps/v1beta1", "apps/v1beta1"),
    ],
)
def test_versions_whose_fields_are_the_same_change_in_one_word(kind, old, new):
    text = f"kind: {kind}\napiVersion: {old} # here\nspec: {{}}\n"
    assert migrate(text, "m").text == text.replace(old, new)


def test_references_to_old_pools_follow_wherever_they_are():
    text = """\
apiVersion: v1
kind: List
items:
- apiVersion: gateway.networking.k8s.io/v1
  kind: HTTPRoute
  spec:
    rules:
    - backendRefs:
      - {group: inference.networking.x-k8s.io, kind: InferencePool, name: a}
      - {group: inference.networking.x-k8s.io, kind: Other, name: a}
- apiVersion: gateway.networking.k8s.io/v1beta1
  kind: ReferenceGrant
  spec:
    to:
    - group: inference.networking.x-k8s.io # old
      kind: InferencePool
"""
    expected = text.replace(
        "{group: inference.networking.x-k8s.io, kind: InferencePool", "{group: inference.networking.k8s.io, kind: InferencePool"
    )
    assert migrate(text, "m").text == expected.replace("x-k8s.io # old", "k8s.io # old")


def test_what_stands_behind_an_alias_is_told_not_changed():
    text = OLD.replace("  targetPortNumber: 8000", "  port: &port 8000\n  targetPortNumber: *port")
    result = migrate(text, "m.yaml")
    assert plain(result.text)[0]["spec"]["port"] == 8000
    assert [note for note in result.notes if "do it by hand" in note and note.startswith("m.yaml:12: ")]


def test_what_was_migrated_breaks_no_rule_about_old_versions_and_is_an_intent():
    route = """\
---
apiVersion: gateway.networking.k8s.io/v1beta1
kind: HTTPRoute
metadata: {name: all}
spec: {rules: [{backendRefs: [{group: inference.networking.x-k8s.io, kind: InferencePool, name: llama}]}]}
"""
    text = migrate(OLD + route, "m").text
    documents = load_documents(text, "m")
    assert [rule.code for rule, _ in examine(documents)] == []
    assert intent_from(documents).intent.pools[0].target_ports == (8000,)


def test_the_command_shows_the_difference_and_writes_when_asked(tmp_path):
    path = tmp_path / "pool.yaml"
    path.write_text(OLD)
    shown = CliRunner().invoke(main, ["migrate", "-f", str(path)])
    assert "+apiVersion: inference.networking.k8s.io/v1" in shown.stdout
    assert path.read_text() == OLD
    assert CliRunner().invoke(main, ["migrate", "-f", str(path), "--write"]).exit_code == 0
    assert path.read_text() == NEW
    assert CliRunner().invoke(main, ["migrate"], input=OLD).stdout == NEW
    assert CliRunner().invoke(main, ["migrate"], input="a: [").exit_code == 2


values = st.recursive(
    st.none() | st.integers(-1, 9) | st.sampled_from(["", "a", "InferencePool", "inference.networking.x-k8s.io"]),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "kind", "group", "name"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.sampled_from([OLD, MODEL]), st.data(), values)
def test_any_object_is_migrated_or_told(text, data, value):
    body = yaml.safe_load(text)
    body["spec"][data.draw(st.sampled_from(list(body["spec"])))] = value
    with contextlib.suppress(IntentError):
        migrate(yaml.safe_dump(body, default_flow_style=data.draw(st.booleans())), "m")
