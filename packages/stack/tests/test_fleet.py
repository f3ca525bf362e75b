"""What top and explain show, line by line."""

import msgspec

from shunter.stack.core.fleet import Candidate, Choice, Decision, Fleet, Outcome, Refusal, Row, explain, mention, table

ROWS = (
    Row(
        name="a", authority="10.0.0.1:8000", ready=True, health="fresh", age_s=0.04, waiting=12.0, running=4.0, kv_usage=0.375,
        in_flight=7, picks=120, prefix_hit_blocks=30, prefix_blocks=40,
    ),
    Row(name="bb", authority="10.0.0.2:8000", ready=False, health="unreachable", age_s=7.0, reason="connection refused"),
)  # fmt: skip


def test_a_table_has_a_line_an_endpoint_and_a_dash_for_the_unknown():
    lines = table(Fleet(snapshot_age_s=0.1, picks=120, refusals={"rejected-saturated": 2, "BadRequest": 1}, endpoints=ROWS))
    assert lines == [
        "endpoint          health                    age  queue  run  KV %  in flight  picks  hits",
        "a 10.0.0.1:8000   fresh                   0.0 s     12    4  37.5          7    120  75 %",
        "bb 10.0.0.2:8000  unreachable, not ready  7.0 s      -    -     -          0      0     -",
        "  bb: connection refused",
        "picks 120, refused 3 (1 BadRequest, 2 rejected-saturated)",
    ]


def test_what_waits_is_told_where_requests_may_wait():
    fleet = Fleet(snapshot_age_s=0.1, queued={10: 3, 0: 0, -1: 20}, saturation=1.0)
    assert table(fleet)[-1] == "waiting 3 of priority 10, 20 of priority -1; the pool is 100 % full"
    assert table(msgspec.structs.replace(fleet, queued={0: 0}, saturation=0.25))[-1] == "waiting 0; the pool is 25 % full"
    assert msgspec.json.decode(msgspec.json.encode(fleet), type=Fleet) == fleet


def test_what_plugins_have_to_say_is_told():
    fleet = Fleet(snapshot_age_s=0.1, reports={"expected-delay-scorer": "bound by prompts"})
    assert table(fleet)[-1] == "expected-delay-scorer: bound by prompts"


def test_an_old_snapshot_is_said_to_be_old():
    assert "nothing from the scraper for 9 s" in table(Fleet(snapshot_age_s=9.2))[-1]
    assert "nothing from the scraper for - s" in table(Fleet())[-1]
    assert table(Fleet(snapshot_age_s=0.1, trouble="r: truncated"))[-1] == "snapshot: r: truncated"


DECISION = Decision(
    ticket=(3 << 32) + 7,
    at_s=100.0,
    request_id="r-1",
    model="food",
    target_model="food-v2",
    prompt_tokens=512,
    chosen=("10.0.0.1:8000", "10.0.0.2:8000"),
    candidates=3,
    reason="10.0.0.1:8000 won by 2.25 over 10.0.0.2:8000: prefix-cache-scorer +2.25.",
    weights={"queue-scorer": 2.0, "prefix-cache-scorer": 3.0},
    best=(
        Candidate(
            endpoint="10.0.0.1:8000",
            name="a",
            total=4.25,
            cached=0.75,
            scores={"queue-scorer": 0.5, "prefix-cache-scorer": 0.75},
        ),
        Candidate(endpoint="10.0.0.2:8000", name="b", total=2.0, scores={"queue-scorer": 1.0}),
    ),
    outcome=Outcome(complete=True, duration_s=1.5, status=200, first_token_s=0.2, served="10.0.0.1:8000", completion_tokens=16),
)


def test_a_decision_is_told_as_it_was_made():
    assert explain(DECISION, 102.5) == [
        "#3.7  2.5 s ago  food → food-v2, about 512 prompt tokens  x-request-id r-1",
        "  to 10.0.0.1:8000, else 10.0.0.2:8000",
        "  10.0.0.1:8000 won by 2.25 over 10.0.0.2:8000: prefix-cache-scorer +2.25.",
        "  endpoint       total  cached  queue-scorer ×2  prefix-cache-scorer ×3",
        "  10.0.0.1:8000   4.25    75 %             0.50                    0.75",
        "  10.0.0.2:8000   2.00     0 %             1.00                    0.00",
        "    and 1 more",
        "  ended, after 1.50 s, first token after 0.20 s, status 200, served by 10.0.0.1:8000, 16 tokens",
    ]


def test_the_rule_and_the_pool_are_told_if_there_are():
    ruled = msgspec.structs.replace(DECISION, rule="InferenceModelRewrite default/food", pool="default/llama")
    head = "#3.7  2.5 s ago  food → food-v2 by InferenceModelRewrite default/food, pool default/llama, about 512 prompt tokens"
    assert explain(ruled, 102.5)[0] == f"{head}  x-request-id r-1"


def test_further_profiles_have_their_reasons():
    split = msgspec.structs.replace(
        DECISION, others={"prefill": Choice(chosen=("10.0.0.3:8000",), reason="10.0.0.3:8000 won.")}
    )
    assert "  profile prefill: 10.0.0.3:8000 won." in explain(split, 102.5)


def test_a_decision_among_many_is_a_line():
    assert mention(DECISION, 102.5) == (
        "#3.7  2.5 s ago  food → food-v2  r-1  10.0.0.1:8000 won by 2.25 over 10.0.0.2:8000: prefix-cache-scorer +2.25."
    )
    refused = Decision(ticket=8, at_s=0.0, request_id="r-2", refusal=Refusal(status=503, message="nobody"))
    assert mention(refused, 1.0) == "#0.8  1.0 s ago  no model  r-2  refused with 503: nobody"


def test_a_refusal_is_told_with_its_reason():
    refused = Decision(ticket=8, at_s=0.0, request_id="r-2", refusal=Refusal(status=503, message="nobody"))
    assert explain(refused, 1.0)[-1] == "  refused with 503: nobody"


def test_who_waited_is_told_for_how_long():
    waited = msgspec.structs.replace(DECISION, waited_s=1.984, priority=10)
    assert explain(waited, 102.5)[1] == "  waited 1.98 s for room, at priority 10"
