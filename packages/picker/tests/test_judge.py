"""Who is picked, what is booked for it, and what the log says of it."""

import json
import random
import re
import uuid

import msgspec
import pytest

from shunter.picker import config
from shunter.picker.core.adoption import LEASE_S
from shunter.picker.core.decisions import BATCH
from shunter.picker.core.fleet import REFUSED_TIMES
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.judgement import Ask, Judge, Outcome
from shunter.picker.core.kinds import Weighted
from shunter.picker.core.overview import look
from shunter.snapshot import (
    Health,
    Rewrite,
    RewriteRule,
    Target,
)

NOW_S = 100.0
CHAT = {":path": "/v1/chat/completions", "x-request-id": "id"}
IDLE = {"waiting": 0.0, "running": 1.0, "kv_usage": 0.1}
FULL = {"waiting": 50.0, "running": 9.0, "kv_usage": 0.95}
DONE = Outcome(complete=True, status=200)


def body(text="hello", model="m", **fields):
    return json.dumps({"model": model, "messages": [{"role": "user", "content": text}]} | fields).encode()


def tally(judge):
    return judge.counters.tally()


def slot_of(authority):
    return int(authority.split(".")[3].split(":")[0]) - 1


def test_it_keeps_the_contract(make_judge):
    judge: Judge = make_judge(IDLE)
    assert list(judge.needs()) == []


def test_a_pick_names_primary_and_fallbacks(make_judge):
    pick = make_judge(FULL, IDLE, FULL, FULL).decide(Ask(CHAT, body()), NOW_S)
    assert pick.endpoints[0] == "10.0.0.2:8000"
    assert len(set(pick.endpoints)) == 3
    assert (pick.request_id, pick.model, pick.target_model, pick.body) == ("id", "m", None, None)


def test_the_next_pick_sees_the_last_one(make_judge):
    judge = make_judge(*[IDLE] * 4)
    picks = [judge.decide(Ask(CHAT, body(str(at))), NOW_S).endpoints[0] for at in range(8)]
    assert sorted(picks) == sorted([f"10.0.0.{at}:8000" for at in (1, 2, 3, 4)] * 2)


def test_a_burst_between_two_scrapes_is_spread(make_judge):
    judge = make_judge(IDLE, IDLE | {"waiting": 3.0}, None)
    picks = [judge.decide(Ask(CHAT, body(str(at))), NOW_S).endpoints[0] for at in range(30)]
    assert all(picks.count(f"10.0.0.{at}:8000") >= 8 for at in (1, 2, 3))


def test_a_new_pod_without_a_sample_does_not_attract_the_herd(make_judge):
    judge = make_judge(IDLE | {"waiting": 9.0}, IDLE | {"waiting": 8.0}, None)
    assert judge.decide(Ask(CHAT, body()), NOW_S).endpoints[0] == "10.0.0.2:8000"


def test_with_everybody_stale_requests_in_flight_decide(make_judge):
    judge = make_judge(IDLE | {"health": Health.FAILED}, FULL | {"health": Health.FAILED})
    picks = [judge.decide(Ask(CHAT, body(str(at))), NOW_S) for at in range(6)]
    assert sorted(pick.endpoints[0] for pick in picks) == ["10.0.0.1:8000"] * 3 + ["10.0.0.2:8000"] * 3
    for pick in picks:
        if pick.endpoints[0] == "10.0.0.1:8000":
            judge.release(pick.ticket, DONE, NOW_S)
    assert judge.decide(Ask(CHAT, body()), NOW_S).endpoints[0] == "10.0.0.1:8000"


@pytest.mark.parametrize(
    ("outcome", "shown"),
    [
        (DONE, True),
        (Outcome(complete=True), False),
        (Outcome(complete=False, lasts=True), False),
        (Outcome(complete=False), True),  # the client left before there was a response
    ],
)
def test_a_plugin_that_is_never_shown_a_response_is_complained_of(make_judge, outcome, shown):
    text = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins: [{type: session-affinity-scorer}]"
    judge = make_judge(IDLE, text=text)
    assert list(judge.needs()) == ["headers"]
    judge.release(judge.decide(Ask(CHAT, body()), NOW_S).ticket, outcome, NOW_S)
    assert ("session-affinity-scorer" not in judge.complaints) == shown


