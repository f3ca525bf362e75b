"""The competitors choose as their originals do, and every configuration is one that the real picker loads."""

from collections import Counter
from random import Random

import pytest

from shunter.lab.core.arrivals import Arrival, Finished, Segment
from shunter.lab.errors import TraceError
from shunter.lab.policies import BOUND, OURS, find_policy, policies
from shunter.lab.policies.balancers import BoundedHash, Chance, LeastRequest, Turns
from shunter.lab.policies.radix import IMBALANCE_REQUESTS, RadixTree
from shunter.snapshot import Health, LoadRow


def asks(*segments, session="", adapter=None):
    return Arrival(
        prompt=tuple(Segment(each, 100) for each in segments), output=Segment(999, 1), session=session, adapter=adapter
    )


def ended(endpoint):
    return Finished(index=0, endpoint=endpoint, arrived_s=0.0, first_s=1.0, ended_s=2.0, prompt_tokens=1)


def row(slot, waiting=0.0, kv_usage=0.0):
    return LoadRow(slot=slot, incarnation=1, health=Health.FRESH, sampled_ns=1, waiting=waiting, kv_usage=kv_usage)


def test_turns_are_equal():
    chooser = Turns(3, Random(1))
    assert Counter(chooser.choose(asks(1), 0, 0.0) for _ in range(9)) == {0: 3, 1: 3, 2: 3}


def test_chance_reaches_everybody():
    chooser = Chance(3, Random(1))
    assert {chooser.choose(asks(1), 0, 0.0) for _ in range(50)} == {0, 1, 2}


def test_the_fewest_in_flight_are_asked():
    chooser = LeastRequest(3, Random(1))
    first = [chooser.choose(asks(1), index, 0.0) for index in range(3)]
    assert sorted(first) == [0, 1, 2]
    chooser.ended(1, ended(first[1]), 1.0)
    assert chooser.choose(asks(1), 3, 1.0) == first[1]
    assert chooser.active == [1, 1, 1]


@pytest.mark.parametrize("kind", [Turns, LeastRequest, BoundedHash, RadixTree])
def test_who_accepts_nobody_is_not_asked_again_for_the_same_request(kind):
    chooser = kind(3, Random(1))
    tried = [chooser.choose(asks(1, session="s"), 0, 0.0) for _ in range(3)]
    assert sorted(tried) == [0, 1, 2]
    assert sum(chooser.active) == 1
    chooser.ended(0, ended(tried[-1]), 1.0)
    assert chooser.active == [0, 0, 0]


def test_a_session_stays_until_its_endpoint_has_more_than_its_bound():
    chooser = BoundedHash(4, Random(1))
    home = chooser.choose(asks(1, session="alice"), 0, 0.0)
    for at in range(4):
        if at != home:
            chooser.active[at] = 10
    taken = [chooser.choose(asks(1, session="alice"), index, 0.0) for index in range(1, 15)]
    assert taken == [home] * 14
    chooser.active[home] = 100
    assert chooser.choose(asks(1, session="alice"), 15, 0.0) != home


def test_sessions_are_spread_and_those_without_go_where_fewest_are():
    chooser = BoundedHash(4, Random(1))
    homes = Counter(chooser.choose(asks(1, session=f"s{number}"), number, 0.0) for number in range(400))
    assert min(homes.values()) > 50
    chooser.active = [9, 9, 2, 9]
    assert chooser.choose(asks(1), 400, 0.0) == 2


def test_a_full_endpoint_has_little_weight():
    chooser = BoundedHash(3, Random(1))
    chooser.scraped([row(0, waiting=9.0), row(1), row(2, kv_usage=1.0)], 0.0)
    assert chooser.weights == [0.1, 1.0, 0.05]


def test_the_longest_prefix_is_followed_and_what_is_new_goes_to_the_smallest_tree():
    chooser = RadixTree(2, Random(1))
    first = chooser.choose(asks(1, 2), 0, 0.0)
    assert chooser.choose(asks(7, 8), 1, 0.0) == 1 - first
    assert chooser.choose(asks(1, 2, 3), 2, 0.0) == first  # two of three parts match
    assert chooser.choose(asks(1, 5, 6), 3, 0.0) == 1 - first  # one of three does: not enough, and the other has sent less
    assert chooser.choose(asks(1, 2, adapter="a"), 4, 0.0) == first  # another adapter is another tree


def test_unequal_loads_override_the_prefix():
    chooser = RadixTree(2, Random(1))
    home = chooser.choose(asks(1, 2), 0, 0.0)
    chooser.active[home] = chooser.active[1 - home] + IMBALANCE_REQUESTS + 1
    assert chooser.choose(asks(1, 2), 1, 0.0) == 1 - home
    chooser.active = [70, 70]
    assert chooser.choose(asks(1, 2), 2, 0.0) == home


def test_all_policies_can_be_built():
    from shunter.lab.workloads import find_workload

    fleet = find_workload("b2b-saas").fleet
    known = policies()
    assert {
        OURS,
        BOUND,
        "random",
        "round-robin",
        "least-request",
        "native",
        "sglang",
        "gie-v0.3",
        "upstream-2-2-3",
        "lmetric",
    } < set(known)
    for policy in known.values():
        assert policy.about
        assert (policy.build is None) == (policy.name == BOUND)
        if policy.build:
            policy.build(fleet, 1)


def test_a_file_is_a_policy(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("# mine\napiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n- type: queue-scorer\n")
    policy = find_policy(str(path))
    assert (policy.name, policy.about) == ("mine", "mine")
    with pytest.raises(TraceError, match="call the file otherwise"):
        find_policy(str(path.rename(tmp_path / "shunter.yaml")))
    path = tmp_path / "mine.yaml"
    path.write_text((tmp_path / "shunter.yaml").read_text().replace("queue-scorer", "quue-scorer"))
    from shunter.lab.workloads import find_workload

    with pytest.raises(TraceError, match=r"mine\.yaml: .*quue-scorer.*did you mean"):
        find_policy(str(path)).build(find_workload("b2b-saas").fleet, 1)


@pytest.mark.parametrize(
    ("name", "what"), [("shuntr", "did you mean shunter"), ("nowhere.yaml", "No such file"), ("x", "there are")]
)
def test_a_policy_that_is_not_there_is_said_to_be_so(name, what):
    with pytest.raises(TraceError, match=what):
        find_policy(name)
