"""What workers lose by not knowing of each other, and what sharing gives back: time to first token in virtual time.

The real judges, N of them over logs in plain memory, each asked by chance, choose among engines of a simple model: prefill one
prompt after the other at a fixed rate, then decode all together; a cache of prompt beginnings that evicts the longest unused.
Prompts begin with one of many system prompts, so it matters to send like to like, and end with words of their own, so it
matters not to send everybody to the same. Scrapes are as rare as asked for; what happened since only the ledger knows.

Replicas of a picker on several machines can know of each other only what a network has told them: ``--replicas`` asks what is
left of it if each record of a journal comes later by so much, and what those lose that tell each other nothing.

A second table asks what the picker loses by guessing when a prompt has been computed (``lean``) instead of seeing the first
token (``full``): the same engines, prompts of very different length, each sent where the least prefill is thought to wait.
"""

import argparse
import random
from collections import OrderedDict
from heapq import heappop, heappush
from statistics import mean, quantiles
from types import SimpleNamespace

import msgspec

from shunter.picker import config
from shunter.picker.core.journal import Journal, Peers
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.judgement import Ask, Outcome
from shunter.picker.core.ledger import Booking, Ledger
from shunter.snapshot import Batch, Endpoint, Health, Load, LoadRow, LogReader, LogWriter, Topology, View

ENGINES = 10
PREFILL_PER_S = 10_000
DECODE_S = 2.0  # of an answer
SYSTEM_PROMPTS = 60
SYSTEM_TOKENS = 2_000
OWN_TOKENS = (200, 1_200)
CACHED_PROMPTS = 12  # that an engine remembers
RATE_PER_S = 80.0
LOG_BYTES = 1 << 20
HEADERS = {":path": "/v1/chat/completions", "x-request-id": "sim"}
DONE = Outcome(complete=True, status=200)
LONG = 1_000_000_000_000  # the clock's beginning: a time of 0 means never


class Engine:
    """Prefill is a queue, decoding is not."""

    def __init__(self):
        self.free_ns = LONG
        self.cache = OrderedDict()
        self.spans = []  # (prefill begins, answer ends) of what has not ended
        self.hits = 0

    def serve(self, now_ns, system, tokens):
        """Take a request and return when its first token and its last come."""
        hit = self.cache.pop(system, None) is not None
        self.cache[system] = True
        if len(self.cache) > CACHED_PROMPTS:
            self.cache.popitem(last=False)
        self.hits += hit
        begins_ns = max(now_ns, self.free_ns)
        self.free_ns = begins_ns + int((tokens + (0 if hit else SYSTEM_TOKENS)) / PREFILL_PER_S * 1e9)
        ends_ns = self.free_ns + int(DECODE_S * 1e9)
        self.spans.append((begins_ns, ends_ns))
        return self.free_ns, ends_ns

    def row(self, slot, now_ns):
        """What a scrape finds."""
        self.spans = [span for span in self.spans if span[1] > now_ns]
        waiting = sum(begins_ns > now_ns for begins_ns, _ in self.spans)
        running = len(self.spans) - waiting
        return LoadRow(
            slot=slot,
            incarnation=1,
            health=Health.FRESH,
            sampled_ns=now_ns,
            waiting=float(waiting),
            running=float(running),
            kv_usage=min(1.0, running / 64),
        )


TOPOLOGY = Topology(
    epoch=1,
    generation=1,
    endpoints=tuple(
        Endpoint(slot=at, incarnation=1, name=f"pod-{at}", address=f"10.0.0.{at}", port=80) for at in range(ENGINES)
    ),
)


class Wire:
    """A log that others read later by ``delay_ns``; its writer is asked the time."""

    def __init__(self, delay_ns, clock):
        self.records = []
        self._delay_ns = delay_ns
        self._clock = clock

    def append(self, record):
        self.records.append((self._clock() + self._delay_ns, record))

    def reader(self):
        at = 0

        def read():
            nonlocal at
            begin, now_ns = at, self._clock()
            while at < len(self.records) and self.records[at][0] <= now_ns:
                at += 1
            return Batch([record for _, record in self.records[begin:at]]) if at > begin else None

        return SimpleNamespace(read=read)


