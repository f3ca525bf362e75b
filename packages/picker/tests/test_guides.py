"""Configurations that GIE and llm-d publish load unchanged and mean the same; what each means is written down here."""

from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from shunter.picker import config
from shunter.picker.config.reading import read_yaml
from shunter.picker.core.formats import OPENAI, order
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.judgement import Ask, Outcome, Pick
from shunter.picker.core.prefix import PrefixSettings
from shunter.picker.plugins.detectors import Concurrency, Utilization
from shunter.picker.plugins.flow_policies import GlobalStrict, ProgramAware

NOW_S = 100.0
IDLE = {"waiting": 0.0, "running": 1.0, "kv_usage": 0.1}
CHAT = b'{"model": "m", "messages": [{"role": "user", "content": "%s"}]}' % (b"hello " * 200)

ROLLOUT = {"disaggregatedset.x-k8s.io/name": "wide-ep", "disaggregatedset.x-k8s.io/revision": "a"}

CONFIGS = Path(__file__).parent / "configs"

LOAD = ("queue-scorer 2", "kv-cache-utilization-scorer 2")
DEFAULT = {"default": (*LOAD, "prefix-cache-scorer 3", "max-score-picker")}
AFFINE = ("prefix-cache-affinity-filter", "token-load-scorer 1", "max-score-picker")
IDLEST = ("decode-filter", "active-request-scorer 1", "max-score-picker")

