"""A rollout against a small world: endpoints that load, traffic that follows weights, processes that are killed."""

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shunter.rollout.core.analysis import Counts
from shunter.rollout.core.machine import Phase, Seen, State, Wish, advance, begin
from shunter.rollout.core.sight import Holders

TICK_S = 5.0


class World:
    """What a rollout acts upon. What is ordered happens before the next look; ``deaf`` endpoints load and unload nothing."""

    def __init__(self, rollout, endpoints="abc"):
        self.rollout = rollout
        self.endpoints = {each: {"review-v1"} for each in endpoints}
        self.share = 0
        self.now_s = 1_000.0
        self.rate = 100  # requests for the model in a tick
        self.failing = 0.0  # share of the new version's requests that fail
        self.slow = 1.0  # how many times as long they take
        self.hangs = False  # none of them is answered, and clients give up
        self.running = {"review-v1": 0, "review-v2": 0}
        self.counts = {"review-v1": Counts(), "review-v2": Counts()}
        self.deaf = False
        self.state = begin(rollout, self.now_s)
        self.wish = Wish.RUN
        self.violations = []

    def see(self):
        return Seen(
            to=self.holders("review-v2"),
            from_=self.holders("review-v1"),
            share=self.share,
            new=self.counts["review-v2"],
            old=self.counts["review-v1"],
            running_to=self.running["review-v2"],
            running_from=self.running["review-v1"],
        )

    def holders(self, model):
        having = tuple(sorted(each for each, models in self.endpoints.items() if model in models))
        return Holders(having, tuple(sorted(set(self.endpoints) - set(having))))

    def serve(self):
        for model, share in (("review-v1", 100 - self.share), ("review-v2", self.share)):
            new = model == "review-v2"
            requests = self.rate * share / 100
            errors = requests * (self.failing if new else 0)
            was, seconds = self.counts[model], 0.1 * (self.slow if new else 1.0)
            answered = 0 if new and self.hangs else requests
            buckets = dict(was.ttft) or dict.fromkeys((0.05, 0.1, 0.2, 0.4, 0.8), 0.0)
            ttft = tuple((bound, count + answered * (seconds <= bound)) for bound, count in sorted(buckets.items()))
            self.counts[model] = Counts(was.requests + requests, was.errors + errors, was.answered + answered, ttft)
            self.running[model] = requests // 20

    def tick(self, *, blind=False, do=True):
        """One look, and what follows; ``blind``: nobody answers; not ``do``: killed before anything was done."""
        seen = Seen() if blind else self.see()
        before = self.state
        self.state, orders = advance(self.rollout, before, seen, self.now_s, self.wish)
        self.state = msgspec.json.decode(msgspec.json.encode(self.state), type=State)  # as if read from its file
        if do and orders.share is not None:
            self.move(orders.share)
        if do and not self.deaf:
            if orders.load:
                for models in self.endpoints.values():
                    models.add(orders.load.model)
            if orders.unload:
                self.unload(orders.unload.model)
        self.serve()
        self.now_s += TICK_S
        return orders

    def move(self, share):
        lacking = self.holders("review-v2").lacking
        if share > self.share and lacking:
            self.violations.append(f"{share} % while {lacking} lack it")
        if share < self.share and not self.holders("review-v1").having:
            self.violations.append(f"{100 - share} % for an old version that nobody has")
        self.share = share

    def unload(self, model):
        carried = 100 - self.share if model == "review-v1" else self.share
        if carried or self.running[model]:
            self.violations.append(f"{model} unloaded with {carried} % and {self.running[model]} requests")
        for models in self.endpoints.values():
            models.discard(model)

    def run(self, until=lambda world: world.state.over, ticks=2_000):
        for _ in range(ticks):
            if until(self):
                return self
            self.tick()
        raise AssertionError(f"not within {ticks} looks: {self.state}")

    def words(self):
        return [event.words for event in self.state.events]


@pytest.fixture
def world(make_rollout):
    return World(make_rollout())


def test_all_goes_well(world):
    shares = []
    while not world.state.over:
        world.tick()
        if not shares or shares[-1] != world.share:
            shares.append(world.share)
    assert shares == [0, 1, 10, 100]
    assert all(models == {"review-v2"} for models in world.endpoints.values())
    assert world.words()[-1] == "done"
    assert not world.violations


def test_who_begins_anew_what_is_done_takes_no_traffic_back(world):
    world.run()
    world.state = begin(world.rollout, world.now_s)
    world.run()
    assert (world.share, world.words()[-1]) == (100, "done")
    assert not world.violations


def test_who_has_some_traffic_already_begins_at_the_step_that_has_as_much(world):
    world.share = 10
    for models in world.endpoints.values():
        models.add("review-v2")
    world.run(lambda w: w.state.phase is Phase.SHIFTING)
    assert world.state.step == 1


def test_an_old_version_that_nobody_has_is_loaded_before_it_gets_the_rest(world):
    for models in world.endpoints.values():
        models.clear()
    world.run(lambda w: w.share == 1)
    assert all(models == {"review-v1", "review-v2"} for models in world.endpoints.values())