def test_a_release_counts_once(make_judge):
    judge = make_judge(IDLE)
    ticket = judge.decide(Ask(CHAT, body()), NOW_S).ticket
    judge.release(ticket, DONE, NOW_S)
    judge.release(ticket, DONE, NOW_S)
    judge.release(12345, DONE, NOW_S)
    assert (len(judge.ledger), tally(judge).released, judge.fleet(NOW_S).in_flight) == (0, 1, [0])


def test_equal_prefixes_stick(make_judge):
    judge = make_judge(*[IDLE] * 5)
    picks = [judge.decide(Ask(CHAT, body("word " * 1000 + str(at))), NOW_S + at) for at in range(10)]
    assert len({pick.endpoints[0] for pick in picks}) == 1
    account = tally(judge).by_endpoint[slot_of(picks[0].endpoints[0]), 1]
    assert account.prefix_hits == account.prefix_blocks * 9 // 10


@pytest.mark.parametrize(
    "change",
    [{"model": "other"}, {"cache_salt": "tenant"}, {"tools": [{"type": "function"}]}],
)
def test_what_engines_cache_apart_does_not_stick(make_judge, change):
    judge = make_judge(IDLE, IDLE)
    first = judge.decide(Ask(CHAT, body("word " * 1000)), NOW_S)
    second = judge.decide(Ask(CHAT, body("word " * 1000, **change)), NOW_S)
    assert first.endpoints[0] != second.endpoints[0]


def test_an_engine_that_was_unreachable_comes_back_cold(make_judge, make_view):
    judge = make_judge(IDLE, IDLE)
    first = judge.decide(Ask(CHAT, body("word " * 1000)), NOW_S)
    slot = slot_of(first.endpoints[0])
    judge.release(first.ticket, DONE, NOW_S)
    gone = IDLE | {"health": Health.UNREACHABLE, "failures": REFUSED_TIMES}
    judge.see(make_view(*[gone if at == slot else IDLE for at in range(2)]))
    judge.fleet(NOW_S)
    judge.see(make_view(IDLE, IDLE))
    judge.decide(Ask(CHAT, body("word " * 1000)), NOW_S)
    assert sum(account.prefix_hits for account in tally(judge).by_endpoint.values()) == 0


def test_a_fallback_that_served_is_known_to_have_the_prompt(make_judge):
    judge = make_judge(IDLE, IDLE, IDLE)
    first = judge.decide(Ask(CHAT, body("word " * 1000)), NOW_S)
    judge.release(first.ticket, msgspec.structs.replace(DONE, served=first.endpoints[1]), NOW_S)
    second = judge.decide(Ask(CHAT, body("word " * 1000), subset=first.endpoints[1:]), NOW_S)
    assert second.endpoints[0] == first.endpoints[1]
    assert tally(judge).by_endpoint[slot_of(first.endpoints[1]), 1].prefix_hits > 0


@pytest.mark.parametrize(
    ("status", "cached"), [(200, True), (404, False), (429, False), (503, False), (504, True), (499, True), (None, True)]
)
@pytest.mark.parametrize("told", ["by its stream", "by its record", "by both"])
def test_a_prompt_that_was_refused_is_not_taken_to_be_cached(make_judge, told, status, cached):
    judge = make_judge(*[IDLE] * 3)
    text = "word " * 1000
    before = judge.decide(Ask(CHAT, body(text)), NOW_S)
    judge.release(before.ticket, DONE, NOW_S)
    chosen = slot_of(before.endpoints[0])
    longer = judge.decide(Ask(CHAT, body(text + "more " * 1000), subset=before.endpoints[:1]), NOW_S)
    outcome = Outcome(complete=True, status=status)
    judge.release(longer.ticket, Outcome(complete=True) if told == "by its record" else outcome, NOW_S)
    if told != "by its stream":
        judge.measured(longer.ticket, outcome, NOW_S)
    prompts = [judge.decide(Ask(CHAT, body(text + tail), subset=before.endpoints[:1]), NOW_S) for tail in ("", "more " * 1000)]
    first, second = (judge.decisions.get(pick.ticket).prefix for pick in prompts)
    assert first.share[chosen] == 1.0, "that was computed before"
    assert (second.share[chosen] == 1.0) == cached
    assert second.share[chosen] > 0