# The profiles that each file comes down to: filters, scorers with their weights, the picker.
MEANINGS = {
    "gie-1.0": {
        "default": ("queue-scorer 1", "kv-cache-utilization-scorer 1", "prefix-cache-scorer 1", "max-score-picker"),
    },
    "gie-1.2": DEFAULT,
    "gie-1.5": DEFAULT,
    "router-default": DEFAULT,
    "payload-agnostic": {"default": ("active-request-scorer 1", "session-affinity-scorer 1", "max-score-picker")},
    "optimized-baseline-2025": {"default": (*DEFAULT["default"][:3], "no-hit-lru-scorer 2", "max-score-picker")},
    "optimized-baseline": {"default": AFFINE},
    "no-prefix": {"default": (*LOAD, "running-requests-size-scorer 1", "max-score-picker")},
    "lora": {"default": (*DEFAULT["default"][:3], "lora-affinity-scorer 2", "max-score-picker")},
    "tiered-prefix-2025": {
        "default": (*LOAD, "gpu-prefix-cache-scorer 1", "cpu-prefix-cache-scorer 1", "max-score-picker"),
    },
    "tiered-prefix-gie": {
        "default": (*LOAD, "gpu-prefix-cache-scorer 1", "cpu-prefix-cache-scorer 1", "max-score-picker"),
    },
    "tiered-prefix": {
        "default": (
            "queue-scorer 1", "kv-cache-utilization-scorer 1", "gpu-prefix-cache-scorer 1", "cpu-prefix-cache-scorer 1",
            "no-hit-lru-scorer 1", "max-score-picker",
        ),
    },
    "tiered-prefix-mooncake": {
        "default": (
            "queue-scorer 1", "kv-cache-utilization-scorer 1", "mooncake-prefix-cache-scorer 1", "mooncake-no-hit-lru-scorer 1",
            "max-score-picker",
        ),
    },
    "agentic": {"default": AFFINE},
    "omni": {"default": ("activeRequest 1", "maxScore")},
    "multimodal-precise": {
        "default": (
            "decode-filter", *LOAD, "precise-prefix-cache-scorer 3", "mm-embeddings-cache-scorer 1", "max-score-picker",
        ),
    },
    "precise-prefix-2025": {
        "default": (
            "decode-filter", "kv-cache-utilization-scorer 2", "queue-scorer 2", "precise-prefix-cache-scorer 3",
            "no-hit-lru-scorer 2", "max-score-picker",
        ),
    },
    "precise-prefix": {
        "default": (
            "decode-filter", "prefix-cache-scorer 2", "kv-cache-utilization-scorer 1", "queue-scorer 1", "max-score-picker",
        ),
    },
    "lmetric": {"default": ("lmetric-scorer 1", "max-score-picker")},
    "p2p": {
        "default": (
            "prefix-cache-scorer 3", "queue-scorer 2", "kv-cache-utilization-scorer 2", "no-hit-lru-scorer 2",
            "max-score-picker",
        ),
    },
    "pd-0.3": {
        stage: (f"{stage}-filter", "prefix-cache-scorer 50", "max-score-picker") for stage in ("prefill", "decode")
    },
    "pd-kserve": {
        stage: (f"{stage}-filter", "queue-scorer 1", "max-score-picker") for stage in ("prefill", "decode")
    },
    "pd-2025": {
        "prefill": ("prefill-filter", "prefix-cache-scorer 3", *LOAD, "max-score-picker"),
        "decode": ("decode-filter", "active-request-scorer 2", "prefix-cache-scorer 2", "max-score-picker"),
    },
    "pd": {"prefill": ("prefill-filter", *AFFINE), "decode": IDLEST},
    "pd-decider": {
        "prefill": ("prefill-filter", "prefix-cache-scorer 2", "queue-scorer 1", "max-score-picker"),
        "decode": ("decode-filter", "prefix-cache-scorer 2", "queue-scorer 1", "max-score-picker"),
    },
    "pd-precise": {"prefill": ("prefill-filter", *AFFINE), "decode": IDLEST},
    "epd": {
        "encode": ("encode-filter", "mm-embeddings-cache-scorer 4", "queue-scorer 2", "max-score-picker"),
        "prefill": ("prefill-filter", *AFFINE),
        "decode": IDLEST,
    },
    "epd-2025": {
        stage: (f"{stage}-filter", "prefix-cache-scorer 2", "max-score-picker") for stage in ("encode", "prefill", "decode")
    },
    "coordinator": {
        "encode": ("encode-filter", "active-request-scorer 1", "max-score-picker"),
        "prefill": ("prefill-filter", *AFFINE),
        "decode": IDLEST,
    },
    "wide-ep": {
        "prefill": ("prefill-filter", "prefix-cache-scorer 3", "queue-scorer 2", "active-request-scorer 2", "max-score-picker"),
        "decode": IDLEST,
    },
    "wide-ep-rollout": {
        "prefill": ("prefill-filter", "prefix-cache-scorer 3", "queue-scorer 2", "active-request-scorer 2", "max-score-picker"),
        "decode": IDLEST,
    },
    "data-parallel": {"default": ("decode-filter", "prefix-cache-scorer 2", "max-score-picker")},
    "predicted-latency": {"default": ("loose-affinity-filter", "latency-scorer 1", "weighted-random-picker")},
    "predicted-latency-slo": {
        "default": (
            "strict-affinity-filter", "slo-headroom-tier-filter", "loose-affinity-filter", "latency-scorer 1",
            "weighted-random-picker",
        ),
    },
    "predicted-latency-pd": {
        "prefill": ("prefill-filter", "loose-affinity-filter", "ttft-scorer 1", "weighted-random-picker"),
        "decode": ("decode-filter", "tpot-scorer 1", "weighted-random-picker"),
    },
    "flow-control": DEFAULT,
    "flow-control-eviction": DEFAULT,
    "flow-control-holdback": DEFAULT,
    "program-aware": DEFAULT,
    "turn-priority": DEFAULT,
    "context-length": {
        "prefill": (
            "prefill-filter", "context-length-aware", "context-length-aware 1", "prefix-cache-scorer 3", "queue-scorer 2",
            "active-request-scorer 2", "max-score-picker",
        ),
        "decode": IDLEST,
    },
    "session-affinity": {
        "default": ("session-affinity-filter", "session-affinity-scorer 100", "queue-scorer 1", "max-score-picker"),
    },
    "multimodal": {
        "default": (
            "decode-filter", "mm-embeddings-cache-scorer 10", "kv-cache-utilization-scorer 2", "queue-scorer 2",
            "max-score-picker",
        ),
    },
    "burst": {"default": ("decode-filter", "prefix-cache-scorer 2", "load-aware-scorer 1", "max-score-picker")},
    "probabilistic-admitter": DEFAULT,
}  # fmt: skip

# Who chooses among several profiles; in all other files there is only one.
HANDLERS = {
    "pd-0.3": "pd-profile-handler",
    "pd-kserve": "pd-profile-handler",
    "pd-2025": "disagg-profile-handler",
    "pd": "disagg-profile-handler",
    "pd-decider": "disagg-profile-handler",
    "pd-precise": "disagg-profile-handler",
    "epd": "disagg-profile-handler",
    "epd-2025": "pd-profile-handler",
    "coordinator": "header-profile-handler",
    "wide-ep": "disagg-profile-handler",
    "wide-ep-rollout": "disagg-profile-handler",
    "data-parallel": "data-parallel-profile-handler",
    "predicted-latency-pd": "disagg-profile-handler",
    "context-length": "disagg-profile-handler",
}

SCHEMA = Draft202012Validator(config.schema())

guides = pytest.mark.parametrize("name", sorted(MEANINGS))


def load(name):
    return config.load((CONFIGS / f"{name}.yaml").read_text())


def steps(profile):
    return (
        *(each.name for each in profile.filters),
        *(f"{each.name} {each.weight:g}" for each in profile.scorers),
        profile.picker_name,
    )


def test_every_file_has_a_meaning():
    assert {path.stem for path in CONFIGS.glob("*.yaml")} == set(MEANINGS)


