"""The sweep: knees of all policies on a workload, then everybody at 80 % of the best knee, on all cores.

`Bench` runs trials, in this process or in a pool of others. Whoever searches a knee waits for one trial after the other, so
the searches of many policies and workloads go on side by side.
"""

import asyncio
import os
import threading
from collections.abc import Callable, Sequence
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from types import SimpleNamespace
from typing import Any, Self, cast

import aiomultiprocess
import aiomultiprocess.core
import msgspec

from shunter.lab.compare.knee import find_knee
from shunter.lab.compare.trial import Trial, attempt
from shunter.lab.core.statistics import Summary, estimate
from shunter.lab.errors import LabError
from shunter.lab.policies import BOUND, Policy
from shunter.lab.workloads import Workload

__all__ = ["FIGURES", "LOAD", "Bench", "Row", "compare"]

# Policies are compared where the best of them is busy but not in trouble.
LOAD = 0.8

ENDED = (
    "a process that simulates has ended by itself, killed or unable to begin. It imports everything anew: a script compares "
    'under `if __name__ == "__main__"`, and a function of a module makes the policy; with jobs=1 there is no such process'
)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One workload under one policy at one rate, over several seeds. Times in milliseconds; null: never, or not looked for."""

    workload: str
    policy: str
    seeds: int
    qps: float
    ttft_p50_ms: float
    ttft_p90_ms: float
    ttft_p99_ms: float
    tpot_p50_ms: float
    tpot_p90_ms: float
    tpot_p99_ms: float
    e2e_p50_ms: float
    e2e_p90_ms: float
    e2e_p99_ms: float
    goodput_rps: float
    attainment: float
    hit_share: float
    fairness: float
    knee_qps: float | None = None
    requests: int | None = None
    """Measured in the run that had the fewest."""
    half: dict[str, float] = {}
    """Half the width of the 95 % confidence interval of each figure above, by its name."""
    runs: dict[str, list[float]] = {}
    """The figures of each seed in order: two policies had the same traffic, so that differences may be taken in pairs."""
    complaints: list[str] = []
    """What plugins did wrong, or could not do, and what became of requests."""


class Bench:
    """Runs trials; `jobs` at a time, each in a process of its own unless that is 1."""

    def __init__(self, jobs: int = 1) -> None:
        self._jobs = jobs
        self._pool: aiomultiprocess.Pool | None = None
        self._processes: list[BaseProcess] = []
        self._ended = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Start the processes."""
        if self._jobs > 1:
            # Nothing here needs the manager process that the library would start for every Process it makes.
            aiomultiprocess.core._manager = SimpleNamespace(Namespace=SimpleNamespace)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
            self._pool = aiomultiprocess.Pool(self._jobs, childconcurrency=1, initializer=_end_with_parent)
            # For each that ends the library starts another one, however often, and says nothing.
            self._processes = [process.aio_process for process in cast("Any", self._pool).processes]
            for process in self._processes:
                asyncio.get_running_loop().add_reader(process.sentinel, self._has_ended, process)
        return self

    async def __aexit__(self, *_: object) -> None:
        """End them, whatever they are doing."""
        if self._pool is not None:
            for process in self._processes:
                asyncio.get_running_loop().remove_reader(process.sentinel)
            for queue, _ in cast("Any", self._pool).queues.values():
                queue.cancel_join_thread()  # what nobody will read any more is not waited for at exit
            self._pool.terminate()
            await self._pool.join()

    def _has_ended(self, process: BaseProcess) -> None:
        asyncio.get_running_loop().remove_reader(process.sentinel)
        self._ended.set()

    async def run(self, trial: Trial) -> Summary:
        """Return what came of one trial. Raises LabError if one of the processes has ended: nobody knows whose trial it had."""
        if self._pool is None:
            await asyncio.sleep(0)
            return attempt(trial)
        answer, end = asyncio.create_task(self._pool.apply(_attempt, (trial,))), asyncio.create_task(self._ended.wait())
        try:
            await asyncio.wait({answer, end}, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
        finally:
            answer.cancel()
            end.cancel()
        raise LabError(ENDED)


def _end_with_parent() -> None:
    """Leave nothing running if whoever asked is killed: a worker of the pool would look for work for ever."""

    def wait() -> None:
        if parent := parent_process():
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


async def _attempt(trial: Trial) -> Summary:
    return attempt(trial)


# The figures of a row, from a summary.
FIGURES: dict[str, Callable[[Summary], float]] = {
    "ttft_p50_ms": lambda summary: summary.ttft_s.p50 * 1000,
    "ttft_p90_ms": lambda summary: summary.ttft_s.p90 * 1000,
    "ttft_p99_ms": lambda summary: summary.ttft_s.p99 * 1000,
    "tpot_p50_ms": lambda summary: summary.tpot_s.p50 * 1000,
    "tpot_p90_ms": lambda summary: summary.tpot_s.p90 * 1000,
    "tpot_p99_ms": lambda summary: summary.tpot_s.p99 * 1000,
    "e2e_p50_ms": lambda summary: summary.e2e_s.p50 * 1000,
    "e2e_p90_ms": lambda summary: summary.e2e_s.p90 * 1000,
    "e2e_p99_ms": lambda summary: summary.e2e_s.p99 * 1000,
    "goodput_rps": lambda summary: summary.goodput_rps,
    "attainment": lambda summary: summary.attainment,
    "hit_share": lambda summary: summary.hit_share,
    "fairness": lambda summary: summary.fairness,
}


async def compare(
    workloads: Sequence[Workload],
    policies: Sequence[Policy],
    *,
    seeds: int = 10,
    knee_seeds: int = 1,
    qps: float | None = None,
    shrink: float = 1.0,
    jobs: int = 1,
    told: Callable[[Row], None] = lambda _: None,
) -> list[Row]:
    """Return a row for every workload and policy, in that order.

    Without a rate each policy's knee is searched, over `knee_seeds` seeds, and all are compared at LOAD of the best. `shrink`
    makes runs that much shorter. `told` hears of each row as soon as it is known. Raises LabError if two have one name, or
    a policy cannot be sent to other processes.
    """
    for kind, names in (
        ("workloads", [each.name for each in workloads]),
        ("policies", [each.name for each in policies]),
    ):
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise LabError(f"two {kind} are called {' and '.join(twice)}; a file is called as it is without its ending")
    if jobs > 1:
        for policy in policies:
            _must_travel(policy)
    # Enough workloads at once to keep everybody busy; the first ones end first.
    limit = asyncio.Semaphore(1 + jobs // len(policies))

    async def meet(bench: Bench, workload: Workload) -> list[Row]:
        shorter = msgspec.structs.replace(workload, lasts_s=workload.lasts_s * shrink)
        async with limit:
            return await Round(bench, shorter, seeds, told).rows(policies, qps, knee_seeds)

    async with Bench(jobs) as bench:
        rows = await asyncio.gather(*(meet(bench, workload) for workload in workloads))
    return [row for each in rows for row in each]


def _must_travel(policy: Policy) -> None:
    """Raise LabError for a policy that no other process could get: on its way there it would be lost without a word."""
    try:
        ForkingPickler.dumps(policy.build)
    except Exception as error:  # pickling asks the parts of a policy, and those are foreign code
        raise LabError(
            f"policy {policy.name} cannot be sent to another process ({error}): a function of a module can, or let jobs be 1"
        ) from error


class Round(msgspec.Struct, frozen=True):
    """One workload, on which policies meet."""

    bench: Bench
    workload: Workload
    seeds: int
    told: Callable[[Row], None]

    async def rows(self, policies: Sequence[Policy], qps: float | None, knee_seeds: int) -> list[Row]:
        """Return a row for each policy, with its knee if no rate is given."""
        knees: list[float | None] = [None] * len(policies)
        if qps is None:
            found = await asyncio.gather(*(self.knee(policy, knee_seeds) for policy in policies))
            real = [knee for policy, knee in zip(policies, found, strict=True) if policy.name != BOUND]
            qps, knees = LOAD * (max(real or found) or self.workload.guess_qps), [*found]
        pairs = zip(policies, knees, strict=True)
        return list(await asyncio.gather(*(self.row(policy, qps, knee) for policy, knee in pairs)))

    async def row(self, policy: Policy, qps: float, knee_qps: float | None) -> Row:
        """Return what came of a policy at a rate."""
        summaries = await self.runs(policy, qps, self.seeds)
        runs = {name: [figure(summary) for summary in summaries] for name, figure in FIGURES.items()}
        estimates = {name: estimate(values) for name, values in runs.items()}
        row = Row(
            workload=self.workload.name,
            policy=policy.name,
            seeds=self.seeds,
            qps=qps,
            knee_qps=knee_qps,
            requests=min(summary.requests for summary in summaries),
            half={name: each.half for name, each in estimates.items()},
            runs=runs,
            complaints=list(dict.fromkeys(each for summary in summaries for each in summary.complaints)),
            **{name: each.mean for name, each in estimates.items()},
        )
        self.told(row)
        return row

    async def knee(self, policy: Policy, seeds: int) -> float:
        """Search a policy's knee; the attainment at a rate is the mean over the same seeds for everybody."""

        async def attained(qps: float) -> float:
            return estimate([summary.attainment for summary in await self.runs(policy, qps, seeds)]).mean

        return await find_knee(attained, self.workload.guess_qps)

    async def runs(self, policy: Policy, qps: float, seeds: int) -> list[Summary]:
        """Simulate a policy at a rate once for each seed."""
        requests = self.workload.requests(qps)
        trials = (Trial(workload=self.workload, policy=policy, qps=qps, seed=seed, requests=requests) for seed in range(seeds))
        return list(await asyncio.gather(*map(self.bench.run, trials)))
