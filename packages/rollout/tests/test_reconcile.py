"""A server that is told what to do ends as it should be, whatever happens in between."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from shunter.rollout.core.desired import Adapter, Desired
from shunter.rollout.core.reconcile import FIRST_S, LONGEST_S, Known, Standing, Step, hear, plan, settle, standings, wait_s


class Server:
    """Has adapters, refuses what is impossible, and may tell sources in its own words."""

    def __init__(self, adapters=(), tell=lambda source: source):
        self.adapters = dict(adapters)
        self.tell = tell

    @property
    def listed(self):
        return {each: self.tell(source) for each, source in self.adapters.items()}

    def do(self, step):
        if step.unload and self.adapters.pop(step.id, None) is None:
            return "404"
        if step.load:
            if step.id in self.adapters:
                return "already loaded"
            self.adapters[step.id] = step.load.source
        return None


def reconcile(server, desired, known=None, *, now_s=0.0, prune=False):
    """Do what is due once; return the steps and what is known."""
    known = hear(known or Known(), server.listed)
    steps = plan(desired, server.listed, known, now_s, prune=prune)
    for step in steps:
        known = settle(known, step, now_s, error=server.do(step), dice=0.5)
    return steps, hear(known, server.listed)


A, B = Adapter("a", "/a"), Adapter("b", "/b")


def test_what_is_missing_is_loaded_and_what_is_unwanted_goes_first():
    server = Server({"old": "/old"})
    steps, _ = reconcile(server, Desired((A,), ("old",)))
    assert steps == [Step("old", unload=True), Step("a", load=A)]
    assert server.adapters == {"a": "/a"}


def test_nothing_is_due_when_all_is_as_it_should_be():
    assert reconcile(Server({"a": "/a"}), Desired((A,), ("b",)))[0] == []


def test_a_changed_source_is_loaded_anew():
    server = Server({"a": "/a/1"})
    steps, known = reconcile(server, Desired((Adapter("a", "/a/2"),)))
    assert steps == [Step("a", unload=True, load=Adapter("a", "/a/2"))]
    assert server.adapters == {"a": "/a/2"}
    assert reconcile(server, Desired((Adapter("a", "/a/2"),)), known)[0] == []


def test_a_server_that_tells_sources_in_its_own_words_is_not_loaded_again_and_again():
    server = Server(tell=lambda source: f"/cache{source}")
    desired = Desired((A,))
    _, known = reconcile(server, desired)
    assert reconcile(server, desired, known)[0] == []
    steps, _ = reconcile(server, Desired((Adapter("a", "/a/2"),)), known)
    assert [step.unload for step in steps] == [True], "another source is another adapter all the same"


def test_a_server_that_does_not_tell_sources_keeps_what_it_has():
    assert reconcile(Server({"a": "/x"}, tell=lambda _: None), Desired((A,)))[0] == []


def test_who_nobody_asked_for_stays_unless_pruning():
    server = Server({"mine": "/m"})
    assert reconcile(server, Desired((A,)))[0] == [Step("a", load=A)]
    assert reconcile(server, Desired((A,)), prune=True)[0] == [Step("mine", unload=True)]


def test_what_both_lists_name_is_not_touched_even_when_pruning():
    server = Server({"c": "/c"})
    desired = Desired(conflicts=("c",))
    assert reconcile(server, desired, prune=True)[0] == []
    assert standings(desired, server.listed, Known()) == {"c": Standing.CONFLICT}


def test_one_that_fails_waits_longer_each_time_and_holds_up_nobody():
    server, desired = Server({}), Desired((A, B))
    server.do = lambda step: "no such path" if step.id == "a" else Server.do(server, step)
    now_s, known, tried = 0.0, Known(), []
    for _ in range(200):
        steps, known = reconcile(server, desired, known, now_s=now_s)
        tried += [now_s for step in steps if step.id == "a"]
        now_s += 1.0
    assert "b" in server.adapters
    assert known.troubles["a"].reason == "no such path"
    gaps = [after - before for before, after in pairwise(tried)]
    assert gaps == sorted(gaps)
    assert gaps[-1] <= LONGEST_S


@given(st.integers(1, 10_000), st.floats(0, 1))
def test_a_wait_is_bounded(failures, dice):
    assert FIRST_S / 2 <= wait_s(failures, dice) <= LONGEST_S


names, sources = st.sampled_from("abcd"), st.sampled_from(["/1", "/2"])
adapters = st.dictionaries(names, sources, max_size=4)


@given(
    adapters,
    st.lists(st.tuples(adapters, st.frozensets(names), adapters, st.sets(st.integers(0, 8))), min_size=1, max_size=5),
    st.booleans(),
    st.sampled_from([lambda source: source, lambda source: f"/cache{source}"]),
)
def test_it_ends_as_it_should_be_whatever_happened(before, rounds, prune, tell):
    """Configurations change, somebody loads and unloads by hand, calls fail; then there are two looks without failures."""
    server, known, now_s = Server(before, tell), Known(), 0.0
    for wanted, unwanted, by_hand, failing in rounds:
        desired = Desired(tuple(Adapter(*each) for each in wanted.items() if each[0] not in unwanted), tuple(unwanted))
        server.adapters = dict(by_hand)
        calls = iter(range(100))
        honest = server.do
        server.do = lambda step, calls=calls, failing=failing, honest=honest: (
            "broken" if next(calls) in failing else honest(step)
        )
        _, known = reconcile(server, desired, known, now_s=now_s, prune=prune)
        server.do = honest
        now_s += LONGEST_S
        for _ in range(2):
            _, known = reconcile(server, desired, known, now_s=now_s, prune=prune)
            now_s += LONGEST_S
        found = standings(desired, server.listed, known)
        good = {Standing.READY, Standing.ABSENT} | (set() if prune else {Standing.UNKNOWN})
        assert set(found.values()) <= good
        assert all(server.adapters[each.id] == each.source for each in desired.wanted)