def test_who_did_not_answer_is_not_taken_to_have_the_prompt(make_judge):
    judge = make_judge(IDLE, IDLE, IDLE)
    first = judge.decide(Ask(CHAT, body("word " * 1000)), NOW_S)
    judge.release(first.ticket, msgspec.structs.replace(DONE, served=first.endpoints[1]), NOW_S)
    second = judge.decide(Ask(CHAT, body("word " * 1000)), NOW_S)
    assert judge.decisions.get(second.ticket).prefix.share == {slot_of(first.endpoints[1]): 1.0}


def test_who_really_serves_gets_the_booking_while_the_request_runs(make_judge):
    judge = make_judge(IDLE, IDLE, IDLE)
    pick = judge.decide(Ask(CHAT, body("word " * 1000)), NOW_S)
    chosen, fallback = (slot_of(authority) for authority in pick.endpoints[:2])
    for _ in range(2):
        judge.served(pick.ticket, pick.endpoints[1])
        in_flight = judge.fleet(NOW_S).in_flight
        assert (in_flight[chosen], in_flight[fallback], sum(in_flight)) == (0, 1, 1)
        accounts = tally(judge).by_endpoint
        assert (accounts[chosen, 1].in_flight, accounts[fallback, 1].in_flight) == (0, 1)
    judge.release(pick.ticket, DONE, NOW_S)
    assert (judge.fleet(NOW_S).in_flight, len(judge.ledger)) == ([0, 0, 0], 0)
    judge.served(pick.ticket, pick.endpoints[0])
    assert len(judge.ledger) == 0


def test_a_load_that_nobody_asks_about_is_looked_at_when_somebody_does(make_judge, make_view):
    judge = make_judge(IDLE, FULL)
    before = judge.fleet(NOW_S)
    judge.see(make_view(FULL, IDLE))
    judge.catch_up(NOW_S)  # a new topology too
    assert (after := judge.fleet(NOW_S, wanted=False)) is not before
    view = make_view(IDLE, FULL)
    judge.see(msgspec.structs.replace(view, topology=judge._topology))
    judge.catch_up(NOW_S)
    assert judge.fleet(NOW_S, wanted=False) is after
    assert judge.decide(Ask(CHAT, body()), NOW_S).endpoints[0] == "10.0.0.1:8000"


def test_an_engine_that_starts_again_is_noticed_though_nobody_asks(make_judge, make_view):
    judge = make_judge(IDLE, IDLE)
    judge.decide(Ask(CHAT, body("x" * 2000)), NOW_S)
    gone, back = make_view(*[IDLE | {"health": Health.UNREACHABLE, "failures": REFUSED_TIMES}] * 2), make_view(IDLE, IDLE)
    for _ in range(2):
        for index in judge._prefixes.values():  # as other workers tell it
            index.insert([1, 2, 3], 0, 1)
        for view in (gone, back):
            judge.see(msgspec.structs.replace(view, topology=judge._topology))
            judge.catch_up(NOW_S)
        assert not any(map(len, judge._prefixes.values()))


def test_how_much_an_engine_caches_is_noticed_though_nobody_asks(make_judge, make_view):
    judge = make_judge(IDLE)
    judge.catch_up(NOW_S)
    told = make_view(IDLE | {"block_size": 16, "num_blocks": 77})
    judge.see(msgspec.structs.replace(told, topology=judge._topology))
    judge.catch_up(NOW_S)
    assert judge._wards.cache_size(0) == 77 * 16


