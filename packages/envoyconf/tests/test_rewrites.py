"""Rewrites reach pickers as objects whose names and pools are those of the intent."""

import json

import pytest
import yaml

from shunter.envoyconf import IntentError, load_intent
from shunter.envoyconf.core.generate import MAKERS, PLAIN_ENVOYS, generate
from shunter.envoyconf.core.targets import Target

ROLLOUT = {"models": ["review"], "rewrites": [{"model": "review-v1", "weight": 90}, {"model": "review-v2", "weight": 10}]}


def intent(*routes, **fields):
    pools = [{"name": name, "selector": {"app": name}, "picker": {"failureMode": "FailClose"}} for name in ("llama", "spare")]
    return load_intent(json.dumps({"pools": pools, "routes": [*routes, {"pool": "llama"}]} | fields))


def rewrites(meant, target=Target.ENVOY_STATIC):
    return [artefact.documents for artefact in generate(meant, target).artefacts if artefact.name == "rewrites"]


def told(documents):
    """Return the rewrites among objects, and among the files of the scrapers that are installed with them."""
    files = [each["data"]["endpoints.yaml"] for each in documents if each["kind"] == "ConfigMap"]
    inside = [document for text in files for document in yaml.safe_load_all(text)]
    return [each for each in (*documents, *inside) if each.get("kind") == "InferenceModelRewrite"]


@pytest.mark.parametrize("target", MAKERS)
def test_every_target_brings_them(target):
    meant = intent({"pool": "llama", **ROLLOUT}, kubernetes={"namespace": "llm"}, profile="full", modelHeader="x-model")
    (document,) = rewrites(meant, target)[0] if target in PLAIN_ENVOYS else told(generate(meant, target).documents)
    assert document == {
        "apiVersion": "llm-d.ai/v1alpha2",
        "kind": "InferenceModelRewrite",
        "metadata": {"name": "llama", "namespace": "llm"},
        "spec": {
            "poolRef": {"name": "llama"},
            "rules": [
                {
                    "matches": [{"model": {"value": "review"}}],
                    "targets": [{"modelRewrite": "review-v1", "weight": 90}, {"modelRewrite": "review-v2", "weight": 10}],
                }
            ],
        },
    }


@pytest.mark.parametrize("target", [target for target in MAKERS if target not in PLAIN_ENVOYS])
def test_a_picker_that_is_there_already_is_told_by_the_api(target):
    pool = {"name": "llama", "selector": {"app": "llama"}, "picker": {"addresses": ["p:9002"], "failureMode": "FailClose"}}
    meant = intent({"pool": "llama", **ROLLOUT}, pools=[pool], profile="full", modelHeader="x-model")
    assert [len(documents) for documents in rewrites(meant, target)] == [1]


def test_without_rewrites_there_is_no_file():
    assert rewrites(intent()) == []


def test_pools_of_one_route_have_the_same_and_one_without_weight_has_none():
    canary = {"models": ["review"], "rewrites": [{"model": "review-v1"}, {"model": "review-v2", "weight": 0}]}
    ((first, second),) = rewrites(intent({"pools": [{"name": "spare"}, {"name": "llama"}], **canary}))
    assert (first["metadata"]["name"], second["metadata"]["name"]) == ("llama", "spare")
    assert first["spec"]["rules"] == second["spec"]["rules"]
    assert first["spec"]["rules"][0]["targets"] == [{"modelRewrite": "review-v1", "weight": 1}]


def test_two_routes_may_say_the_same_but_not_different_things_of_a_model():
    other = {"models": ["review"], "rewrites": [{"model": "review-v3"}]}
    ((document,),) = rewrites(
        intent({"pool": "llama", "prefix": "/a", **ROLLOUT}, {"pool": "llama", "prefix": "/b", **ROLLOUT})
    )
    assert len(document["spec"]["rules"]) == 1
    with pytest.raises(IntentError, match=r"routes\[1\]\.rewrites differ from those of routes\[0\] for 'review'"):
        rewrites(intent({"pool": "llama", "prefix": "/a", **ROLLOUT}, {"pool": "llama", "prefix": "/b", **other}))


@pytest.mark.parametrize(
    ("route", "message"),
    [
        ({"profile": "native", **ROLLOUT}, r"routes\[0\]\.rewrites: only a picker"),
        ({**ROLLOUT, "rewrites": [{"model": "a", "weight": 0}]}, r"rewrites have no weight at all"),
    ],
)
def test_what_cannot_be_is_said(route, message):
    with pytest.raises(IntentError, match=message):
        intent({"pool": "llama", **route})
