from collections import Counter

import pytest

from shunter.picker.core.models import Rulebook, known_names
from shunter.picker.core.request import Request
from shunter.snapshot import Endpoint, InferenceModel, Objective, Pool, Rewrite, RewriteRule, Target, Topology

OLD, YOUNG = "2025-01-02T00:00:00Z", "2026-01-02T00:00:00Z"


def topology(**resources):
    resources.setdefault("pools", (Pool(name="pool"),))
    return Topology(epoch=1, generation=1, **resources)


def rewrite(name, *rules, pool="pool", created="", namespace="default"):
    made = tuple(RewriteRule(models=tuple(models), targets=(Target(model=target),)) for models, target in rules)
    return Rewrite(name=name, namespace=namespace, pool=pool, created=created, rules=made)


def asked(model="m", **fields):
    return Request(headers={}, model=model, **fields)


def test_a_model_unknown_to_any_rule_is_passed_on(dice):
    assert Rulebook(topology(), "pool").target(asked("whatever"), dice)[0] == "whatever"


def test_a_request_passed_on_unread_has_no_target(dice):
    rules = Rulebook(topology(rewrites=(rewrite("all", ([], "x")),)), "pool")
    assert rules.target(Request(headers={}, rewrite="y"), dice)[0] is None


@pytest.mark.parametrize(
    ("rewrites", "target"),
    [
        ([rewrite("a", (["m"], "exact"))], "exact"),
        ([rewrite("a", ([], "all"))], "all"),
        ([rewrite("a", ([], "all")), rewrite("b", (["m"], "exact"))], "exact"),
        ([rewrite("a", (["other"], "x"))], "header"),
        ([rewrite("a", (["m"], "young"), created=YOUNG), rewrite("b", (["m"], "old"), created=OLD)], "old"),
        ([rewrite("a", (["m"], "first"), (["m"], "second"))], "first"),
        ([rewrite("a", (["m", "n"], "first"))], "first"),
        ([rewrite("a", (["m"], "foreign"), pool="elsewhere")], "header"),
        ([rewrite("a", (["m"], "foreign"), namespace="elsewhere")], "header"),
    ],
)  # fmt: skip
def test_rewrites_come_before_the_header_and_exact_before_generic(dice, rewrites, target):
    models = (InferenceModel(name="im", pool="pool", model="m", targets=(Target(model="legacy"),)),)
    rules = Rulebook(topology(rewrites=tuple(rewrites), models=models), "pool")
    assert rules.target(asked(rewrite="header"), dice)[0] == target


def test_an_inference_model_comes_last(dice):
    models = (
        InferenceModel(name="b", pool="pool", model="m", targets=(Target(model="young"),), created=YOUNG),
        InferenceModel(name="a", pool="pool", model="m", targets=(Target(model="old"),), created=OLD),
        InferenceModel(name="c", pool="pool", model="bare"),
    )
    rules = Rulebook(topology(models=models), "pool")
    assert rules.target(asked(), dice)[0] == "old"
    assert rules.target(asked("bare"), dice)[0] == "bare"


def test_what_names_the_target_is_told(dice):
    models = (
        InferenceModel(name="im", pool="pool", model="m", targets=(Target(model="x"),)),
        InferenceModel(name="bare", pool="pool", model="b"),
    )
    rules = Rulebook(topology(rewrites=(rewrite("canary", (["r"], "x")),), models=models), "pool")
    requests = [asked("r"), asked("m"), asked("b"), asked("m", rewrite="y"), asked("own"), Request(headers={})]
    assert [rules.target(request, dice)[1] for request in requests] == [
        "InferenceModelRewrite default/canary",
        "InferenceModel default/im",
        "InferenceModel default/bare",
        "x-llm-d-model-name-rewrite",
        None,
        None,
    ]


@pytest.mark.parametrize(
    ("weights", "shares"),
    [([1, 3], [0.25, 0.75]), ([None, None], [0.5, 0.5]), ([None, 5], [0, 1]), ([7], [1]), ([1, 1, 2], [0.25, 0.25, 0.5])],
)
def test_targets_are_drawn_by_weight(dice, weights, shares):
    targets = tuple(Target(model=str(at), weight=weight) for at, weight in enumerate(weights))
    rules = Rulebook(topology(rewrites=(Rewrite(name="r", pool="pool", rules=(RewriteRule(targets=targets),)),)), "pool")
    drawn = Counter(rules.target(asked(), dice)[0] for _ in range(4000))
    assert [round(drawn[str(at)] / 4000, 1) for at in range(len(weights))] == pytest.approx(shares, abs=0.06)


def test_priority_is_the_objectives(dice):
    rules = Rulebook(
        topology(
            objectives=(
                Objective(name="high", pool="pool", priority=7),
                Objective(name="unset", pool="pool"),
                Objective(name="foreign", pool="elsewhere", priority=9),
            ),
            models=(
                InferenceModel(name="a", pool="pool", model="m", criticality="Sheddable"),
                InferenceModel(name="b", pool="pool", model="n", criticality="Critical"),
                InferenceModel(name="c", pool="pool", model="o"),
            ),
        ),
        "pool",
    )
    priorities = [rules.priority(asked(objective=name)) for name in ("high", "unset", "foreign", "missing")]
    assert priorities == [7, 0, 0, 0]
    assert [rules.priority(asked(model)) for model in ("m", "n", "o", "p")] == [-1, 1, 0, 0]


def test_without_a_pool_all_resources_count(dice):
    resources = topology(pools=(), rewrites=(rewrite("a", (["m"], "x"), pool="anything"),))
    assert Rulebook(resources).target(asked(), dice)[0] == "x"
    assert Rulebook(resources, "pool").target(asked(), dice)[0] == "m"
    assert Rulebook(None).target(asked(), dice)[0] == "m"


def shares(new, sticky="x-user-id"):
    """A rule that gives the new version so many of a hundred."""
    targets = (Target(model="v1", weight=100 - new), Target(model="v2", weight=new))
    return Rewrite(name="r", pool="pool", rules=(RewriteRule(models=("m",), targets=targets),), sticky=sticky)


def drawn(new, users, dice):
    rules = Rulebook(topology(rewrites=(shares(new),)), "pool")
    return {user: rules.target(Request(headers={"x-user-id": user}, model="m"), dice)[0] for user in users}


def test_a_client_keeps_to_its_target_and_to_the_new_one_for_good(dice):
    users = [f"user-{n}" for n in range(3000)]
    before = drawn(1, users, dice)
    for new in (10, 50, 99):
        now = drawn(new, users, dice)
        assert now == drawn(new, users, dice)
        assert {user for user in users if before[user] == "v2"} <= {user for user in users if now[user] == "v2"}
        assert abs([*now.values()].count("v2") / len(users) - new / 100) < 0.04
        before = now


def test_who_does_not_say_who_he_is_is_drawn(dice):
    rules = Rulebook(topology(rewrites=(shares(50),)), "pool")
    assert {rules.target(asked(), dice)[0] for _ in range(100)} == {"v1", "v2"}


def test_a_name_is_known_that_a_resource_or_an_engine_has():
    engine = Endpoint(slot=0, incarnation=1, name="a", address="10.0.0.1", port=8000, models=("base", "adapter"))
    models = (InferenceModel(name="im", pool="pool", model="legacy", targets=(Target(model="legacy-v1"),)),)
    known = known_names(topology(endpoints=(engine,), rewrites=(rewrite("r", (["chat"], "chat-v1")),), models=models))
    assert known == {"base", "adapter", "legacy", "legacy-v1", "chat", "chat-v1"}
    assert known_names(None) == frozenset()
