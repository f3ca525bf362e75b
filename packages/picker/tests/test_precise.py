"""Precise prefix knowledge: who announces a prompt's blocks is chosen, whoever was sent what; a guess until that is known."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker import config
from shunter.picker.core.journal import Journal, Peers
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.judgement import Ask, Outcome
from shunter.picker.core.precise import DOUBTS, Precise, PreciseSettings
from shunter.picker.core.prefix import PrefixIndex, PrefixSettings
from shunter.picker.errors import ConfigError
from shunter.snapshot import Batch, Begun, Cleared, Held, LogReader, LogWriter, encode_statement, names_of

IDLE = {"waiting": 0.0, "running": 0.0, "kv_usage": 0.1}
TEXT = "".join(f" word{at}" for at in range(300))  # 2,490 bytes: 9 blocks of the guess
TOKENS = list(range(640))  # 10 strides
NAMES = names_of(TOKENS, 16)

CONFIG = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: precise-prefix-cache-producer
  parameters: {speculativeTTL: 5s}
- type: prefix-cache-scorer
  parameters: {prefixMatchInfoProducerName: precise-prefix-cache-producer}
"""


class Bench:
    """A judge of four endpoints, its log, and everything it wants to be tokenised."""

    def __init__(self, policy, view, **shared):
        self.batches = []
        self.wants = []
        self.now_s = 100.0
        self.judge = FleetJudge(policy, lambda _: view, random.Random(1), blocks=self._read, **shared)
        self.judge.precise.ask = self.wants.append

    def _read(self, _now_ns):
        if not self.batches:
            return None
        batches, self.batches = self.batches, []
        return Batch([record for each in batches for record in each.records], lost=any(each.lost for each in batches))

    def tell(self, *statements, lost=False):
        self.batches.append(Batch([encode_statement(each) for each in statements], lost=lost))

    def hold(self, slot, names, *, adapter=None, size=16, tier="gpu"):
        self.tell(Held(slot, 1, tier, size, adapter, tuple(names)))

    def ask(self, text=TEXT, *, wait_s=10.0, path="/v1/completions", **fields):
        """Return the next request's shares by slot and where it goes, after so long that nothing is expected any more."""
        self.now_s += wait_s
        body = {"model": "m", "prompt": text} | fields
        pick = self.judge.decide(Ask({":path": path}, json.dumps(body).encode()), self.now_s)
        self.judge.release(pick.ticket, Outcome(complete=True, status=200), self.now_s)
        decision = self.judge.decisions.latest(1)[0].decision
        (_, shares) = decision.scores[-1]
        slots = [each.slot for each in decision.candidates]
        return {slots[at]: share for at, share in shares.items()}, slots[decision.chosen[0]]

    def learn(self, tokens=TOKENS):
        self.judge.precise.learn(self.wants[-1], tokens)


@pytest.fixture
def make_bench(make_view):
    """A bench; these slots have announced some block."""

    def make(*announcing, text=CONFIG):
        bench = Bench(config.load(text).policy, make_view(*[IDLE] * 4))
        bench.tell(*[Held(slot, 1, "gpu", 16, None, (1,)) for slot in announcing])
        return bench

    return make


@pytest.fixture
def bench(make_bench):
    return make_bench(0, 1, 2, 3)


def test_who_holds_the_prompt_gets_it_whoever_was_sent_it(bench):
    _, guessed = bench.ask()
    bench.learn()
    holder = (guessed + 1) % 4
    bench.hold(holder, NAMES)
    shares, chosen = bench.ask()
    assert shares[holder] == 1.0
    assert chosen == holder


def test_a_share_is_the_part_of_the_prompts_strides_from_its_beginning(bench):
    bench.hold(1, NAMES[:5])
    bench.hold(2, [NAMES[0], *NAMES[2:]])
    bench.ask()
    bench.learn()
    shares, chosen = bench.ask()
    assert (shares, chosen) == ({1: 0.5, 2: 0.1}, 1)


def test_blocks_in_a_slower_tier_are_worth_less_and_cached_all_the_same(bench):
    bench.hold(1, NAMES[:5])
    bench.hold(1, NAMES[5:], tier="cpu")
    bench.hold(2, NAMES)
    bench.ask()
    bench.learn()
    shares, _ = bench.ask()
    assert shares == {1: pytest.approx(0.9), 2: 1.0}
    assert bench.judge.decisions.latest(1)[0].prefix.cached == {1: 1.0}


def test_until_its_tokens_are_known_the_guess_holds(bench):
    _, first = bench.ask()
    shares, again = bench.ask()
    assert (shares, again) == ({first: 1.0}, first)


