"""Broken model servers, examined in leaping time: each must fail exactly the case that its fault names."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from shunter.conformance.core.case import AnyCase
from shunter.conformance.core.events import CaseFinished
from shunter.conformance.sections.servers import CASES
from shunter.conformance.sections.servers.profiles import find_profile
from shunter.conformance.sections.servers.target import Adapter, Means
from shunter.conformance.shell.servers.exam import examine
from shunter.lab.testing import FAULTS, Control, LabServer, lab_server

__all__ = ["MUTANTS", "PROFILE", "SERVER", "equipped", "examine_mutant", "listens", "related"]

# What the servers are like: they run few requests at once and hold few tokens, so that both are soon too many.
SERVER = {"max_num_seqs": 4, "num_blocks": 193, "max_loras": 2, "enable_lora": True, "prompt_tokens_details": True}

# Adapters to load, one more than run at once.
ADAPTERS = ("red", "amber", "green")

# What is wrong with a server that has just come up is for the cases that start it anew.
UP_S = 1.0

# A lab server without faults does what vLLM is known not to do.
PROFILE = msgspec.structs.replace(find_profile("vllm"), known_failures=())

MUTANTS = tuple(fault for fault in FAULTS.values() if fault.case)


def related(case_id: str) -> tuple[AnyCase, ...]:
    """The cases of the same section and whatever these need, in their order."""
    section = case_id.rpartition(".")[0]
    wanted = {case.id for case in CASES if case.id.rpartition(".")[0] == section}
    for case in reversed(CASES):  # what a case needs comes before it
        if case.id in wanted:
            wanted.update(case.needs)
    return tuple(case for case in CASES if case.id in wanted)


@asynccontextmanager
async def equipped(*, listen: bool = False, **params: Any) -> AsyncGenerator[tuple[LabServer, dict[str, Any]]]:
    """A lab server, and all that an examiner can have beside its URL, as `examine` takes it.

    Who is to `listen` to KV events cannot leap over the time that other threads take, so the server is fast instead.
    """
    if listen:
        params |= {"kv_events_port": 0, "kv_replay_port": 0, "speed": 50.0}
    async with lab_server(**SERVER, **params) as server:
        # It computes prompts for itself: what is wrong with either side is wrong with this one.
        adapters = tuple(Adapter(name, f"/adapters/{name}") for name in ADAPTERS)
        means = Means(adapters=adapters, prefill_url=server.url)
        if (events := server.kv_events) is not None:
            ports = events.events_port, events.replay_port
            live, replay = (f"tcp://127.0.0.1:{port}" for port in ports)
            means = msgspec.structs.replace(means, kv_events=live, kv_replay=replay)
        yield server, {"control": Control(server), "means": means}


def listens(case_id: str) -> bool:
    """Whether a case listens to KV events, which go through threads of their own."""
    return case_id.startswith("ms.kv-events.")


async def examine_mutant(name: str, cases: Sequence[AnyCase] = CASES, *, listen: bool | None = None) -> dict[str, CaseFinished]:
    """The findings on a server with this fault, by case; who does not `listen` cannot be asked about KV events."""
    ranks = 2 if FAULTS[name].case.startswith("ms.ranks.") else 1
    listen = listens(FAULTS[name].case) if listen is None else listen
    async with equipped(listen=listen, data_parallel_size=ranks) as (server, means):
        await asyncio.sleep(UP_S)
        server.break_with(name)
        events = examine(server.url, cases=cases, profile=PROFILE, tries=1, **means)
        return {event.id: event async for event in events if isinstance(event, CaseFinished)}