@guides
def test_a_guides_configuration_loads_unchanged_and_means_the_same(name):
    policy = load(name).policy
    assert {profile.name: steps(profile) for profile in policy.profiles} == MEANINGS[name]
    assert (policy.handler.name if policy.handler else None) == HANDLERS.get(name)


@guides
def test_an_editor_has_no_complaint(name):
    found = read_yaml((CONFIGS / f"{name}.yaml").read_text())
    assert [(each.json_path, each.message) for each in SCHEMA.iter_errors(found)] == []


@guides
def test_its_effective_form_is_the_same(name):
    plan = load(name)
    again = config.load(config.effective(plan))
    assert (again.config, again.policy, again.notes) == (plan.config, plan.policy, ())


@guides
def test_it_works_in_a_judge(name, make_view, dice):
    roles = [{"labels": {"llm-d.ai/role": role} | ROLLOUT} for role in ("decode", "prefill", "encode", "both")]
    for each, role in zip(roles, ("decode", "prefill") * 2, strict=True):
        each["labels"]["disaggregatedset.x-k8s.io/role"] = role
    view = make_view(*[IDLE] * 4, endpoints=roles, now_ns=int(NOW_S * 1e9))
    judge = FleetJudge(load(name).policy, lambda _: view, dice)
    for _ in range(3):
        pick = judge.decide(Ask({":path": "/v1/chat/completions"}, CHAT), NOW_S)
        assert isinstance(pick, Pick)
        judge.release(pick.ticket, Outcome(complete=True, status=200, served=pick.endpoints[0]), NOW_S + 1)
    assert judge.complaints == {}


def test_what_former_releases_of_gie_wrote_in_other_places_is_kept():
    assert load("gie-1.0").policy.profile.picker.max_num_of_endpoints == 1
    assert [*load("gie-1.0").policy.prefixes.values()] == [PrefixSettings(max_tokens=256 * 64)]
    thresholds = Utilization(queue_depth_threshold=8, kv_cache_util_threshold=0.75, metrics_staleness_threshold="300ms")
    assert load("gie-1.2").policy.detector.plugin == thresholds
    assert load("gie-1.5").policy.formats == order(OPENAI)


def test_a_body_that_nobody_reads_has_no_formats():
    policy = load("payload-agnostic").policy
    assert (policy.formats, policy.passthrough, dict(policy.prefixes)) == ((), True, {})


@pytest.mark.parametrize(
    ("name", "memories"),
    [
        ("tiered-prefix-2025", {"approx-prefix-cache-producer": 31_250, "cpuPrefixProducer": 41_000}),
        ("tiered-prefix", {"gpu-prefix-cache-producer": 31_250, "cpu-prefix-cache-producer": 82_000}),
        ("tiered-prefix-gie", {"approx-prefix-cache-producer": 31_250, "cpu-prefix-cache-scorer-memory": 41_000}),
        ("tiered-prefix-mooncake", {"mooncake-prefix-cache-producer": 31_250}),
        ("agentic", {"approx-prefix-cache-producer": 1_570_000}),
        ("no-prefix", {}),
    ],
)
def test_each_tier_has_a_memory_of_its_own(name, memories):
    assert {name: each.capacity_blocks for name, each in load(name).policy.prefixes.items()} == memories


@pytest.mark.parametrize("name", ["precise-prefix-2025", "precise-prefix", "multimodal-precise", "lmetric"])
def test_engines_are_asked_what_they_hold(name):
    plan = load(name)
    scorers = {each.name: each.plugin for each in plan.policy.profile.scorers}
    reader = scorers.get("lmetric-scorer") or scorers.get("prefix-cache-scorer") or scorers["precise-prefix-cache-scorer"]
    assert plan.policy.precise.producer == reader.prefix_match_info_producer_name


def test_flow_control_has_its_bands():
    policy = load("flow-control").policy
    flow = policy.flow
    assert (flow.max_bytes, flow.max_requests, flow.request_ttl_s, flow.eviction) == (10 << 30, 1000, 60.0, False)
    assert {priority: band.max_requests for priority, band in flow.bands.items()} == {100: 500, 0: 200, -10: 50}
    assert policy.detector.plugin == Concurrency(max_concurrency=132, in_flight_load_producer_name="inflight-load-producer")
    assert load("flow-control-eviction").policy.flow.eviction
    assert load("flow-control-holdback").policy.flow.limits.min_ceiling == 0.5
    assert load("program-aware").policy.flow.default.fairness == ProgramAware()
    turns = load("turn-priority").policy.flow
    assert (turns.band(-1).fairness, turns.band(-1).request_ttl_s) == (ProgramAware(strategy="turn-priority"), 9000.0)
    assert (turns.band(0).fairness, turns.band(0).request_ttl_s, turns.longest_s) == (GlobalStrict(), None, 9000.0)