def test_a_prompt_is_asked_for_where_it_was_sent_until_it_is_known(bench):
    _, chosen = bench.ask()
    bench.ask()
    assert len(bench.wants) == 2
    assert bench.wants[0].authority == f"10.0.0.{chosen + 1}:8000"
    bench.learn()
    bench.ask()
    assert len(bench.wants) == 2


def test_nobody_is_asked_while_nobody_announces(make_bench):
    bench = make_bench()
    bench.ask()
    bench.ask("short")
    assert not bench.wants


def test_what_begins_like_a_known_prompt_is_found_too_and_asked_for(bench):
    bench.ask()
    bench.learn()
    bench.hold(3, NAMES)
    longer = TEXT + "".join(f" more{at}" for at in range(300))
    shares, chosen = bench.ask(longer)
    assert chosen == 3
    assert 0.35 < shares[3] < 0.5
    assert len(bench.wants) == 2


def test_of_a_half_known_prompt_the_guess_is_believed_where_the_known_half_is_held(bench):
    bench.ask()
    bench.learn()
    longer = TEXT + "".join(f" more{at}" for at in range(300))
    for slot in range(4):
        bench.hold(slot, NAMES)
    _, first = bench.ask(longer)  # its tokens never come
    shares, again = bench.ask(longer)
    assert (shares.pop(first), again) == (1.0, first)
    assert len(shares) == 3
    assert max(shares.values()) < 0.5
    bench.tell(Cleared(first, 1))
    bench.hold(first, (1,))
    assert first not in bench.ask(longer)[0]


def test_a_prompt_of_which_next_to_nothing_is_known_is_left_to_the_guess(bench):
    bench.ask(TEXT[:280])
    bench.learn(TOKENS[:70])
    _, first = bench.ask(TEXT)
    assert bench.ask(TEXT) == ({first: 1.0}, first)


def test_equal_prompts_within_one_prefill_stay_together(bench):
    _, first = bench.ask()
    bench.learn()
    shares, second = bench.ask(wait_s=0.1)
    assert (shares, second) == ({first: 1.0}, first)


def test_an_adapters_blocks_are_its_own(bench):
    bench.ask(model="lora-a")
    bench.learn()
    bench.hold(1, names_of(TOKENS, 16, adapter="lora-a"), adapter="lora-a")
    bench.hold(2, NAMES)
    shares, _ = bench.ask(model="lora-a")
    assert shares == {1: 1.0}
    bench.ask(model="m")
    bench.learn()
    shares, _ = bench.ask(model="m")
    assert shares == {2: 1.0}


def test_a_salt_keeps_prompts_apart(bench):
    bench.hold(1, names_of(TOKENS, 16, salt="x"))
    bench.hold(2, NAMES)
    bench.ask(cache_salt="x")
    bench.learn()
    assert bench.ask(cache_salt="x")[0] == {1: 1.0}


def test_block_sizes_may_differ(bench):
    bench.hold(1, names_of(TOKENS, 32), size=32)
    bench.hold(2, names_of(TOKENS, 48)[:3], size=48)
    bench.ask()
    bench.learn()
    shares, chosen = bench.ask()
    assert chosen == 1
    assert shares == {1: 1.0, 2: 3 / 6}


def test_a_prompt_is_asked_for_again_for_a_new_block_size(bench):
    bench.ask()
    bench.learn()
    bench.hold(1, names_of(TOKENS, 32), size=32)
    bench.ask()
    assert len(bench.wants) == 2
    bench.learn()
    assert bench.ask()[0] == {1: 1.0}


def test_workers_tell_each_other_what_they_learnt(make_view):
    logs = [bytearray(1 << 20) for _ in range(2)]
    policy, view = config.load(CONFIG).policy, make_view(*[IDLE] * 4)
    benches = [
        Bench(
            policy,
            view,
            life=life,
            journal=Journal(LogWriter(log), life),
            peers=Peers([LogReader(each) for each in logs], life),
        )
        for life, log in enumerate(logs, 1)
    ]
    for bench in benches:
        bench.tell(*[Held(slot, 1, "gpu", 16, None, NAMES if slot == 2 else (1,)) for slot in range(4)])
        bench.judge.catch_up(bench.now_s)
    benches[0].ask()
    benches[0].learn()
    assert benches[1].ask()[1] == 2
    assert not benches[1].wants


@given(st.binary(max_size=100))
def test_what_another_version_tells_is_passed_over(told):
    Precise(PreciseSettings(producer="p"), PrefixIndex(PrefixSettings()), lambda _: None).hear(told)


def test_for_who_announces_nothing_the_guess_holds(make_bench):
    bench = make_bench(0)
    _, first = bench.ask()
    bench.learn()
    bench.ask(wait_s=0)
    shares, chosen = bench.ask()
    assert (shares, chosen) == (({first: 1.0}, first) if first else ({}, chosen))


