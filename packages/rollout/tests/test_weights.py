"""Weights as they are written down are weights as the scraper reads them."""

from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shunter.rollout.core.spec import Rollout, Side, Traffic
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


POOLS = Rollout(
    kind="Rollout", name="llama", from_=Side(pool="llama-v1"), to=Side(pool="llama-v2"), traffic=Traffic(http_route="llm")
)


def route(**weights):
    backends = [
        {"name": name.replace("_", "-")} | ({} if weight is None else {"weight": weight}) for name, weight in weights.items()
    ]
    return {"spec": {"rules": [{"backendRefs": [{"name": "other"}]}, {"backendRefs": backends}]}}


def test_the_weights_of_two_pools_in_a_route():
    assert route_share(route(llama_v1=None, llama_v2=None), POOLS) == 50
    changed = routed(route(llama_v1=100, llama_v2=0, canary=3), POOLS, 25)
    assert changed == route(llama_v1=75, llama_v2=25, canary=3)
    assert route_share(changed, POOLS) == 25
    assert route_share(route(llama_v1=0, llama_v2=0), POOLS) is None
    changed["spec"]["rules"] += route(llama_v1=0, llama_v2=1)["spec"]["rules"]
    assert route_share(changed, POOLS) is None, "one rule lags behind"


def test_a_route_without_both_pools_is_refused():
    with pytest.raises(ConfigError, match="no rule has both default/llama-v1 and default/llama-v2"):
        routed(route(llama_v1=1), POOLS, 5)


def test_pools_of_one_name_in_two_namespaces_are_two():
    pools = replace(POOLS, from_=Side(pool="llama"), to=Side(pool="next/llama"))
    now = {"spec": {"rules": [{"backendRefs": [{"name": "llama"}, {"name": "llama", "namespace": "next", "weight": 0}]}]}}
    changed = routed(now, pools, 25)
    assert [each["weight"] for each in changed["spec"]["rules"][0]["backendRefs"]] == [75, 25]
    assert route_share(changed, pools) == 25


@given(
    st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(0, 1_000)),
    st.tuples(st.integers(0, 1_000), st.integers(0, 1_000)).filter(any),
    st.lists(st.integers(0, 100), min_size=1, max_size=5),
)
def test_whatever_share_the_new_pool_gets_the_others_keep_theirs_exactly(others, both, shares):
    def fractions(weights):
        total = sum(weights.values())
        return {name: Fraction(weights.get(name, 0), total) for name in (*others, "both")} if total else {}

    def weights_of(found):
        return {each["name"]: each["weight"] for each in found["spec"]["rules"][1]["backendRefs"]}

    now = route(**others, llama_v1=both[0], llama_v2=both[1])
    before = fractions(others | {"both": sum(both)})
    for share in shares:
        now = routed(now, POOLS, share)
        weights = weights_of(now)
        old, new = weights.pop("llama-v1"), weights.pop("llama-v2")
        assert 100 * new == share * (old + new)
        assert fractions(weights | {"both": old + new}) == before
        assert route_share(now, POOLS) == share


def test_backends_of_one_name_keep_what_each_has():
    """Two ports of a Service, say."""
    now = route(llama_v1=1, llama_v2=0)
    now["spec"]["rules"][1]["backendRefs"] += [{"name": "other", "port": port, "weight": port} for port in (1, 2)]
    weights = [each["weight"] for each in routed(now, POOLS, 50)["spec"]["rules"][1]["backendRefs"]]
    assert weights == [50, 50, 100, 200]


def test_what_cannot_be_split_is_refused_with_its_remedy():
    with pytest.raises(ConfigError, match="weight 0 beside others: give one of them what is theirs"):
        routed(route(llama_v1=0, llama_v2=0, canary=3), POOLS, 25)
    with pytest.raises(ConfigError, match="cannot be split by hundredths: make them smaller"):
        routed(route(llama_v1=99_999, llama_v2=0, canary=3), POOLS, 25)
    assert routed(route(llama_v1=0, llama_v2=0), POOLS, 25) == route(llama_v1=75, llama_v2=25)
