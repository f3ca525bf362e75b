"""A decision's reason is a sentence that agrees with its scores."""

import pytest

from shunter.picker.core.decisions import Entry
from shunter.picker.core.features import note
from shunter.picker.core.kinds import Decision, Weighted
from shunter.picker.core.prefix import Match
from shunter.picker.core.reasons import reason

QUEUE, PREFIX = Weighted("queue-scorer", None, 2.0), Weighted("prefix-cache-scorer", None, 3.0)


@pytest.fixture
def fleet(make_fleet):
    return make_fleet({"waiting": 2}, {"waiting": 0}, {"waiting": 0})


def decision(fleet, totals, scores=(), chosen=(0,), **more):
    return Decision(fleet.endpoints, chosen, totals, scores, **more)


def test_what_speaks_for_it_outweighs_what_speaks_against_it(fleet):
    names, columns = fleet.authorities, note(fleet).columns()
    made = decision(fleet, [2.58, 2.0, 1.0], [(QUEUE, [0.0, 1.0, 0.5]), (PREFIX, {0: 0.86})])
    assert reason(made, columns, Match(share={fleet.endpoints[0].slot: 0.86})) == (
        f"{names[0]} won by 0.58 over {names[1]}: prefix-cache-scorer +2.58 outweighs queue-scorer −2.00; "
        "it had 86 % of the prompt cached against 0 %, 2 waiting against 0."
    )


def test_filters_are_told_with_whom_they_left(fleet):
    narrowed = [("label-selector-filter", fleet.endpoints * 3), ("header-filter", fleet.endpoints * 2)]
    made = decision(fleet, [2.0, 1.0, 1.0], [(QUEUE, [1.0, 0.5, 0.5])], narrowed=narrowed)
    assert reason(made).endswith("queue-scorer +1.00; label-selector-filter left 6 of 9, header-filter left 3 of 6.")
    nobody = Decision((), (), narrowed=[("header-filter", fleet.endpoints)])
    assert reason(nobody) == "nobody was left; header-filter left 0 of 3."


def test_chance_is_called_chance(fleet):
    name, other = fleet.authorities[:2]
    assert reason(decision(fleet, [1.0, 1.0, 0.0])) == f"{name} was drawn among 2 of 3 that were equally good."
    assert reason(decision(fleet, [1.0, 3.0, 0.0])) == f"{name} was drawn, although {other} had 2.00 more."


def test_the_only_candidate_needs_no_scores(fleet):
    alone = fleet.narrow([1])
    assert reason(decision(alone, [0.0])) == f"{alone.authorities[0]} was the only candidate."


def test_a_plugins_failure_is_the_reason(fleet):
    assert "a plugin failed" in reason(decision(fleet, ()))


@pytest.mark.parametrize(
    ("traceparent", "trace_id"), [(f"00-{'ab' * 16}-{'cd' * 8}-01", "ab" * 16), ("nonsense", None), (None, None)]
)
def test_the_trace_of_a_request_is_told_if_it_has_one(traceparent, trace_id):
    assert Entry(ticket=1, at_s=0.0, request_id="r", traceparent=traceparent).explain().get("trace_id") == trace_id
