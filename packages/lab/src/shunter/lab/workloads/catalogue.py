"""The workloads by name: recipes that others have published, the shapes that are missing there, and mixtures nobody has seen.

A workload is traffic, the fleet it is meant for and the objectives that its users have. Where a recipe is somebody's, the
docstring-like `about` says whose; sizes that they left open are ours.
"""

import msgspec

from shunter.lab.core.fleet import Crash, Fleet, Slowdown
from shunter.lab.core.machines import MACHINES
from shunter.lab.core.statistics import Slo
from shunter.lab.workloads.draws import Lengths, Pace
from shunter.lab.workloads.recorded import Recorded
from shunter.lab.workloads.traffic import Conversations, SharedPrefix, Traffic

__all__ = ["QUICK", "WORKLOADS", "Workload"]


# A percentile of fewer requests says nothing; more of them are asked of no fleet here but in the search for a knee that is not
# there.
FEWEST, MOST = 300, 60_000


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of whom, and what is good enough."""

    name: str
    about: str
    traffic: Traffic | Recorded
    fleet: Fleet
    slo: Slo
    lasts_s: float
    """How long a run goes on: several times as long as a request, so that queues grow where they will."""
    guess_qps: float
    """Where the search for a knee begins."""

    def requests(self, qps: float) -> int:
        """Return how many requests a run has at a rate."""
        return max(FEWEST, min(MOST, round(qps * self.lasts_s)))


H100 = MACHINES["qwen3-32b-h100-tp2"]
A100 = MACHINES["qwen3-32b-a100-tp2"]
L4 = MACHINES["llama3-8b-l4"]

B2B_SAAS = SharedPrefix(groups=150, shared=Lengths(6000), questions=5, own=Lengths(1200), output=Lengths(1000))
INTERACTIVE = Slo(2.0, 0.1)

_ALL = (
    Workload(
        name="b2b-saas",
        about="150 customers with a long system prompt each (llm-d's anchor, shared_prefix 150×5, 6000/1200/1000)",
        traffic=B2B_SAAS,
        fleet=Fleet(engines=(H100,) * 8),
        slo=INTERACTIVE,
        lasts_s=250,
        guess_qps=16,
    ),
    Workload(
        name="b2b-bursts",
        about="the same, five seconds of every twenty at two and a half times the mean rate",
        traffic=msgspec.structs.replace(B2B_SAAS, pace=Pace(burst=0.25, peak=2.5)),
        fleet=Fleet(engines=(H100,) * 8),
        slo=INTERACTIVE,
        lasts_s=250,
        guess_qps=16,
    ),
    Workload(
        name="b2b-failure",
        about="the same; one engine crashes and comes back empty, another runs at a third of its speed for a while",
        traffic=B2B_SAAS,
        fleet=Fleet(
            engines=(H100,) * 8,
            failures=(
                Crash(endpoint=2, at_s=160.0, restart_s=30.0),
                Slowdown(endpoint=5, from_s=220.0, to_s=260.0, factor=1 / 3),
            ),
        ),
        slo=INTERACTIVE,
        lasts_s=250,
        guess_qps=14,
    ),
    Workload(
        name="b2b-mixed-fleet",
        about="the same on four pairs of H100 and four of A100, which are a third as fast with prompts",
        traffic=B2B_SAAS,
        fleet=Fleet(engines=(H100, A100) * 4),
        slo=INTERACTIVE,
        lasts_s=250,
        guess_qps=12,
    ),
    Workload(
        name="capacity",
        about="prefixes that just fit the caches (llm-d-benchmark 83×3, 8000/1000/1000, 4 × Llama 70B)",
        traffic=SharedPrefix(groups=83, shared=Lengths(8000), questions=3, own=Lengths(1000), output=Lengths(1000)),
        fleet=Fleet(engines=(MACHINES["llama3-70b-h100-tp4"],) * 4),
        slo=INTERACTIVE,
        lasts_s=300,
        guess_qps=11,
    ),
    Workload(
        name="synthetic-32x32",
        about="short answers, middling prefixes (llm-d-benchmark shared_prefix_synthetic 32×32, 2048/256/256)",
        traffic=SharedPrefix(groups=32, shared=Lengths(2048), questions=32, own=Lengths(256), output=Lengths(256)),
        fleet=Fleet(engines=(H100,) * 4),
        slo=Slo(1.0, 0.06),
        lasts_s=100,
        guess_qps=75,
    ),
    Workload(
        name="no-reuse",
        about="prompts of which no two begin alike, and answers of one token: embeddings, classification, reranking",
        traffic=SharedPrefix(own=Lengths(1500, 1200, 50, 8000, skewed=True), output=Lengths(1)),
        fleet=Fleet(engines=(H100,) * 4),
        slo=Slo(1.0, 0.1),
        lasts_s=100,
        guess_qps=43,
    ),
    Workload(
        name="lora-mix",
        about="15 adapters, five with 60 % of the requests, five with 30, five with 10 (GIE's regression test), 4 at a time",
        traffic=SharedPrefix(
            own=Lengths(250, 200, 20, 2000, skewed=True),
            output=Lengths(200, 120, 20, 800, skewed=True),
            adapters=tuple((f"adapter-{at}", (0.12, 0.06, 0.02)[at // 5]) for at in range(15)),
        ),
        fleet=Fleet(engines=(msgspec.structs.replace(L4, max_loras=4),) * 10),
        slo=Slo(2.0, 0.08),
        lasts_s=150,
        guess_qps=8,
    ),
    Workload(
        name="chat",
        about="people: 1000 shared, 4000±2500 own, 4 turns of 50 in and 300±150 out, 45 s to think (interactive chat)",
        traffic=Conversations(
            shared=Lengths(1000),
            own=Lengths(4000, 2500, 200, 16_000),
            turns=Lengths(4),
            user=Lengths(50),
            output=Lengths(300, 150, 20, 1200),
            think_s=45.0,
        ),
        fleet=Fleet(engines=(H100,) * 8),
        slo=Slo(1.0, 0.06),
        lasts_s=300,
        guess_qps=13,
    ),
    Workload(
        name="agents",
        about="tool loops: 30 agents with a shared prompt of 5000, 12±6 calls that add 600±500, short answers, 2 s between",
        traffic=Conversations(
            applications=30,
            skew=0.8,
            shared=Lengths(5000, 2000, 1000, 12_000),
            own=Lengths(1000, 800, 100, 6000, skewed=True),
            turns=Lengths(12, 6, 2, 40),
            user=Lengths(600, 500, 20, 8000, skewed=True),
            output=Lengths(120, 80, 10, 800, skewed=True),
            think_s=2.0,
        ),
        fleet=Fleet(engines=(H100,) * 8),
        slo=Slo(1.0, 0.06),
        lasts_s=150,
        guess_qps=40,
    ),
    Workload(
        name="code-generation",
        about="3000 shared, 12k to 97k of repository, 6±3.5 turns of 1500±1200 in and 800±600 out (conversation_replay)",
        traffic=Conversations(
            shared=Lengths(3000),
            own=Lengths(52_000, 25_000, 12_000, 97_000),
            turns=Lengths(6, 3.5, 2, 20),
            user=Lengths(1500, 1200, 20, 12_000, skewed=True),
            output=Lengths(800, 600, 20, 6000, skewed=True),
            think_s=5.0,
        ),
        fleet=Fleet(engines=(H100,) * 10),
        slo=Slo(15.0, 0.1),
        lasts_s=600,
        guess_qps=1.2,
    ),
    Workload(
        name="long-context",
        about="documents of 8k to 100k tokens, each asked about three times within a minute or two",
        traffic=Conversations(
            own=Lengths(32_000, 20_000, 8000, 100_000, skewed=True),
            turns=Lengths(3),
            user=Lengths(200),
            output=Lengths(400, 200, 50, 1500, skewed=True),
            think_s=30.0,
        ),
        fleet=Fleet(engines=(H100,) * 8),
        slo=Slo(10.0, 0.1),
        lasts_s=400,
        guess_qps=1.3,
    ),
    Workload(
        name="reasoning",
        about="decode-bound: 250 shared, 1000±800 in, 8000±6500 out (inference-perf)",
        traffic=SharedPrefix(
            shared=Lengths(250),
            own=Lengths(1000, 800, 50, 8000, skewed=True),
            output=Lengths(8000, 6500, 500, 32_000, skewed=True),
        ),
        fleet=Fleet(engines=(H100,) * 8),
        slo=Slo(2.0, 0.05),
        lasts_s=2000,
        guess_qps=1.4,
    ),
    Workload(
        name="mooncake-toolagent",
        about="like Mooncake's tool and agent trace: 8,600 in, 180 out, 59 % of it cacheable",
        traffic=SharedPrefix(
            groups=60,
            skew=1.0,
            shared=Lengths(5200, 1500, 512, 20_000, skewed=True),
            own=Lengths(3500, 4000, 100, 60_000, skewed=True),
            output=Lengths(180, 250, 5, 3000, skewed=True),
        ),
        fleet=Fleet(engines=(H100,) * 8),
        slo=Slo(2.0, 0.1),
        lasts_s=150,
        guess_qps=17,
    ),
    Workload(
        name="mooncake-conversation",
        about="like Mooncake's conversation trace: 12,000 in, 340 out, 37 % of it cacheable",
        traffic=Conversations(
            shared=Lengths(500),
            own=Lengths(9300, 9000, 100, 80_000, skewed=True),
            turns=Lengths(1.2, 1.05, 1, 10),
            user=Lengths(1500, 4000, 20, 50_000, skewed=True),
            output=Lengths(340, 300, 10, 3000, skewed=True),
            think_s=40.0,
        ),
        fleet=Fleet(engines=(H100,) * 8),
        slo=Slo(3.0, 0.1),
        lasts_s=300,
        guess_qps=4.2,
    ),
)

WORKLOADS: dict[str, Workload] = {workload.name: workload for workload in _ALL}
"""By name, in the order of reports."""

QUICK = ("b2b-saas", "agents", "reasoning", "no-reuse")
"""One of each kind: prefixes that fit, conversations, decode-bound, nothing to find."""