class World:
    """Engines, the newest snapshot of them, and the workers that see it.

    With a ``delay_s`` they are replicas, which share by wire.
    """

    def __init__(self, workers, *, sharing, delay_s=None):
        self.engines = [Engine() for _ in range(ENGINES)]
        self.now_ns = LONG
        self.scrape(LONG)
        logs = [bytearray(LOG_BYTES) for _ in range(workers)] if sharing else []
        wires = [Wire(int((delay_s or 0) * 1e9), lambda: self.now_ns) for _ in logs]
        policy = config.load().policy
        self.judges = []
        for at in range(workers):
            readers = [LogReader(log) for log in logs] if delay_s is None else [wire.reader() for wire in wires]
            peers = Peers(readers, life=at + 1)
            journal = Journal(LogWriter(logs[at]) if delay_s is None else wires[at], at + 1) if sharing else None
            if journal:
                journal.begun()
            dice = random.Random(at)
            self.judges.append(FleetJudge(policy, lambda _: self.view, dice, keep=0, life=at + 1, journal=journal, peers=peers))

    def scrape(self, now_ns):
        rows = [engine.row(slot, now_ns) for slot, engine in enumerate(self.engines)]
        self.view = View(TOPOLOGY, Load.of(rows, epoch=1, topology_generation=1, published_ns=now_ns))


