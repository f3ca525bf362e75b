"""What resources ask for is set beside what came of it."""

import pytest

from shunter.picker.core.splits import splits
from shunter.snapshot import InferenceModel, Pool, Rewrite, RewriteRule, Target, Topology


def topology(*, rewrites=(), models=()):
    return Topology(epoch=1, generation=1, pools=(Pool(name="p"), Pool(name="q")), rewrites=rewrites, models=models)


def rewrite(*targets, models=("chat",), pool="p"):
    return Rewrite(name="canary", pool=pool, rules=(RewriteRule(models=models, targets=targets),))


@pytest.mark.parametrize(
    ("weights", "wanted"), [((9, 1), [0.9, 0.1]), ((None, None), [0.5, 0.5]), ((1, None), [1.0, 0.0])], ids=str
)
def test_weights_become_shares(weights, wanted):
    given = rewrite(*[Target(model=f"v{n}", weight=weight) for n, weight in enumerate(weights)])
    (found,) = splits(topology(rewrites=(given,)), "p", {})
    assert [share.wanted for share in found.shares] == wanted


def test_requests_are_counted_where_the_rule_sent_them():
    given = rewrite(Target(model="v1", weight=1), Target(model="v2", weight=1))
    rulings = {
        ("InferenceModelRewrite default/canary", "chat", "v2"): 7,
        ("InferenceModelRewrite default/other", "chat", "v1"): 3,
    }
    (found,) = splits(topology(rewrites=(given,)), None, rulings)
    assert {share.model: share.requests for share in found.shares} == {"v1": 0, "v2": 7}


def test_a_rule_for_all_models_is_one_split():
    (found,) = splits(topology(rewrites=(rewrite(Target(model="v1"), models=()),)), None, {})
    assert found.model == ""


def test_another_pools_resources_are_not_told():
    assert splits(topology(rewrites=(rewrite(Target(model="v1"), pool="q"),)), "p", {}) == ()


def test_an_inference_model_without_targets_splits_nothing():
    models = (
        InferenceModel(name="plain", pool="p", model="a"),
        InferenceModel(name="split", pool="p", model="b", targets=(Target(model="b2"),)),
    )
    assert [each.rule for each in splits(topology(models=models), "p", {})] == ["InferenceModel default/split"]
