"""One trial: a workload, a policy, a rate and a seed, simulated and summed up.

Trials of the same workload, rate and seed have the same arrivals whatever the policy (common random numbers), so policies are
compared on equal traffic, request for request.
"""

import msgspec

from shunter.lab.compare.bound import clairvoyant
from shunter.lab.core.simulation import simulate
from shunter.lab.core.statistics import Summary, summarize
from shunter.lab.policies import Policy
from shunter.lab.workloads import Workload

__all__ = ["Trial", "attempt"]


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What to simulate."""

    workload: Workload
    policy: Policy
    qps: float
    seed: int
    requests: int


def attempt(trial: Trial) -> Summary:
    """Simulate it."""
    workload, build = trial.workload, trial.policy.build
    arrivals = workload.traffic.arrivals(trial.seed, trial.qps, trial.requests)
    fleet = workload.fleet
    chooser = build(fleet, trial.seed) if build else None
    finished = simulate(arrivals, fleet, chooser).finished if chooser else clairvoyant(arrivals, fleet, trial.seed)
    summary = summarize(arrivals, finished, workload.slo, fleet.engines[0].block_size)
    return msgspec.structs.replace(summary, complaints=getattr(chooser, "complaints", ()))
