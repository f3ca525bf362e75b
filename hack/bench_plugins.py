"""What each plugin costs by itself, and each configuration as a whole: µs of CPU per request at 10, 100 and 1,000 endpoints.

The scheduler asks a scorer of one column only where a booking touched it; its figure here is that of a whole fleet. The prompt
has 4 blocks, which every tenth endpoint has cached; every endpoint is busy. Types that are named are measured alone, also those
of other packages.

A configuration's figure is the choice, from a request that has been read to the verdict. What the reference loop takes for a
whole exchange of 1 KB (hack/bench/floor), measured in turns with it, stands beside: how fast this machine is at this minute.
"""

import random
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median

import msgspec
from hack.bench.inprocess import compare
from hack.bench_pick import world

from shunter.picker import config
from shunter.picker.config.loading import import_plugin
from shunter.picker.core.fleet import Fleet, Roster
from shunter.picker.core.kinds import Named, Profile
from shunter.picker.core.ledger import Booking, Ledger
from shunter.picker.core.media import Media
from shunter.picker.core.policy import Crew, Policy
from shunter.picker.core.prefix import Match
from shunter.picker.core.request import Request
from shunter.picker.core.schedule import PEER, Scheduler
from shunter.picker.plugins import CATALOGUE, Kind
from shunter.picker.plugins.latency import PRODUCER, Prediction
from shunter.picker.plugins.pickers import MaxScore
from shunter.picker.plugins.sessions import write_token
from shunter.snapshot import View

__all__ = ["main"]

ROUNDS = 5
ROUND_S = 0.01  # of CPU
FLOOR_TURNS = 3
ENDPOINTS = (10, 100, 1000)
NOW_NS = 100_000_000_000
KINDS = (Kind.FILTER, Kind.SCORER, Kind.PICKER, Kind.PRODUCER, Kind.ADMITTER)
THRESHOLD = {"type": "threshold", "threshold": {"operator": "LessThan", "value": 3}}

# Those that have something to do only for prompts that nobody knows.
COLD = ("no-hit-lru-scorer",)

# Parameters of those that do not go without.
PARAMETERS: Mapping[str, Mapping[str, object]] = {
    "by-label": {"label": "zone"},
    "context-length-aware": {"enableFiltering": True},
    "endpoint-attribute-filter": {"attribute": "waiting-queue", "algorithm": THRESHOLD},
    "endpoint-attribute-scorer": {"attributeKey": "running-requests", "algorithm": {"type": "linear_lower_is_better"}},
    "endpoint-attribute-weight-scorer": {
        "attributeKey": "zone",
        "producer": "label-producer",
        "weights": {"a": 2, "b": 1},
    },
    "header-label-affinity-scorer": {"headerName": "x-zone", "labelKey": "zone"},
    "label-producer": {"labels": [{"label": "zone", "attributeKey": "zone"}]},
    "utilization-filter": {"conditions": [{"metric": "waiting-queue", "maxValue": 3}]},
}


def busy(endpoints: int) -> Fleet:
    """A fleet in which everybody has something to do, and labels."""
    ledger = Ledger()
    for slot in range(endpoints):
        ledger.book(slot, Booking(slot, 1, NOW_NS, 1000, (), 1000, 100))
    view = world(endpoints, NOW_NS)
    places = tuple(
        msgspec.structs.replace(
            each,
            labels={
                "zone": "ab"[each.slot % 2],
                "llm-d.ai/context-length-range": f"0-{each.slot % 8}000",
                "kubernetes.io/hostname": f"host-{each.slot // 8}",
                "topology.kubernetes.io/zone": f"zone-{each.slot % 3}",
            },
        )
        for each in view.topology.endpoints
    )
    return Roster(ledger).fleet(View(msgspec.structs.replace(view.topology, endpoints=places), view.load), NOW_NS)


