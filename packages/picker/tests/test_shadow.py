"""A shadow decides too, changes nothing, and is compared by what became of requests."""

import itertools
import math
import random

import pytest

from shunter.picker import config
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.judgement import Ask, Outcome
from shunter.picker.core.shadow import Account, Shadow, Stratum, Sum, add_up, describe
from shunter.picker.plugins import Kind, Plugin

CHAT = {":path": "/v1/chat/completions"}
NOW_S = 100.0
ROWS = [{"waiting": 3, "running": 1}, {"waiting": 1, "running": 9}, {"waiting": 0, "running": 9}]


def body(text):
    return b'{"model":"m","messages":[{"role":"user","content":"%s"}]}' % (str(text).encode() * 400)


def policy(scorer, more=""):
    document = f"apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n- type: {scorer}\n{more}"
    return config.load(document).policy


@pytest.fixture
def run(make_view):
    """Decide forty requests with or without a shadow; the n-th to end took ``time_s(n)`` to its first token."""

    def run(shadow, time_s=lambda _: 0.1, count=40):
        view = make_view(*ROWS)
        judge = FleetJudge(policy("queue-scorer"), lambda _: view, random.Random(1), shadow=shadow)
        picks = []
        for number in range(count):
            picks.append(judge.decide(Ask(CHAT, body(number)), NOW_S))
            if number % 2:
                done = Outcome(complete=True, status=200, first_token_s=time_s(number))
                judge.release(picks[-1].ticket, done, NOW_S)
        return [pick.endpoints for pick in picks], judge

    return run


def make_shadow(made, sample=1.0):
    ticks = itertools.count()
    return Shadow(made, random.Random(9), sample, lambda: float(next(ticks)))


class Follower:
    """Which requests it was told of, and with which outcomes they ended."""

    def __init__(self):
        self.picked = set()
        self.ended = {}


def record_requests(register_plugin):
    follower = Follower()

    @register_plugin("recorder", Kind.HOOK)
    class Recorder(Plugin, frozen=True):
        def picked(self, request, verdict):
            follower.picked.add(request.ticket)
            return (), ()

        def observe(self, ticket, outcome, now_s):
            follower.ended[ticket] = outcome

    return follower


def test_what_is_decided_is_the_same_with_and_without_a_shadow(run):
    shadow = make_shadow(policy("expected-delay-scorer"))
    assert run(None)[0] == run(shadow)[0]
    assert shadow.account.decided == 40
    assert shadow.account.spent_s == 40.0


def test_the_same_policy_agrees(run):
    shadow = make_shadow(policy("queue-scorer"))
    run(shadow)
    assert (shadow.account.differed, shadow.account.refused) == (0, 0)
    assert sum(each.agreed.count for each in shadow.account.strata.values()) == 20


def test_it_knows_of_cached_prefixes_though_the_first_policy_asks_for_none(make_view):
    shadow = make_shadow(policy("prefix-cache-scorer"))
    view = make_view(*ROWS[:2], {"waiting": 1, "running": 9})
    judge = FleetJudge(policy("queue-scorer"), lambda _: view, random.Random(1), shadow=shadow)
    first = judge.decide(Ask(CHAT, body("again")), NOW_S)
    picks = [judge.decide(Ask(CHAT, body("again")), NOW_S) for _ in range(20)]
    went = {pick.endpoints[0] for pick in (first, *picks)}
    assert len(went) > 1
    # Wherever it went once, it is cached: only who has none of it would be another's choice.
    assert shadow.account.differed == len(went) - 1


def test_another_policy_differs_and_one_that_refuses_does_too(run):
    other = make_shadow(policy("running-requests-size-scorer"))
    run(other)
    assert 0 < other.account.differed <= 40
    nobody = make_shadow(policy("label-selector-filter", "  parameters: {matchLabels: {gpu: none}}\n- type: queue-scorer\n"))
    run(nobody)
    assert (nobody.account.differed, nobody.account.refused) == (40, 40)


@pytest.mark.parametrize("agrees", [True, False])
def test_its_plugins_hear_the_end_of_every_request_and_how_only_those_went_that_went_their_way(
    run, register_plugin, monkeypatch, agrees
):
    follower = record_requests(register_plugin)
    monkeypatch.setattr("shunter.picker.core.shadow.WAITING", 8)
    scorer = "queue-scorer" if agrees else "running-requests-size-scorer"
    run(make_shadow(policy(scorer, "- type: recorder\n")))
    assert len(follower.picked) == 40
    # Every other request of forty ends; of those that do not, the eight latest are still waited for.
    assert len(follower.ended) >= 40 - 8
    assert {outcome.status for outcome in follower.ended.values()} == ({200, None} if agrees else {None})
    assert {outcome.first_token_s for outcome in follower.ended.values()} == ({0.1, None} if agrees else {None})