def test_an_old_version_that_nobody_has_is_waited_for(make_rollout, hold):
    rollout = make_rollout("from: {model: review-v1}", without=["from"])
    state, orders = advance(rollout, begin(rollout, 0.0), Seen(to=hold("abc", ""), from_=hold("", "abc"), share=0), 1.0)
    assert (state.waiting, orders.load, orders.share) == ("for review-v1: not yet at a, b, c", None, None)


def test_while_somebody_else_moves_the_traffic_it_is_left_alone(world, hold):
    world.run(lambda w: w.share == 10)
    see = world.see
    world.see = lambda: msgspec.structs.replace(see(), share=5, others=("review-v9",))
    assert [world.tick().share for _ in range(3)] == [None] * 3
    assert world.state.waiting == "for whoever else moves its traffic to end: review goes to review-v9, too"
    world.wish = Wish.ROLLBACK
    world.tick()
    assert world.run(lambda w: w.share == 0)


def test_no_share_is_given_while_an_endpoint_lacks_the_version(world):
    world.deaf = True
    for _ in range(20):
        world.tick()
    assert world.share == 0
    assert world.state.waiting == "for review-v2: not yet at a, b, c"


def test_a_share_is_not_raised_while_a_newcomer_lacks_the_version(world):
    world.run(lambda w: w.share == 1)
    world.deaf = True
    world.endpoints["new"] = {"review-v1"}
    for _ in range(300):
        world.tick()
    assert world.share == 1
    world.deaf = False
    assert world.run().endpoints["new"] == {"review-v2"}


def test_what_cannot_be_loaded_in_time_is_given_up(world):
    world.deaf = True
    world.run(lambda w: w.state.backwards)
    world.deaf = False
    assert world.run().share == 0
    assert "not loaded within 10m: not yet at a, b, c" in world.state.failure


def test_errors_bring_everybody_back(world):
    world.run(lambda w: w.share == 10)
    world.failing = 0.5
    world.run()
    assert world.state.backwards
    assert world.share == 0
    assert all(models == {"review-v1"} for models in world.endpoints.values())
    assert "requests failed, allowed are 2.0%" in world.state.failure
    assert not world.violations


def test_a_slower_version_goes_back(world):
    world.slow = 4.0
    assert "more than 1.5 times as long" in world.run().state.failure


def test_a_version_that_hangs_goes_back(world):
    world.hangs = True
    world.run()
    assert world.share == 0
    assert "requests ended without an answer" in world.state.failure


def test_halting_leaves_everything_as_it_is_until_somebody_decides(make_rollout):
    world = World(make_rollout("analysis: {onFailure: halt}"))
    world.failing = 1.0
    world.run(lambda w: w.state.halted)
    for _ in range(10):
        world.tick()
    assert world.share == 1
    world.wish = Wish.ROLLBACK
    assert world.run().share == 0
    assert world.state.backwards


def test_resuming_goes_on_where_it_halted(make_rollout):
    world = World(make_rollout("analysis: {onFailure: halt}"))
    world.failing = 1.0
    world.run(lambda w: w.state.halted)
    world.failing, world.wish = 0.0, Wish.RESUME
    assert world.run().share == 100
    assert not world.state.backwards


def test_a_pause_holds_the_share_and_still_watches(world):
    world.run(lambda w: w.share == 10)
    world.wish = Wish.PAUSE
    for _ in range(200):
        world.tick()
    assert world.share == 10
    assert "resume" in world.state.waiting
    world.failing = 1.0
    assert world.run().state.backwards


def test_who_is_paused_while_it_is_loaded_gets_no_first_share(world):
    world.wish = Wish.PAUSE
    for _ in range(50):
        world.tick()
    assert (world.share, world.state.phase) == (0, Phase.LOADING)
    assert "resume" in world.state.waiting
    world.wish = Wish.RUN
    world.run(lambda w: w.share == 1)


def test_a_share_that_was_not_given_yet_is_not_given_in_a_pause(world):
    world.run(lambda w: w.share == 1)
    while not (orders := world.tick(do=False)).share:
        pass
    assert orders.share == 10
    world.wish = Wish.PAUSE
    assert [world.tick().share for _ in range(5)] == [None] * 5
    assert "resume" in world.state.waiting


def test_who_tells_no_models_is_named(make_rollout, hold):
    rollout = make_rollout()
    state, _ = advance(rollout, begin(rollout, 0.0), Seen(to=hold("a", "bc", "c")), 1.0)
    assert state.waiting == "for review-v2: not yet at b, c, which tells no models: c"


def test_a_step_waits_for_requests_enough(world):
    world.rate = 0
    for _ in range(500):
        world.tick()
    assert world.share == 1
    assert world.state.waiting == "for requests; 0 of 100 requests judged"


