import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.core.ledger import PREFILL_PER_S
from shunter.picker.core.overview import Overview, Row
from shunter.picker.core.replicas import GOAL, desired_replicas


def endpoint(**fields):
    own = {"name": "", "authority": "", "pools": (), "health": "fresh", "age_s": 0.1, "reason": "", "in_flight": 0}
    counts = dict.fromkeys(("prefill_tokens", "decode_tokens", "picks", "prefix_hit_blocks", "prefix_blocks"), 0)
    return Row(**own | counts | {"ready": True, "waiting": 0.0, "running": 0.0, "kv_usage": 0.0} | fields)


def desired(*rows, queued=None):
    overview = Overview(snapshot_age_s=0.1, trouble=None, picks=0, refusals={}, complaints={}, endpoints=rows, queued=queued)
    return desired_replicas(overview)


def test_an_idle_pool_wants_one_and_an_empty_one_says_nothing():
    assert desired(*[endpoint()] * 4) == {"both": 1}
    assert desired() == {}


@pytest.mark.parametrize(
    ("figures", "wanted"),
    [
        ({"waiting": 5.0}, 6),  # 4 full ones: 4 / 0.75
        ({"kv_usage": 0.8}, 6),
        ({"waiting": 10.0, "kv_usage": 0.8}, 11),
        ({"kv_usage": 0.6}, 4),  # just at the goal
        ({"kv_usage": 0.64}, 4),  # within the tolerance
        ({"kv_usage": 0.3}, 2),
    ],
)
def test_levels_are_kept_at_the_goal(figures, wanted):
    assert desired(*[endpoint(**figures)] * 4) == {"both": wanted}


def test_what_waits_in_the_picker_asks_for_more():
    assert desired(*[endpoint(kv_usage=0.6)] * 2, queued={0: 8, -1: 7}) == {"both": 6}


@pytest.mark.parametrize("unknown", [{"ready": False}, {"waiting": None}, {"kv_usage": None}])
def test_who_says_nothing_is_no_reason_for_more_or_fewer(unknown):
    assert desired(*[endpoint(**unknown)] * 3) == {"both": 3}


def test_each_role_is_looked_at_by_itself():
    prefill = endpoint(role="prefill", kv_usage=1.0, prefill_tokens=int(4 * PREFILL_PER_S))
    decode = endpoint(role="decode", kv_usage=0.8)
    mixed = endpoint(role="prefill-decode", kv_usage=0.6)
    assert desired(prefill, decode, decode, mixed, queued={0: 5}) == {"prefill": 3, "decode": 4, "both": 1}
    assert desired(endpoint(role="encode-prefill", kv_usage=None), mixed) == {"prefill": 1, "both": 1}


levels = st.floats(0, 50)


@given(st.lists(st.tuples(levels, st.floats(0, 1)), min_size=1, max_size=30), st.integers(0, 100))
def test_more_load_never_asks_for_fewer_and_the_goal_is_kept(figures, queued):
    rows = [endpoint(waiting=waiting, kv_usage=kv) for waiting, kv in figures]
    wanted = desired(*rows)["both"]
    assert desired(*rows, queued={0: queued})["both"] >= min(wanted, len(rows))
    total = sum(max(waiting / 5, kv / 0.8) for waiting, kv in figures)
    assert total / wanted <= GOAL * 1.1 + 1e-6
