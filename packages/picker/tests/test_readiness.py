from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.config import read_builtin
from shunter.picker.core.fleet import Roster
from shunter.picker.core.ledger import Ledger
from shunter.picker.core.request import Request
from shunter.picker.plugins.readiness import AdapterReady, Holding


def kept(fleet, model, work=None):
    return [*(work or AdapterReady().start(None)).keep(Request(headers={}, target_model=model), fleet)]


def having(make_fleet, *models):
    return make_fleet(*({} for _ in models), endpoints=[{"models": each} for each in models])


def test_who_lists_the_model_stays(make_fleet):
    fleet = having(make_fleet, ("base", "v1"), ("base", "v1", "v2"), ("base", "v2"))
    assert kept(fleet, "v2") == [1, 2]


def test_a_model_that_nobody_lists_is_the_engines_affair(make_fleet):
    assert kept(having(make_fleet, ("base",), ("base",)), "v2") == [0, 1]


def test_nothing_changes_where_nobody_was_asked_for_a_list(make_fleet):
    assert kept(having(make_fleet, (), ()), "v2") == [0, 1]


SILENT, BASE, BOTH = {}, {"models": ("base",)}, {"models": ("base", "v2"), "adapters": ("v2",)}


def test_whose_list_is_not_known_gets_no_requests_for_adapters_that_others_list(make_fleet):
    assert kept(make_fleet({}, {}, {}, endpoints=[SILENT, BOTH, BASE]), "v2") == [1]


def test_whose_list_is_not_known_serves_base_models_all_the_same(make_fleet):
    assert kept(make_fleet({}, {}, {}, endpoints=[SILENT, BOTH, BASE]), "base") == [0, 1, 2]
    assert kept(make_fleet({}, {}, endpoints=[{"models": ("other",)}, BASE]), "base") == [1], "one that lists others lacks it"


def test_what_anybody_lists_as_an_adapter_is_one(make_fleet):
    assert kept(make_fleet({}, {}, {}, endpoints=[SILENT, {"models": ("v2",)}, BOTH]), "v2") == [1, 2]


def test_a_request_without_a_model_may_go_anywhere(make_fleet):
    assert kept(having(make_fleet, ("v1",), ()), None) == [0, 1]


def test_sglangs_words_for_an_adapter_are_its_name_after_the_base(make_fleet):
    assert kept(having(make_fleet, ("tiny",), ("tiny", "v2")), "tiny:v2") == [1]


names = st.sampled_from(["a", "b", "c"])


lists = st.tuples(st.frozensets(names), st.frozensets(names))


@given(st.lists(st.lists(lists, min_size=1, max_size=5), min_size=1, max_size=4), st.lists(names, max_size=6))
def test_what_is_remembered_of_other_endpoints_never_counts(snapshots, asked):
    """The filter at work through changing snapshots says what a new one says."""
    from shunter.snapshot import Endpoint, Load, Topology, View

    roster, work = Roster(Ledger()), Holding()
    for generation, told in enumerate(snapshots):
        endpoints = tuple(
            Endpoint(
                slot=at,
                incarnation=1,
                name=f"e{at}",
                address="10.0.0.1",
                port=at + 1,
                models=tuple(models),
                adapters=tuple(models & adapters),
            )
            for at, (models, adapters) in enumerate(told)
        )
        load = Load.of([], epoch=1, topology_generation=generation)
        fleet = roster.fleet(View(Topology(epoch=1, generation=generation, endpoints=endpoints), load), 1)
        for model in asked:
            assert kept(fleet, model, work) == kept(fleet, model)
            narrow = fleet.narrow([0])
            assert kept(narrow, model, work) == kept(narrow, model)


def test_the_default_configuration_has_it_first():
    assert read_builtin("default").index("adapter-ready-filter") < read_builtin("default").index("outlier-ejection-filter")