def test_what_is_cached_and_what_an_answer_may_have_is_booked(make_judge):
    judge = make_judge(IDLE)
    first, second, third = (
        judge.ledger.get(judge.decide(Ask(CHAT, body("word " * 1000, **fields)), NOW_S).ticket)
        for fields in ({}, {"max_tokens": 7}, {"max_tokens": 10_000})
    )
    assert first.prefill_tokens == first.tokens > 1000
    assert second.prefill_tokens < first.tokens / 10
    assert (first.decode_tokens, second.decode_tokens, third.decode_tokens) == (256, 7, 256)


def test_what_answers_had_is_what_the_next_are_expected_to_have(make_judge):
    judge = make_judge(IDLE)
    for _ in range(200):
        ticket = judge.decide(Ask(CHAT, body()), NOW_S).ticket
        judge.release(ticket, msgspec.structs.replace(DONE, completion_tokens=1000), NOW_S)
    assert 950 < judge.ledger.get(judge.decide(Ask(CHAT, body()), NOW_S).ticket).decode_tokens <= 1000


@pytest.mark.parametrize("served", ["10.9.9.9:1", "nonsense"])
def test_who_served_may_be_unknown_here(make_judge, served):
    judge = make_judge(IDLE)
    ticket = judge.decide(Ask(CHAT, body("word " * 1000)), NOW_S).ticket
    judge.release(ticket, msgspec.structs.replace(DONE, served=served), NOW_S)
    assert tally(judge).released == 1


def test_a_replaced_pod_starts_cold(make_judge, make_view):
    judge = make_judge(IDLE, IDLE)
    first = judge.decide(Ask(CHAT, body("word " * 1000)), NOW_S)
    slot = slot_of(first.endpoints[0])
    judge.see(make_view(IDLE, IDLE, endpoints=[{"incarnation": 2 if at == slot else 1} for at in range(2)]))
    judge.decide(Ask(CHAT, body("word " * 1000)), NOW_S)
    assert sum(account.prefix_hits for account in tally(judge).by_endpoint.values()) == 0


@pytest.mark.parametrize(
    ("subset", "endpoints"),
    [
        (None, {"10.0.0.1:8000", "10.0.0.2:8000"}),
        (("10.0.0.2",), {"10.0.0.2:8000"}),
        (("10.0.0.1:8000", "10.9.9.9:1"), {"10.0.0.1:8000"}),
    ],
)
def test_the_gateways_hint_is_kept(make_judge, subset, endpoints):
    judge = make_judge(IDLE, IDLE)
    for _ in range(5):
        assert set(judge.decide(Ask(CHAT, body(), subset=subset), NOW_S).endpoints) == endpoints


@pytest.mark.parametrize("body", [b'{"model": "m", "messages": ["hi"]}', b"{"], ids=["picked", "refused"])
def test_whatever_becomes_of_a_request_its_trace_and_its_beginning_are_known(body, make_judge):
    judge = make_judge(IDLE)
    judge.decide(Ask(CHAT, body, traceparent="00-trace" + "x" * 1_000, began_s=NOW_S - 1), NOW_S)
    (entry,) = judge.decisions.latest()
    assert entry.began_s == NOW_S - 1
    assert entry.suffix == ("/chat/completions" if entry.refusal is None else "")
    assert entry.traceparent.startswith("00-trace")
    assert len(entry.traceparent) == 256


def test_a_bodiless_request_is_scheduled_like_any_other(make_judge):
    pick = make_judge(FULL, IDLE).decide(Ask({":path": "/v1/models"}, b"", has_body=False), NOW_S)
    assert pick.endpoints == ("10.0.0.2:8000", "10.0.0.1:8000")


def test_a_request_id_is_made_when_there_is_none(make_judge):
    headers = {":path": "/v1/chat/completions"}
    made = make_judge(IDLE).decide(Ask(headers, body()), NOW_S).request_id
    assert uuid.UUID(made).version == 4
    assert re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", made)
    assert make_judge(IDLE, seed=2).decide(Ask(headers, body()), NOW_S).request_id != made


