"""What several pickers say together."""

import msgspec
import pytest

from shunter.rollout.core.sight import Page, check_targets, holders, in_force, others
from shunter.rollout.errors import ConfigError


@pytest.fixture
def page():
    """A picker's page: endpoints by what they list, and targets with shares."""

    def page(endpoints, splits=(), age_s=0.1):
        rows = [
            {
                "authority": name,
                "ready": True,
                "health": "fresh",
                "pools": ["default/engines"],
                "engine": "vllm",
                "models": models,
            }
            | (more[0] if more else {})
            for name, (models, *more) in endpoints.items()
        ]
        shares = [
            {"rule": "r", "model": model, "shares": [{"model": target, "wanted": wanted} for target, wanted in targets.items()]}
            for model, targets in splits
        ]
        return msgspec.convert({"snapshot_age_s": age_s, "endpoints": rows, "splits": shares}, Page)

    return page


V2 = ["base", "review-v2"]


def test_an_endpoint_has_a_version_when_all_pickers_know_it(make_rollout, page):
    rollout = make_rollout()
    pages = [page({"a": [V2], "b": [V2]}), page({"a": [V2], "b": [["base"]]})]
    found = holders(pages, rollout, rollout.to)
    assert (found.having, found.lacking) == (("a",), ("b",))


def test_who_gets_no_requests_does_not_count(make_rollout, page):
    rollout = make_rollout()
    pages = [
        page({"a": [V2], "b": [[], {"ready": False}], "c": [[], {"health": "unreachable"}], "d": [[], {"pools": ["x/y"]}]})
    ]
    assert holders(pages, rollout, rollout.to).lacking == ()


def test_a_picker_that_hears_nothing_of_its_scraper_knows_nothing(make_rollout, page):
    rollout = make_rollout()
    assert holders([page({"a": [V2]}, age_s=60)], rollout, rollout.to) is None
    assert holders([page({"a": [V2]}, age_s=None)], rollout, rollout.to) is None
    assert holders([], rollout, rollout.to) is None


def test_who_lists_nothing_at_all_is_told_apart(make_rollout, page):
    rollout = make_rollout()
    assert holders([page({"a": [V2], "b": [[]], "c": [["base"]]})], rollout, rollout.to).silent == ("b",)


def test_a_share_is_in_force_when_all_pickers_have_it(make_rollout, page):
    rollout = make_rollout()
    ten, none = [("review", {"review-v1": 0.9, "review-v2": 0.1})], [("review", {"review-v1": 1.0})]
    assert in_force([page({}, ten), page({}, ten)], rollout) == 10
    assert in_force([page({}, ten), page({}, none)], rollout) is None
    assert in_force([page({}, none)], rollout) == 0


def test_a_rule_for_all_models_counts_where_none_names_it(make_rollout, page):
    rollout = make_rollout()
    everybody = ("", {"review-v2": 1.0})
    assert in_force([page({}, [everybody])], rollout) == 100
    assert in_force([page({}, [everybody, ("review", {"review-v1": 1.0})])], rollout) == 0
    assert in_force([page({}, [("other", {"review-v2": 1.0})])], rollout) is None


def test_two_rules_that_contradict_each_other_are_no_share(make_rollout, page):
    splits = [("review", {"review-v1": 1.0}), ("review", {"review-v2": 1.0})]
    assert in_force([page({}, splits)], make_rollout()) is None


def test_models_of_neither_side_that_get_requests_are_named(make_rollout, page):
    rollout = make_rollout()
    moved = page({}, [("review", {"review-v1": 0.5, "review-v9": 0.5, "review-v0": 0.0}), ("", {"base": 1.0})])
    assert others([page({}, [("review", {"review-v1": 1.0})]), moved], rollout) == ("review-v9",)
    assert others([page({}, [("", {"base": 1.0})])], rollout) == ()  # a rule for all models is nobody's decision about this one
    with pytest.raises(ConfigError, match="requests for review go to review-v9 now"):
        check_targets(rollout, ("review-v9",))