def test_the_old_version_is_unloaded_after_its_last_request_only(world):
    world.run(lambda w: w.state.phase is Phase.DRAINING)
    serve = world.serve

    def busy():
        serve()
        world.running["review-v1"] = 1

    world.serve = busy
    for _ in range(20):
        world.tick()
    assert world.state.waiting == "for 1 requests of review-v1"
    world.serve = serve
    world.run()
    assert not world.violations


def test_the_end_is_when_nobody_lists_the_old_version_any_more(world):
    world.run(lambda w: w.state.phase is Phase.DRAINING)
    world.deaf = True
    world.run(lambda w: w.state.phase is Phase.UNLOADING)
    for _ in range(20):
        world.tick()
    assert world.state.waiting == "for a, b, c to unload review-v1"
    world.run()
    assert world.words()[-2:] == ["review-v1 could not be unloaded at a, b, c", "done"]


def test_who_moves_the_traffic_back_by_hand_does_not_lose_its_version(world):
    world.run(lambda w: w.state.phase is Phase.DRAINING)
    world.share = 50
    world.run()
    assert not world.violations
    assert world.share == 100


def test_a_version_that_somebody_keeps_is_not_unloaded(make_rollout):
    rollout = make_rollout("from: {model: review-v1, source: /a/v1, keep: true}", without=["from"])
    assert all(models == {"review-v1", "review-v2"} for models in World(rollout).run().endpoints.values())


def test_going_back_does_not_wait_for_endpoints_that_never_had_the_old_version(world):
    world.run(lambda w: w.share == 10)
    world.endpoints["new"] = {"review-v2"}
    world.wish = Wish.ROLLBACK
    world.deaf = True  # the old version cannot be loaded anywhere
    world.run(lambda w: w.state.backwards and w.state.phase is Phase.SHIFTING)
    assert world.share == 0
    assert world.violations == []


def test_going_back_waits_a_little_so_that_not_one_endpoint_gets_everything(world):
    world.run(lambda w: w.state.phase is Phase.UNLOADING and not w.holders("review-v1").having)
    world.endpoints["a"].add("review-v1")
    world.wish = Wish.ROLLBACK
    world.tick()
    assert world.share == 100
    assert world.run().share == 0


def test_nothing_is_ordered_by_who_sees_nothing(world):
    world.run(lambda w: w.share == 10)
    for _ in range(50):
        orders = world.tick(blind=True)
        assert (orders.load, orders.unload) == (None, None)
    assert world.share == 10


HAPPENINGS = (
    *("tick", "tick", "tick", "killed", "blind", "come", "go", "come-with-old", "forget"),
    *("fail", "heal", "deaf", "hear", "pause", "resume", "by-hand"),
)
happenings = st.lists(st.tuples(st.sampled_from(HAPPENINGS), st.integers(1, 12)), max_size=30)


@settings(max_examples=300, deadline=None)
@given(happenings, st.booleans())
@example([("go", 1), ("fail", 1), ("tick", 7), ("go", 1), ("forget", 1)], False)  # the last one that has either
def test_whatever_happens_no_request_is_sent_where_its_version_is_not(happenings, halt):
    """Endpoints come and go or forget what they loaded, the new version fails, people interfere, the process is killed.

    The world notes each share that is raised while an endpoint lacks the version, and each version that is unloaded while it
    has traffic. In the end all is quiet, and then the rollout comes to its end one way or the other.
    """
    from shunter.rollout.core.spec import Analysis, Rollout, Side, Traffic

    world = World(
        Rollout(
            kind="Rollout",
            name="review",
            model="review",
            from_=Side(model="review-v1", source="/a/v1"),
            to=Side(model="review-v2", source="/a/v2"),
            traffic=Traffic(rewrite_file="x"),
            pickers=("http://p:1",),
            steps=(1, 50, 100),
            analysis=Analysis(on_failure="halt" if halt else "rollback"),
        )
    )
    number = 0
    for what, times in happenings:
        for _ in range(times if what in ("tick", "blind") else 1):
            world.tick(blind=what == "blind", do=what != "killed")
        if world.state.over:
            break  # what happens afterwards is nobody's affair here
        match what:
            case "come":
                world.endpoints[f"n{(number := number + 1)}"] = set()
            case "come-with-old":
                world.endpoints[f"n{(number := number + 1)}"] = {"review-v1"}
            case "go":
                world.endpoints.pop(next(iter(world.endpoints)), None) if len(world.endpoints) > 1 else None
            case "forget":
                world.endpoints[next(iter(world.endpoints))].clear()
            case "fail" | "heal":
                world.failing = float(what == "fail")
            case "deaf" | "hear":
                world.deaf = what == "deaf"
            case "pause" | "resume":
                world.wish = Wish(what)
            case "by-hand":
                world.share = 0
            case _:
                pass
    world.failing, world.deaf, world.wish = 0.0, False, Wish.RESUME
    world.run()
    assert not world.violations
    assert world.share == (0 if world.state.backwards else 100)
    serving = "review-v1" if world.state.backwards else "review-v2"
    assert any(serving in models for models in world.endpoints.values())
