"""What it is worth to know which prefixes engines hold, beside guessing it from what was sent: virtual time, the real parts.

Lab engines with real token ids, the real scraper's core from their KV events to the log, and real judges, each a picker of its
own that knows nothing of the others (on several hosts, or of several gateways). Prompts begin with one of many system prompts,
of which an engine holds a few. Snapshots and KV events are looked at every 50 ms.
"""

import argparse
import random
from heapq import heappop, heappush
from statistics import mean, quantiles

import msgspec

from shunter.lab.core.engine import Engine
from shunter.lab.core.kvevents import Announcer
from shunter.lab.core.params import params_from
from shunter.lab.core.requests import Request
from shunter.picker import config
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.judgement import Ask, Outcome
from shunter.scraper.core.chronicle import Chronicle
from shunter.scraper.core.holdings import Holdings
from shunter.scraper.core.kvevents import decode
from shunter.snapshot import Endpoint, Health, Load, LoadRow, LogReader, LogWriter, Topology, View

ENGINES = 4
BLOCK_SIZE = 16
SYSTEM_PROMPTS = 48
SYSTEM_TOKENS = 2_000
OWN_TOKENS = (100, 400)
ANSWER_TOKENS = 40
RATE_PER_S = 6.0
LOOK_S = 0.05
LOG_BYTES = 1 << 20
START_S = 1000.0  # a time of 0 means never
HEADERS = {":path": "/v1/completions"}
DONE = Outcome(complete=True, status=200)

SCORERS = """
- {type: queue-scorer}
- {type: kv-cache-utilization-scorer}
- {type: max-score-picker}
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: prefix-cache-scorer, weight: 3}
  - {pluginRef: max-score-picker}
"""
HEAD = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n"
CONFIGURATIONS = {
    "guess": HEAD + "- {type: prefix-cache-scorer}" + SCORERS,
    "knowledge": HEAD
    + "- {type: precise-prefix-cache-producer}\n"
    + "- {type: prefix-cache-scorer, parameters: {prefixMatchInfoProducerName: precise-prefix-cache-producer}}"
    + SCORERS,
}


class World:
    """Engines that announce, what the scraper makes of it, and the pickers that look at it."""

    def __init__(self, kind, pickers, held_prompts):
        blocks = held_prompts * SYSTEM_TOKENS // BLOCK_SIZE
        params = params_from({"num_blocks": blocks, "block_size": BLOCK_SIZE, "max_model_len": 4096})
        self.engines = [Engine(params, START_S) for _ in range(ENGINES)]
        self.announcers = [Announcer(BLOCK_SIZE) for _ in range(ENGINES)]
        for engine, announcer in zip(self.engines, self.announcers, strict=True):
            engine.cache.watch = announcer
        self.holdings = [Holdings(slot, 1) for slot in range(ENGINES)]
        log = bytearray(LOG_BYTES)
        self.chronicle = Chronicle(LogWriter(log), LOG_BYTES)
        self.topology = Topology(
            epoch=1,
            generation=1,
            endpoints=tuple(
                Endpoint(slot=at, incarnation=1, name=f"pod-{at}", address=f"10.0.0.{at}", port=80) for at in range(ENGINES)
            ),
        )
        self.look(START_S)
        policy = config.load(CONFIGURATIONS[kind]).policy
        self.judges = []
        for at in range(pickers):
            reader = LogReader(log)
            judge = FleetJudge(
                policy, lambda _: self.view, random.Random(at), keep=0, blocks=lambda _, reader=reader: reader.read()
            )
            if judge.precise is not None:  # prompts that are token ids need no engine to tell them
                judge.precise.ask = lambda want, judge=judge: judge.precise.learn(want, want.request.prompt.cast("I").tolist())
            self.judges.append(judge)

    def look(self, now_s):
        """Let the scraper see everything there is."""
        rows = []
        for slot, engine in enumerate(self.engines):
            gauges = engine.reported()
            rows.append(
                LoadRow(
                    slot=slot,
                    incarnation=1,
                    health=Health.FRESH,
                    sampled_ns=int(now_s * 1e9),
                    waiting=float(gauges.waiting),
                    running=float(gauges.running),
                    kv_usage=gauges.kv_usage,
                )
            )
            payload = self.announcers[slot].batch(now_s)
            if payload is not None:
                self.chronicle.tell(self.holdings[slot].apply(decode(payload)))
        self.view = View(self.topology, Load.of(rows, epoch=1, topology_generation=1, published_ns=int(now_s * 1e9)))


def simulate(kind, pickers, held_prompts, requests, seed):
    """Return the times to first token in seconds, and which part of all prompts' tokens was cached."""
    world, dice = World(kind, pickers, held_prompts), random.Random(seed)
    systems = [[dice.randrange(1 << 31) for _ in range(SYSTEM_TOKENS)] for _ in range(SYSTEM_PROMPTS)]
    sent_s, picks, first_s, cached, asked = {}, {}, {}, 0, 0

    def advance(until_s):
        nonlocal cached
        for engine in world.engines:
            for token in engine.advance(until_s):
                if token.index == 0:
                    first_s[token.id] = token.at_s - sent_s[token.id]
                    cached += token.cached_tokens
                if token.finish is not None:
                    judge, ticket = picks.pop(token.id)
                    judge.release(ticket, DONE, until_s)

    now_s, looks = START_S, [START_S + LOOK_S]
    for number in range(requests):
        now_s += dice.expovariate(RATE_PER_S)
        while looks[0] <= now_s:
            at_s = heappop(looks)
            advance(at_s)
            world.look(at_s)
            heappush(looks, at_s + LOOK_S)
        advance(now_s)
        system = systems[int(SYSTEM_PROMPTS * dice.random() ** 2)]
        prompt = (*system, *(dice.randrange(1 << 31) for _ in range(dice.randint(*OWN_TOKENS))))
        judge = world.judges[dice.randrange(pickers)]
        pick = judge.decide(Ask(HEADERS, msgspec.json.encode({"model": "m", "prompt": prompt})), now_s)
        slot = int(pick.endpoints[0].split(":")[0].rpartition(".")[2])
        request = Request(id=str(number), prompt=prompt, output=tuple(range(ANSWER_TOKENS)))
        sent_s[request.id], picks[request.id] = now_s, (judge, pick.ticket)
        asked += len(prompt)
        world.announcers[slot].asked(request)
        world.engines[slot].submit(request, now_s)
    advance(now_s + 600)
    return list(first_s.values()), cached / asked


def compare(pickers, held_prompts, requests, seeds):
    """Return kind → mean and p90 of the time to first token in seconds, and the share of prompts' tokens that was cached."""
    table = {}
    for kind in CONFIGURATIONS:
        runs = [simulate(kind, pickers, held_prompts, requests, seed) for seed in range(seeds)]
        times = [each for run, _ in runs for each in run[len(run) // 5 :]]  # the caches are cold at first
        table[kind] = mean(times), quantiles(times, n=10)[8], mean(share for _, share in runs)
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=800, help="per run")
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    print(
        "| pickers | system prompts an engine holds | | cached share | TTFT mean ms | TTFT p90 ms |\n|---|---|---|---|---|---|"
    )
    for pickers in (1, 4):
        for held_prompts in (8, 16, 32):
            for kind, (average_s, p90_s, share) in compare(pickers, held_prompts, arguments.requests, arguments.seeds).items():
                print(
                    f"| {pickers} | {held_prompts} | {kind} | {share:.2f} | {average_s * 1e3:.0f} | {p90_s * 1e3:.0f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