def test_a_rewrite_changes_the_body_and_the_cache_key(make_judge, make_view):
    rules = (RewriteRule(models=("m",), targets=(Target(model="m-v2"),)),)
    judge = make_judge(view=make_view(IDLE, rewrites=(Rewrite(name="r", pool="pool", rules=rules),)), pool="pool")
    # The view's endpoints are in no pool: name none.
    assert judge.decide(Ask(CHAT, body()), NOW_S).status == 503
    judge = make_judge(
        view=make_view(IDLE, endpoints=[{"pools": (0,)}], rewrites=(Rewrite(name="r", pool="pool", rules=rules),))
    )
    pick = judge.decide(Ask(CHAT, body()), NOW_S)
    assert (pick.model, pick.target_model) == ("m", "m-v2")
    assert pick.body == body(model="m-v2")
    assert tally(judge).rewrites == 1
    assert judge.decide(Ask(CHAT, body(model="m-v2")), NOW_S).body is None


def test_a_request_outlives_its_endpoint(make_judge, make_view):
    judge = make_judge(IDLE)
    ticket = judge.decide(Ask(CHAT, body()), NOW_S).ticket
    judge.see(make_view(IDLE, endpoints=[{"incarnation": 2}]))
    assert judge.fleet(NOW_S).in_flight == [0]
    judge.release(ticket, DONE, NOW_S)
    assert (judge.fleet(NOW_S).in_flight, len(judge.ledger)) == ([0], 0)


def test_the_same_dice_make_the_same_decisions(make_judge):
    asks = [Ask({":path": "/v1/chat/completions"}, body(str(at % 3) * 2000)) for at in range(20)]
    runs = [[judge.decide(ask, NOW_S) for ask in asks] for judge in (make_judge(*[IDLE] * 6), make_judge(*[IDLE] * 6))]
    assert runs[0] == runs[1]


def test_a_decision_explains_itself(make_judge):
    judge = make_judge(FULL, IDLE, text=config.read_builtin("upstream-2-2-3"))
    pick = judge.decide(Ask(CHAT, body("word " * 200)), NOW_S)
    judge.release(pick.ticket, Outcome(complete=False, status=502, served="10.0.0.1:8000"), NOW_S)
    told = judge.decisions.find("id").explain()
    assert json.loads(json.dumps(told)) == told
    assert told["chosen"] == ["10.0.0.2:8000", "10.0.0.1:8000"]
    assert told["weights"] == {"queue-scorer": 2, "kv-cache-utilization-scorer": 2, "prefix-cache-scorer": 3}
    assert told["best"][0] == {
        "endpoint": "10.0.0.2:8000",
        "name": "pod-1",
        "total": 3.8,
        "cached": 0,
        "scores": {"queue-scorer": 1, "kv-cache-utilization-scorer": 0.9, "prefix-cache-scorer": 0},
    }
    assert (told["prefix_blocks"], told["outcome"]["status"], tally(judge).incomplete) == (4, 502, 1)


def test_the_log_keeps_no_prompt(make_judge):
    judge = make_judge(IDLE)
    judge.decide(Ask(CHAT | {"authorization": "secret"}, body("confidential " * 100)), NOW_S)
    entry = judge.decisions.latest(1)[0]
    assert "confidential" not in repr(entry)
    assert "secret" not in repr(entry)


def test_the_log_keeps_no_name_of_megabytes(make_judge):
    judge = make_judge(IDLE)
    judge.decide(Ask(CHAT | {"x-request-id": "i" * 10_000}, body(model="m" * 10_000)), NOW_S)
    entry = judge.decisions.latest(1)[0]
    assert (len(entry.request_id), len(entry.model), len(entry.target_model)) == (256, 256, 256)


def test_an_explanation_shows_few_of_many_candidates(make_judge):
    judge = make_judge(*[IDLE] * 40)
    judge.decide(Ask(CHAT, body()), NOW_S)
    told = judge.decisions.latest(1)[0].explain(5)
    assert (len(told["best"]), told["candidates"]) == (5, 40)