def test_images_are_left_to_the_guess(bench):
    picture = {"type": "image_url", "image_url": {"url": "http://pictures.example/1.png"}}
    bench.ask(path="/v1/chat/completions", messages=[{"role": "user", "content": [picture, {"type": "text", "text": TEXT}]}])
    assert not bench.wants


def test_what_was_missed_of_the_log_is_forgotten(bench):
    bench.ask()
    bench.learn()
    bench.hold(1, NAMES)
    assert bench.ask()[0] == {1: 1.0}
    everybody = [Held(slot, 1, "gpu", 16, None, NAMES if slot == 2 else (1,)) for slot in range(4)]
    bench.tell(*everybody, lost=True)
    assert bench.ask()[0] == {2: 1.0}
    bench.tell(Begun(), *everybody[:2], *everybody[3:])
    assert bench.ask()[0] == {2: 1.0}  # it announces nothing now, and was sent it


def test_engines_that_never_announce_what_they_are_sent_are_complained_of(bench):
    bench.ask()
    bench.learn()
    for _ in range(DOUBTS):
        assert bench.judge.precise.doubt is None
        bench.ask()
    bench.ask()
    assert "/tokenize do not agree" in bench.judge.precise.doubt


def test_engines_that_announce_it_are_not(bench):
    bench.ask()
    bench.learn()
    for _ in range(4 * DOUBTS):
        _, chosen = bench.ask(wait_s=1.0)
        bench.hold(chosen, NAMES)
    assert bench.judge.precise.doubt is None


def test_silence_is_complained_of(make_bench):
    bench = make_bench()
    bench.ask()
    assert "--kv-events-port" in bench.judge.precise.doubt


def test_both_producers_can_be_asked_by_name(make_bench):
    text = CONFIG + "- type: approx-prefix-cache-producer\n- type: prefix-cache-scorer\n  name: guessed\n"
    bench = make_bench(0, 1, 2, 3, text=text)
    _, first = bench.ask()
    bench.learn()
    bench.hold((first + 1) % 4, NAMES)
    bench.ask()
    by_name = {each.name: dict(shares) for each, shares in bench.judge.decisions.latest(1)[0].decision.scores}
    assert by_name["prefix-cache-scorer"] == {(first + 1) % 4: 1.0}
    assert by_name["guessed"] == {first: 1.0}


def test_a_policy_that_does_not_ask_for_it_has_nothing_of_it(make_view):
    judge = FleetJudge(config.load().policy, lambda _: make_view(IDLE), random.Random(1), blocks=pytest.fail)
    judge.decide(Ask({":path": "/v1/completions"}, b'{"model":"m","prompt":"x"}'), 100.0)
    assert judge.precise is None


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ("{kvEventsConfig: {zmqEndpoint: 'tcp://*:5557'}}", "kvEventsConfig.*the scraper connects to them"),
        ("{kvEventsConfig: {discoverPods: false}}", "kvEventsConfig.*the scraper connects to them"),
        ("{indexerConfig: {kvBlockIndexConfig: {redisConfig: {address: 'redis://r'}}}}", "kvBlockIndexConfig.*Redis"),
        ("{indexerConfig: {kvBlockIndexConfig: {costAwareMemoryConfig: {size: lots}}}}", "'lots' is not a size"),
        (
            "{indexerConfig: {kvBlockIndexConfig: {costAwareMemoryConfig: {size: '%s'}}}}" % ("9" * 400),
            "is not a size",
        ),
        ("{speculativeTTL: soon}", "'soon' is not a duration"),
        ("{kvEventConfig: {}}", "kvEventConfig: unknown field; did you mean 'kvEventsConfig'"),
    ],
)
def test_what_would_have_no_effect_is_refused(parameters, complaint):
    with pytest.raises(ConfigError, match=complaint):
        config.load(CONFIG.replace("{speculativeTTL: 5s}", parameters))


def test_the_references_parameters_are_taken():
    parameters = """
    tokenProcessorConfig: {blockSizeTokens: 64, hashSeed: "42"}
    indexerConfig:
      kvBlockIndexConfig: {inMemoryConfig: {size: 1000, podCacheSize: 10}, enableMetrics: true, metricsLoggingInterval: 60s}
      kvCacheBackendConfigs: [{name: GPU, weight: 1.0}, {name: cpu, weight: 0.5}]
    kvEventsConfig:
      topicFilter: kv@
      concurrency: 4
      discoverPods: true
      podDiscoveryConfig: {podLabelSelector: "app=vllm", socketPort: 5556, replaySocketPort: 5560}
    speculativeIndexing: false
"""
    precise = config.load(CONFIG.replace(" {speculativeTTL: 5s}", parameters)).policy.precise
    assert precise.holders.max_pairs == 1000
    assert precise.holders.weights == (("gpu", 1.0), ("cpu", 0.5))
    assert precise.holders.expect_ns == 0
