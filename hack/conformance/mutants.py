"""Broken model servers, examined in leaping time: each must fail exactly the case that its fault names."""

from collections.abc import Sequence

from shunter.conformance.core.case import AnyCase
from shunter.conformance.core.events import CaseFinished
from shunter.conformance.sections.servers import CASES
from shunter.conformance.shell.servers.exam import examine
from shunter.lab.testing import FAULTS, lab_server

__all__ = ["MUTANTS", "SERVER", "examine_mutant", "related"]

# What the servers are like: they run few requests at once, so that a queue is seen soon.
SERVER = {"max_num_seqs": 4}

MUTANTS = tuple(fault for fault in FAULTS.values() if fault.case)


def related(case_id: str) -> tuple[AnyCase, ...]:
    """The cases of the same section and whatever these need, in their order."""
    section = case_id.rpartition(".")[0]
    wanted = {case.id for case in CASES if case.id.rpartition(".")[0] == section}
    for case in reversed(CASES):  # what a case needs comes before it
        if case.id in wanted:
            wanted.update(case.needs)
    return tuple(case for case in CASES if case.id in wanted)


async def examine_mutant(name: str, cases: Sequence[AnyCase] = CASES) -> dict[str, CaseFinished]:
    """The findings on a server with this fault, by case."""
    async with lab_server(**SERVER) as server:
        server.break_with(name)
        events = examine(server.url, cases=cases, profile="vllm", tries=1)
        return {event.id: event async for event in events if isinstance(event, CaseFinished)}
