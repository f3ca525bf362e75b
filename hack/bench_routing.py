"""What choosing well is worth: time to first token behind the picker and behind Envoy's own load balancing, side by side.

Two Envoys in front of the same three lab servers, in turns: one asks the picker, the other has none and falls back to its own
least-request balancing. The eight turns of a conversation share a prompt of about 1,500 tokens; arrivals are open loop with
exponential gaps. Every round uses prompts that no engine has seen. The engines are the lab's model of a small GPU, so read the
ratio, not the milliseconds.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import time

import aiohttp

from shunter.envoyconf import bootstrap, load_intent
from shunter.envoyconf.testing import running_envoy
from shunter.stack.testing import running_stack

ROUNDS = 3
RATE_PER_S = 8.0
CONVERSATIONS = 24
TURNS = 8
PREFIX_WORDS = 1500
MAX_TOKENS = 24


def conversations(dice):
    """Prompts in the order in which they arrive: a conversation's turns are spread among the others'."""
    prompts = []
    for _ in range(CONVERSATIONS):
        shared = " ".join(f"{dice.randrange(10**4):04}" for _ in range(PREFIX_WORDS))
        prompts += [(dice.random(), f"{shared} question {turn}") for turn in range(TURNS)]
    return [prompt for _, prompt in sorted(prompts)]


async def first_token_s(session, url, model, prompt):
    body = {"model": model, "stream": True, "max_tokens": MAX_TOKENS, "ignore_eos": True}
    body |= {"messages": [{"role": "user", "content": prompt}]}
    started = time.monotonic()
    first = None
    async with session.post(f"{url}/v1/chat/completions", json=body) as response:
        assert response.status == 200, await response.text()
        async for line in response.content:
            if first is None and line.startswith(b"data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                first = time.monotonic() - started
    return first


async def one_round(url, model, dice, rate_per_s):
    timeout = aiohttp.ClientTimeout(total=300)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        tasks = []
        for prompt in conversations(dice):
            tasks.append(asyncio.create_task(first_token_s(session, url, model, prompt)))
            await asyncio.sleep(dice.expovariate(rate_per_s))
        return await asyncio.gather(*tasks)


def quantile(values, q):
    return sorted(values)[min(len(values) - 1, int(len(values) * q))]


async def main(stack, rounds, rate_per_s):
    plan = stack.state.plan
    intent = {
        "pools": [
            {
                "name": "engines",
                "endpoints": [engine.authority for engine in plan.engines],
                "picker": {"addresses": ["127.0.0.1:1"]},  # nobody listens there
            }
        ],
        "listeners": [{"name": "gateway", "port": 0}],
    }
    async with running_envoy(bootstrap(load_intent(json.dumps(intent)))) as alone:
        found = {"picker": [], "least request": []}
        for number in range(rounds):
            for name, url in (("picker", stack.gateway), ("least request", alone.url)):
                found[name].append(await one_round(url, plan.model, random.Random(f"{number}/{name}"), rate_per_s))
    print("| balancing | TTFT p50 | p90 | p99 | mean |\n|---|---|---|---|---|")
    for name, measured in found.items():
        cells = []
        for q in (0.5, 0.9, 0.99, None):
            each = [statistics.fmean(r) if q is None else quantile(r, q) for r in measured]
            cells.append(f"{statistics.median(each) * 1e3:.0f} ms ({min(each) * 1e3:.0f} to {max(each) * 1e3:.0f})")
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--rate", type=float, default=RATE_PER_S, help="requests a second")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, 3 lab servers, {arguments.rate:g} requests/s,", end=" ")
    print(f"{CONVERSATIONS} conversations of {TURNS} turns, median of {arguments.rounds} rounds (lowest to highest)\n")
    with running_stack() as stack:
        asyncio.run(main(stack, arguments.rounds, arguments.rate))