def simulate(workers, *, sharing, scrape_s, requests, seed, rate_per_s=RATE_PER_S, delay_s=None):
    """Return the times to first token in seconds, and which part of the system prompts was cached."""
    world = World(workers, sharing=sharing, delay_s=delay_s)
    dice = random.Random(seed)
    beginnings = [msgspec.json.encode(f"{at:04d}" * SYSTEM_TOKENS) for at in range(SYSTEM_PROMPTS)]
    now_s, first_tokens_s = LONG / 1e9, []
    events = [(LONG, 0, None)]  # (when, tie-breaker, what: a judge and its ticket, or None for a scrape)
    for number in range(requests):
        now_s += dice.expovariate(rate_per_s)
        now_ns = int(now_s * 1e9)
        while events[0][0] <= now_ns:
            at_ns, _, what = heappop(events)
            world.now_ns = at_ns
            if what is None:
                world.scrape(at_ns)
                heappush(events, (at_ns + int(scrape_s * 1e9), 0, None))
            else:
                what[0].release(what[1], DONE, at_ns / 1e9)
        world.now_ns = now_ns
        system, tokens = int(SYSTEM_PROMPTS * dice.random() ** 2), dice.randint(*OWN_TOKENS)
        body = b'{"model":"m","messages":[{"role":"system","content":%s},{"role":"user","content":"%s"}]}' % (
            beginnings[system],
            f"{number:08d}".encode() * (tokens // 2),
        )
        judge = world.judges[dice.randrange(workers)]
        pick = judge.decide(Ask(HEADERS, body), now_s)
        engine = world.engines[int(pick.endpoints[0].split(":")[0].rpartition(".")[2])]
        first_ns, last_ns = engine.serve(now_ns, system, tokens)
        first_tokens_s.append(first_ns / 1e9 - now_s)
        heappush(events, (last_ns, number + 1, (judge, pick.ticket)))
    return first_tokens_s, sum(engine.hits for engine in world.engines) / requests


def compare(scrape_s, requests, seeds, configurations):
    """Return, for each configuration, mean and p99 of the time to first token, and the share of cached beginnings."""
    table = []
    for workers, sharing in configurations:
        runs = [simulate(workers, sharing=sharing, scrape_s=scrape_s, requests=requests, seed=seed) for seed in range(seeds)]
        times = [each for run, _ in runs for each in run[len(run) // 5 :]]  # the caches are cold at first
        table.append((mean(times), quantiles(times, n=100)[98], mean(hits for _, hits in runs)))
    return table


def replicas(requests, seeds, rate_per_s, delays_s=(None, 0.0, 0.002, 0.01, 0.05, 0.25)):
    """Print what 2, 4 and 8 replicas make of it, by the delay of what they tell each other (None: they tell nothing)."""
    print("| replicas | told after | mean | p99 | mean of a single one's | p99 | beginnings cached |")
    print("|---|---|---|---|---|---|---|")
    alone = None
    for count in (1, 2, 4, 8):
        for delay_s in (None,) if count == 1 else delays_s:
            sharing = delay_s is not None
            settings = {
                "sharing": sharing,
                "scrape_s": 0.05,
                "requests": requests,
                "rate_per_s": rate_per_s,
                "delay_s": delay_s,
            }
            runs = [simulate(count, seed=seed, **settings) for seed in range(seeds)]
            times = [each for run, _ in runs for each in run[len(run) // 5 :]]
            average, p99, hits = mean(times), quantiles(times, n=100)[98], mean(hits for _, hits in runs)
            alone = alone or (average, p99)
            told = f"{delay_s * 1000:g} ms" if sharing else "" if count == 1 else "never"
            print(
                f"| {count} | {told} | {average * 1000:.0f} | {p99 * 1000:.0f} | {average / alone[0]:.2f} "
                f"| {p99 / alone[1]:.2f} | {hits:.0%} |",
                flush=True,
            )


def guess(kind, requests, seed, spread=0.0, load=0.8):
    """Send each prompt where the least prefill is thought to wait; return the times to first token in seconds.

    With a ``spread`` prompts take longer or shorter than their length and the rate say (sigma of a log-normal factor).
    """
    dice = random.Random(seed)
    lengths = dice.choices((300, 1_000, 12_000), (70, 25, 5), k=requests)
    rate_per_s = load * ENGINES * PREFILL_PER_S / (0.7 * 300 + 0.25 * 1_000 + 0.05 * 12_000)
    factor = {"rate": 1.0, "half the rate": 0.5, "twice the rate": 2.0}.get(kind, 1e-9)
    ledger = Ledger(PREFILL_PER_S * factor)
    free_ns, ends, now_s, times = [LONG] * ENGINES, [], LONG / 1e9, []
    for ticket, tokens in enumerate(lengths):
        now_s += dice.expovariate(rate_per_s)
        now_ns = int(now_s * 1e9)
        while ends and ends[0][0] <= now_ns:
            ledger.release(heappop(ends)[1])
        if kind == "truth":
            backlog = [max(0, each - now_ns) for each in free_ns]
        elif kind == "requests":
            backlog = [ledger.in_flight((slot, 1)) for slot in range(ENGINES)]
        else:
            backlog = [ledger.prefill_backlog((slot, 1), now_ns) for slot in range(ENGINES)]
        slot = min(range(ENGINES), key=lambda at: (backlog[at], dice.random()))
        took_s = tokens / PREFILL_PER_S * dice.lognormvariate(-spread * spread / 2, spread)
        free_ns[slot] = max(now_ns, free_ns[slot]) + int(took_s * 1e9)
        ledger.book(ticket, Booking(slot, 1, now_ns, tokens, prefill_tokens=tokens))
        # Who sees the first token knows that this prompt is done, and nothing of the one that is being computed.
        ends_ns = free_ns[slot] + (0 if kind == "first token" else int(DECODE_S * 1e9))
        heappush(ends, (ends_ns, ticket))
        times.append(free_ns[slot] / 1e9 - now_s)
    return times


GUESSES = {
    "truth": "the engine's own backlog, if one could ask it",
    "first token": "`full`: a prompt counts whole until its first token is seen",
    "rate": "`lean`: worked off at the engine's rate",
    "half the rate": "`lean`, the rate taken for half of what it is",
    "twice the rate": "`lean`, taken for twice",
    "end": "a prompt counts until its answer ends",
    "requests": "requests in flight, whatever their length",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=4_000, help="per run")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rate", type=float, default=RATE_PER_S, help="requests a second, for --replicas")
    parser.add_argument("--replicas", action="store_true", help="only replicas that share by wire, or not")
    arguments = parser.parse_args()
    if arguments.replicas:
        replicas(arguments.requests, arguments.seeds, arguments.rate)
        return
    configurations = [(1, False), (4, True), (4, False), (8, True), (8, False)]
    print(f"{arguments.requests} requests × {arguments.seeds} seeds, {ENGINES} engines, {RATE_PER_S:g}/s; ms to first token\n")
    print("| scraped every | workers | mean | p99 | mean of one worker's | p99 | beginnings cached |")
    print("|---|---|---|---|---|---|---|")
    for scrape_s in (0.05, 0.2, 1.0):
        rows = compare(scrape_s, arguments.requests, arguments.seeds, configurations)
        for (workers, sharing), (average, p99, hits) in zip(configurations, rows, strict=True):
            name = f"{workers}" if workers == 1 else f"{workers}, sharing" if sharing else f"{workers}, each for itself"
            told = f"{average / rows[0][0]:.2f} | {p99 / rows[0][1]:.2f}"
            print(
                f"| {scrape_s * 1000:g} ms | {name} | {average * 1000:.0f} | {p99 * 1000:.0f} | {told} | {hits:.0%} |",
                flush=True,
            )
    print("\n| what is known of waiting prefill | mean | p99 | prompts vary by 20 %: mean | p99 | by 50 %: mean | p99 |")
    print("|---|---|---|---|---|---|---|")
    for kind, text in GUESSES.items():
        told = []
        for spread in (0.0, 0.2, 0.5):
            runs = [guess(kind, 5 * arguments.requests, seed, spread) for seed in range(arguments.seeds)]
            times = [each for run in runs for each in run]
            told += [f"{mean(times) * 1000:.0f}", f"{quantiles(times, n=100)[98] * 1000:.0f}"]
        print(f"| {text} | {' | '.join(told)} |", flush=True)


if __name__ == "__main__":
    main()