def test_a_request_that_outlasts_its_stream_is_in_the_account_until_its_record_or_the_lease(make_judge):
    judge = make_judge(IDLE)
    told, untold = (judge.decide(Ask(CHAT, body()), NOW_S).ticket for _ in range(2))
    for ticket in (told, untold):
        judge.release(ticket, Outcome(complete=True, lasts=True), NOW_S)
    judge.release(told, DONE, NOW_S + 1)
    judge.catch_up(NOW_S + LEASE_S - 0.1)
    assert list(judge.fleet(NOW_S).in_flight) == [1]
    judge.catch_up(NOW_S + LEASE_S)
    assert list(judge.fleet(NOW_S).in_flight) == [0]
    assert (tally(judge).released, tally(judge).incomplete) == (2, 1)


class Angry(msgspec.Struct, frozen=True):
    """A plugin that raises."""

    def score(self, request, fleet):
        raise OSError("no")


def test_a_plugin_that_raises_costs_no_request(make_judge):
    judge = make_judge(IDLE, IDLE)
    profile = msgspec.structs.replace(judge._policy.profile, scorers=(Weighted("angry", Angry()),))
    policy = msgspec.structs.replace(judge._policy, profiles=(profile,))
    judge = FleetJudge(policy, judge._view, random.Random(1))
    picks = [judge.decide(Ask(CHAT, body()), NOW_S) for _ in range(4)]
    assert sorted(pick.endpoints[0] for pick in picks) == ["10.0.0.1:8000"] * 2 + ["10.0.0.2:8000"] * 2
    assert (tally(judge).plugin_errors, judge.complaints) == (4, {"angry": "OSError: no"})
    overview = look(judge._view(0), None, tally(judge), 0, complaints=judge.complaints)
    assert overview.complaints == {"angry": "OSError: no"}


def test_a_witness_that_raises_costs_no_request_and_is_counted(make_judge):
    class Blind:
        name = "the blind one"

        def follow(self, decided, ended):
            raise OSError("dark")

    judge = make_judge(IDLE)
    judge.decisions.witnesses.append(Blind())
    for _ in range(2 * BATCH):
        pick = judge.decide(Ask(CHAT, body()), NOW_S)
        judge.release(pick.ticket, DONE, NOW_S)
    assert (tally(judge).picks, tally(judge).released, tally(judge).plugin_errors) == (2 * BATCH, 2 * BATCH, 2)
    assert judge.complaints == {"the blind one": "OSError: dark"}
    assert list(judge.unlogged) == ["the blind one"], "once, however often it raises"


def test_how_a_request_went_may_be_learnt_after_its_release(make_judge):
    judge = make_judge(IDLE)
    pick = judge.decide(Ask(CHAT, body()), NOW_S)
    judge.release(pick.ticket, DONE, NOW_S + 1)
    told = Outcome(complete=True, status=200, first_token_s=0.25, duration_s=1.0)
    judge.measured(pick.ticket, told, NOW_S + 2)
    assert judge.decisions.latest(1)[0].outcome == told


def test_what_rules_make_of_models_is_counted_by_rule(make_judge, make_view):
    targets = (Target(model="m", weight=1), Target(model="m2", weight=1))
    rules = (RewriteRule(models=("m",), targets=targets), RewriteRule(targets=(Target(model="any"),)))
    resources = {"rewrites": (Rewrite(name="canary", pool="pool", rules=rules[:1]),)}
    judge = make_judge(view=make_view(IDLE, endpoints=[{"pools": (0,)}], **resources))
    for _ in range(20):
        judge.decide(Ask(CHAT, body()), NOW_S)
    judge.decide(Ask(CHAT | {"x-llm-d-model-name-rewrite": "whatever"}, body(model="own")), NOW_S)
    canary = "InferenceModelRewrite default/canary"
    rulings = tally(judge).rulings
    assert set(rulings) == {(canary, "m", "m"), (canary, "m", "m2")}
    assert sum(rulings.values()) == 20
    judge.see(make_view(IDLE, endpoints=[{"pools": (0,)}], rewrites=(Rewrite(name="all", pool="pool", rules=rules[1:]),)))
    for name in ("x", "y"):
        judge.decide(Ask(CHAT, body(model=name)), NOW_S)
    assert tally(judge).rulings["InferenceModelRewrite default/all", "", "any"] == 2
