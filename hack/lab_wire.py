"""Does virtual time rank policies as the wall clock does: the same requests through real Envoys and servers, and simulated.

Two workloads, small enough for a machine without a GPU. Every policy gets a stack of its own with cold caches; `least-request`
is an Envoy without a picker before the same engines. Each request is sent at its time, whatever has become of the others, and
the clients of a conversation think as long as the simulated ones. The engine model and its parameters are the same in both,
so what differs is everything around it: sockets, processes, scrapes, and a machine that has other things to do.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time

import aiohttp
import msgspec

from shunter.envoyconf import bootstrap, load_intent
from shunter.envoyconf.testing import running_envoy
from shunter.lab.core.fleet import Fleet
from shunter.lab.core.judges import body_of
from shunter.lab.core.params import EngineParams
from shunter.lab.core.simulation import simulate
from shunter.lab.core.statistics import percentile, window
from shunter.lab.policies import find_policy
from shunter.lab.workloads.draws import Lengths
from shunter.lab.workloads.traffic import Conversations, SharedPrefix
from shunter.picker import config
from shunter.stack.testing import running_stack

ENGINES = 3
SPEED = 1.0
MODEL = "lab/llama-3-8b"
# Prefixes of 90 groups are twice what one engine's cache holds and less than all three do; conversations do not fit at all
# where they are spread.
WORKLOADS = {
    "prefixes": (SharedPrefix(groups=90, shared=Lengths(1500), own=Lengths(150, 80, 20), output=Lengths(30)), 7.0),
    "conversations": (
        Conversations(own=Lengths(1800, 600, 400), turns=Lengths(5), user=Lengths(80), output=Lengths(40), think_s=4.0),
        6.0,
    ),
}
CONFIGURED = ("shunter", "upstream-2-2-3", "gie-v0.3")  # the first one is the picker's default
WITHOUT = "least-request"

# Policies whose means differ by less in either world are no ranking that could be reversed.
ALIKE = 0.1


async def ask(session, url, arrival):
    """Send one request; return the seconds to its first token, and whether it ended well."""
    body = body_of(msgspec.structs.replace(arrival, model=MODEL, max_tokens=arrival.output.tokens))
    body = body[:-1] + b',"ignore_eos":true}'
    started, first_s = time.monotonic(), None
    headers = {"content-type": "application/json"}
    async with session.post(f"{url}/v1/chat/completions", data=body, headers=headers) as response:
        async for line in response.content:
            if first_s is None and line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                first_s = time.monotonic() - started
    return first_s


async def play(url, arrivals):
    """Send all arrivals at their times; return the seconds to the first token of each that is measured."""
    loop, begin_s, end_s = asyncio.get_running_loop(), *window(arrivals)
    over = [loop.create_future() for _ in arrivals]
    beginning = time.monotonic()
    found = []

    async def one(session, index, arrival):
        if arrival.after is None:
            await asyncio.sleep(max(0.0, beginning + arrival.at_s - time.monotonic()))
        else:
            await over[arrival.after]
            await asyncio.sleep(arrival.think_s)
        arrived_s = time.monotonic() - beginning
        first_s = await ask(session, url, arrival)
        over[index].set_result(None)
        if begin_s <= arrived_s <= end_s:
            found.append(first_s if first_s is not None else float("inf"))

    timeout = aiohttp.ClientTimeout(total=600)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session, asyncio.TaskGroup() as group:
        for index, arrival in enumerate(arrivals):
            group.create_task(one(session, index, arrival))
    return found


async def play_without_picker(stack, arrivals):
    engines = [engine.authority for engine in stack.state.plan.engines]
    pool = {"name": "engines", "endpoints": engines, "picker": {"addresses": ["127.0.0.1:1"]}}  # nobody listens there
    intent = {"pools": [pool], "listeners": [{"name": "gateway", "port": 0}]}
    async with running_envoy(bootstrap(load_intent(json.dumps(intent)))) as envoy:
        return await play(envoy.url, arrivals)


def on_the_wire(policy, arrivals):
    options = ["--engines", str(ENGINES), "--speed", str(SPEED)]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(config.read_builtin(policy if policy in CONFIGURED[1:] else "default"))
        file.flush()
        with running_stack(*options, "--config", file.name) as stack:
            if policy == WITHOUT:
                return asyncio.run(play_without_picker(stack, arrivals))
            return asyncio.run(play(stack.gateway, arrivals))


def in_virtual_time(policy, arrivals):
    fleet = Fleet(engines=(EngineParams(speed=SPEED),) * ENGINES)
    begin_s, end_s = window(arrivals)
    finished = simulate(arrivals, fleet, find_policy(policy).build(fleet, 1)).finished
    return [each.first_s - each.arrived_s for each in finished if begin_s <= each.arrived_s <= end_s]


def reversals(wire, virtual):
    """Return the pairs of policies that clearly differ in both worlds, and in opposite directions."""
    pairs = [(one, other) for at, one in enumerate(wire) for other in list(wire)[at + 1 :]]
    ratios = [(pair, wire[pair[0]] / wire[pair[1]] - 1, virtual[pair[0]] / virtual[pair[1]] - 1) for pair in pairs]
    return [pair for pair, here, there in ratios if min(abs(here), abs(there)) > ALIKE and here * there < 0]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=90.0, help="that each run lasts, about")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print("| workload | policy | TTFT on the wire: mean | p90 | in virtual time: mean | p90 |\n|---|---|---:|---:|---:|---:|")
    reversed_pairs = []
    for name, (traffic, qps) in WORKLOADS.items():
        arrivals = traffic.arrivals(arguments.seed, qps, round(qps * arguments.seconds))
        means = {on_the_wire: {}, in_virtual_time: {}}
        for policy in (*CONFIGURED, WITHOUT):
            cells = []
            for world, found in means.items():
                times_s = world(policy, arrivals)
                found[policy] = statistics.fmean(times_s)
                cells += [f"{found[policy] * 1000:.0f} ms", f"{percentile(sorted(times_s), 0.9) * 1000:.0f} ms"]
            print(f"| {name}, {qps:g}/s | {policy} | {' | '.join(cells)} |", flush=True)
        reversed_pairs += [(name, *pair) for pair in reversals(*means.values())]
    print("\nthe rankings agree" if not reversed_pairs else f"\nreversed: {reversed_pairs}")


if __name__ == "__main__":
    main()
