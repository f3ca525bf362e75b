"""What the web page is told has the shape that its code reads, says nothing it does not know, and nothing twice."""

import json

import pytest

from shunter.picker.core.learned import Learned, Row, row_key
from shunter.picker.core.overview import look
from shunter.picker.core.page import Worker, attained, tell
from shunter.picker.core.pulse import EVERY_S, Moment, Pulse
from shunter.picker.core.service_levels import Level, LevelTally
from shunter.picker.core.tables import Account, Tally
from shunter.snapshot import Health

NOW_NS = 100_000_000_000


@pytest.fixture
def told(make_view):
    def told(*rows, tally=None, learned=None, pulse=None, now=None, endpoints=None, **options):
        view = make_view(*rows, endpoints=endpoints)
        overview = look(view, None, tally or Tally(), NOW_NS)
        sections = tell(overview, learned, now or Moment(at_s=1.0), pulse or Pulse(), [], pool="default", **options)
        return {name: json.loads(data) for name, data in sections.items()}

    return told


def test_every_column_has_a_value_for_each_endpoint(told):
    sections = told({"waiting": 1.0}, {"kv_usage": 0.25}, None)
    columns = [column for name in ("endpoints", "load") for column in sections[name].items()]
    sparse = {"unready", "outlier"}
    assert {len(value) for name, value in columns if isinstance(value, list) and name not in sparse} == {3}
    assert sections["load"]["version"] == sections["endpoints"]["version"]


def test_what_is_not_known_is_null_and_never_zero(told):
    load = told({}, None)["load"]
    assert (load["waiting"], load["kv_usage"], load["ttft_s"], load["hit_share"]) == ([None, None],) * 4
    assert load["health"] == {"1": "unscraped"}
    assert told({})["state"]["bypassed"] is None


def test_those_who_stand_out_are_told_by_their_position(told):
    rows = ({}, {"health": Health.FAILED, "reason": "timeout"}, {"running_adapters": ("sql",)})
    load = told(*rows, endpoints=[{}, {}, {"ready": False, "labels": {"llm-d.ai/role": "decode"}}])["load"]
    assert (load["health"], load["reason"]) == ({"1": "failed"}, {"1": "timeout"})
    assert (load["adapters"], load["unready"]) == ({"2": ["sql"]}, [2])


def test_the_version_names_who_exists(told):
    same, again, other = told({}, {}), told({"waiting": 9.0}, {}), told({}, {}, {})
    assert same["endpoints"] == again["endpoints"]
    assert same["endpoints"]["version"] != other["endpoints"]["version"]


def test_what_the_collector_learnt_is_told_of_its_endpoint(told):
    learned = Learned(rows={row_key((1, 1)): Row(slot=1, incarnation=1, endpoint="10.0.0.2:8000", ttft_s=0.12345)})
    assert told({}, {}, learned=learned)["load"]["ttft_s"] == [None, 0.123]


def test_hits_are_a_share_of_blocks(told):
    tally = Tally(by_endpoint={(0, 1): Account(picks=2, prefix_blocks=8, prefix_hits=6)})
    load = told({}, tally=tally)["load"]
    assert (load["picks"], load["hit_share"]) == ([2], [0.75])


def test_history_has_a_value_for_each_step(told):
    pulse = Pulse()
    for step in range(4):
        pulse.add(Moment(at_s=step * EVERY_S, picks=10 * step, in_flight=step))
    history = told({}, pulse=pulse)["history"]
    assert history.pop("every_s") == EVERY_S
    assert {len(column) for column in history.values()} == {3}
    assert (history["picks_per_s"], history["in_flight"]) == ([2.0, 2.0, 2.0], [1, 2, 3])


def test_the_state_has_what_the_page_reads(told):
    state = told({}, hindrances=["draining"], reloads={"done": 1})["state"]
    assert state["verdict"]["state"] == "critical"
    assert set(state) == {
        *("now_s", "wall_s", "pool", "verdict", "recent", "snapshot_age_s", "picks", "picks_per_s", "in_flight", "waiting"),
        *(
            "queued",
            "saturation",
            "bypassed",
            "workers",
            "splits",
            "levels",
            "reports",
            "complaints",
            "shadow",
            "trial",
            "reloads",
        ),
    }


def test_a_service_level_is_set_beside_what_came_of_it():
    levels = [Level(name="chat", target=0.99, ttft_s=0.5, e2e_s=9.0), Level(name="new", target=0.9, ttft_s=1.0)]
    (ttft, e2e) = attained(levels, {"chat": LevelTally([100, 0, 50], [97, 0, 50]), "former": LevelTally()})
    assert (ttft.level, ttft.signal, ttft.target, ttft.requests, ttft.good) == ("chat", "ttft", 0.99, 100, 97)
    assert (e2e.signal, e2e.requests, e2e.good) == ("e2e", 50, 50)


def test_a_worker_is_a_post_with_its_process():
    assert set(Worker.__struct_fields__) >= {"worker", "ready", "hindrances", "address", "pid", "streams", "restarts"}
