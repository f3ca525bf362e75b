"""Weights as they are written down are weights as the scraper reads them."""

import msgspec
import pytest

from shunter.rollout.core.weights import rewrite, route_share, routed
from shunter.rollout.errors import ConfigError
from shunter.scraper.core.documents import read_documents
from shunter.scraper.core.records import rewrite_of


@pytest.mark.parametrize(
    ("share", "targets"), [(0, {"review-v1": 100}), (1, {"review-v1": 99, "review-v2": 1}), (100, {"review-v2": 100})]
)
def test_a_rewrite_says_who_gets_how_much_and_nothing_of_who_gets_none(make_rollout, share, targets):
    (document,) = read_documents("review.yaml", msgspec.yaml.encode(rewrite(make_rollout(), share)))
    record = rewrite_of(document.content)
    assert (record.name, record.pool, record.sticky) == ("review-v2", "engines", "")
    assert {target.model: target.weight for target in record.rules[0].targets} == targets


def test_a_header_that_keeps_clients_together_is_told(make_rollout):
    rollout = make_rollout("traffic: {rewriteFile: review.yaml, sticky: X-User-Id}", without=["traffic"])
    (document,) = read_documents("review.yaml", msgspec.yaml.encode(rewrite(rollout, 10)))
    assert rewrite_of(document.content).sticky == "x-user-id"


@pytest.fixture
def pools(make_rollout):
    """A rollout between two pools."""
    lines = ("from: {pool: llama-v1}", "to: {pool: llama-v2}", "traffic: {httpRoute: llm}")
    return make_rollout(*lines, without=["from", "to", "traffic", "model", "pool"])


def route(**weights):
    backends = [
        {"name": name.replace("_", "-")} | ({} if weight is None else {"weight": weight}) for name, weight in weights.items()
    ]
    return {"spec": {"rules": [{"backendRefs": [{"name": "other"}]}, {"backendRefs": backends}]}}


def test_the_weights_of_two_pools_in_a_route(pools):
    assert route_share(route(llama_v1=None, llama_v2=None), pools) == 50
    changed = routed(route(llama_v1=100, llama_v2=0, canary=3), pools, 25)
    assert changed == route(llama_v1=75, llama_v2=25, canary=3)
    assert route_share(changed, pools) == 25
    assert route_share(route(llama_v1=0, llama_v2=0), pools) is None
    changed["spec"]["rules"] += route(llama_v1=0, llama_v2=1)["spec"]["rules"]
    assert route_share(changed, pools) is None, "one rule lags behind"


def test_a_route_without_both_pools_is_refused(pools):
    with pytest.raises(ConfigError, match="no rule has both llama-v1 and llama-v2"):
        routed(route(llama_v1=1), pools, 5)