def test_its_plugins_hear_nothing_of_what_they_never_sent(run, register_plugin):
    follower = record_requests(register_plugin)
    filters = "  parameters: {matchLabels: {gpu: none}}\n- type: recorder\n- type: queue-scorer\n"
    run(make_shadow(policy("label-selector-filter", filters)))
    assert (follower.picked, follower.ended) == (set(), {})


def divided(decider, scorer):
    lines = f"""- type: {decider}
- {{type: disagg-profile-handler, parameters: {{deciders: {{prefill: {decider}}}}}}}
- type: decode-filter
schedulingProfiles:
- {{name: prefill, plugins: [{{pluginRef: {scorer}}}]}}
- {{name: decode, plugins: [{{pluginRef: decode-filter}}]}}
"""
    return policy(scorer, lines)


def test_where_others_would_prefill_is_told_too(make_view):
    never, elsewhere = (
        make_shadow(divided(decider, scorer))
        for decider, scorer in (
            ("prefix-based-pd-decider", "queue-scorer"),
            ("always-disagg-pd-decider", "running-requests-size-scorer"),
        )
    )
    for shadow in (never, elsewhere):
        view = make_view(*ROWS)
        first = divided("always-disagg-pd-decider", "queue-scorer")
        judge = FleetJudge(first, lambda _, view=view: view, random.Random(1), shadow=shadow)
        for number in range(20):
            judge.decide(Ask(CHAT, body(number)), NOW_S)
    stage = elsewhere.account.stages["prefill"]
    assert 0 < stage.moved <= min(stage.recorded, stage.now)
    stage = never.account.stages["prefill"]
    assert (stage.now, stage.moved) == (0, 0)
    total = add_up([never.account, never.account])
    assert total.stages["prefill"].recorded == 2 * stage.recorded > 0
    part = 100 * stage.recorded / 20
    assert describe(total)[1] == f"profile prefill chose somebody for {part:.0f} % of requests, then for 0 %"


def test_a_plugin_that_raises_is_said_beside_what_came_of_the_rest(run, register_plugin):
    @register_plugin("boomer", Kind.SCORER)
    class Boomer(Plugin, frozen=True):
        def score(self, request, fleet):
            raise ValueError("boom")

    shadow = make_shadow(policy("boomer"))
    run(shadow)
    assert describe(add_up([Account(), shadow.account]))[-1] == "boomer: ValueError: boom"


def test_only_a_sample_is_decided(run):
    shadow = make_shadow(policy("queue-scorer"), sample=0.25)
    run(shadow, count=400)
    assert 60 < shadow.account.decided < 140


def _sum(*values):
    made = Sum()
    for value in values:
        made.add(math.log(value))
    return made


def test_times_are_compared_among_prompts_of_a_size():
    # Long prompts take ten times as long, and there are more of them where the policies differ: that is not regret.
    short = Stratum(agreed=_sum(*[0.1] * 9), differed=_sum(*[0.15] * 3))
    long = Stratum(agreed=_sum(*[1.0] * 3), differed=_sum(*[1.5] * 9))
    factor, error = Account(decided=24, differed=12, strata={5: short, 10: long}).later()
    assert (factor, error) == pytest.approx((1.5, 1.0))


def test_where_a_side_is_missing_nothing_is_claimed():
    lonely = Account(decided=5, differed=5, strata={5: Stratum(differed=_sum(0.1, 0.2, 0.3))})
    assert lonely.later() is None
    assert describe(lonely)[-1] == "first tokens: known of 3 requests, too few on either side to compare"
    assert describe(Account()) == ["the shadow has decided nothing yet"]


def test_accounts_of_workers_add_up():
    stratum = Stratum(agreed=_sum(0.1, 0.2), differed=_sum(0.2, 0.4))
    one = Account(decided=4, differed=2, refused=1, spent_s=0.001, strata={3: stratum})
    total = add_up([one, one])
    assert (total.decided, total.differed, total.refused, total.strata[3].agreed.count) == (8, 4, 2, 4)
    assert one.strata[3].agreed.count == 2
    assert describe(total) == [
        "the shadow would have gone elsewhere with 50.0 % of 8 requests, and refused 25.0 %",
        "it takes 250 µs a request",
        (
            "where they differ first tokens came after 2.00 times what they take where both agree "
            "(1.15 to 3.48, prompts of a size compared, 8 requests)"
        ),
    ]