def asking(fleet: Fleet, *, cold: bool = False) -> Request:
    """A request that gives everybody something to do, too; a cold one is cached nowhere."""
    share = {} if cold else dict.fromkeys(range(0, len(fleet), 10), 1.0)
    return Request(
        headers={
            "x-zone": "a",
            "x-session-id": "s",
            "x-session-token": write_token(fleet.endpoints[-1]),
            "x-llm-d-slo-ttft-ms": "100",
        },
        target_model="m",
        prompt=memoryview(b"x" * 1024),
        prompt_tokens=256,
        priority=-1,
        media=(Media("image", memoryview(b"picture"), 225),),
        prefix=Match(tokens=256, share=share, blocks=dict.fromkeys(share, 4)),
        ticket=1,
        at_ns=NOW_NS,
        facts={
            PEER: fleet.endpoints[0],
            PRODUCER: {slot: Prediction(50.0, 20.0, 50.0 - slot % 100, 0.0, 1) for slot in range(len(fleet))},
        },
    )


def say_nothing(name: str, data: bytes) -> None:
    """Let other workers go without what plugins tell."""


def calls(type_name: str, fleet: Fleet, request: Request) -> Mapping[str, Callable[[], object]]:
    """Return what the plugin is asked for each request, by what it is asked as; nothing if it has nothing to do."""
    parameters = PARAMETERS.get(type_name, {})
    plugin = msgspec.convert(parameters, CATALOGUE[type_name].plugin)
    dice = random.Random(7)
    named = {str(parameters.get(each.parameter, each.implied)) for each in plugin.all_references()} - {""}
    others = [Named(name, msgspec.convert(PARAMETERS.get(name, {}), CATALOGUE[name].plugin)) for name in sorted(named)]
    policy = Policy(profiles=(Profile("default", MaxScore()),), others=(Named("it", plugin), *others))
    worker = Crew(policy, dice, say_nothing).find("it")
    totals = [dice.random() for _ in range(len(fleet))]
    found: dict[str, Callable[[], object]] = {}
    for method in ("keep", "score", "produce", "admit"):
        if hasattr(worker, method):
            found[method] = partial(getattr(worker, method), request, fleet)
    if hasattr(worker, "at"):
        column = getattr(fleet, worker.column)
        low, high = min(column), max(column)
        found["score"] = lambda: [worker.at(value, low, high) for value in column]
    if hasattr(worker, "pick"):
        found["pick"] = lambda: worker.pick(totals, dice)
    return found


def cost_us(run: Callable[[], object]) -> float:
    """CPU µs per call, the median of some rounds."""
    run()
    begin = time.process_time_ns()
    run()
    times = max(3, int(ROUND_S * 1e9 / max(1, time.process_time_ns() - begin)))
    rounds: list[float] = []
    for _ in range(ROUNDS):
        begin = time.process_time_ns()
        for _ in range(times):
            run()
        rounds.append((time.process_time_ns() - begin) / times / 1000)
    return median(rounds)


def print_configurations(fleets: list[Fleet]) -> None:
    """Print what the configurations that come with the picker cost, beside the floor."""
    print(f"{'CPU µs per choice':<34} {'':>8}" + "".join(f"{len(fleet):>9,}" for fleet in fleets) + "   of the floor")
    for name in config.builtin_names():
        floor_us = median(compare("1 KB", FLOOR_TURNS).floor_us)
        costs = []
        for fleet in fleets:
            scheduler = Scheduler(config.load(config.read_builtin(name)).policy, random.Random(7), say_nothing)
            costs.append(cost_us(partial(scheduler.run, asking(fleet), fleet)))
        ratios = ", ".join(f"{cost / floor_us:.2f}" for cost in costs)
        print(f"{name:<34} {'':>8}" + "".join(f"{cost:>9.1f}" for cost in costs) + f"   {ratios}", flush=True)
    print()


def main(types: list[str]) -> None:
    """Print the table."""
    for name in types:
        if name not in CATALOGUE:
            import_plugin(name)
        if name not in CATALOGUE:
            raise SystemExit(f"no plugin has the type {name!r}")
    fleets = [busy(endpoints) for endpoints in ENDPOINTS]
    if not types:
        print_configurations(fleets)
    print(f"{'CPU µs per request':<34} {'asked to':>8}" + "".join(f"{endpoints:>9,}" for endpoints in ENDPOINTS))
    for name in types or sorted(name for name, entry in CATALOGUE.items() if set(entry.kinds) & set(KINDS)):
        runs = [calls(name, fleet, asking(fleet, cold=name in COLD)) for fleet in fleets]
        for method in runs[0]:
            print(f"{name:<34} {method:>8}" + "".join(f"{cost_us(each[method]):>9.1f}" for each in runs), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
