"""What it costs workers to know of each other's picks: a journal each that the others replay, beside one table they all write.

The journal is the product's (``picker/core/journal.py``). The table is the other design that was measured: an open
set-associative table of (block, endpoint) pairs in shared memory, each entry one word of 8 bytes, so that it is written whole
and checks itself; a lookup reads a bucket of eight at once; nobody keeps an index of his own, and a full bucket forgets.

CPU µs on this machine in this minute; read the ratios. Hashing the prompt is the same in both and not counted.
"""

import argparse
import random
import sys
import time

import msgspec

from shunter.picker import config
from shunter.picker.core.fleet import Roster
from shunter.picker.core.journal import Journal, Peers
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.judgement import Ask, Outcome
from shunter.picker.core.ledger import Booking, Ledger
from shunter.picker.core.prefix import MAX_PAIRS, PrefixIndex, PrefixSettings
from shunter.picker.shell.memory import JOURNALS_BYTES
from shunter.snapshot import Endpoint, Health, Load, LoadRow, LogReader, LogWriter, Topology, View

ROUNDS = 7  # the quickest counts: whatever else runs on the machine only adds
BLOCKS = (32, 322, 2_000)
ENDPOINTS = (10, 1_000)
WORKERS = (1, 2, 4, 8)
NOW_NS = 10**12
WAYS = 8
DONE = Outcome(complete=True, status=200)
TABLE_BYTES = JOURNALS_BYTES  # 260,000 pairs, what the journals cost


class Table:
    """Pairs in a buffer that every worker writes.

    An entry is 42 bits of the block's hash, 14 of the slot, 8 of the incarnation: looking at the incarnation is how a slot is
    forgotten without touching its entries. Two that write into one bucket at once lose one of the two, and no more.
    """

    def __init__(self, buffer):
        self.words = memoryview(buffer).cast("Q")
        self.buckets = len(self.words) // WAYS
        self.turn = 0

    def match(self, hashes, incarnations):
        """Slot → number of leading blocks."""
        words, buckets = self.words, self.buckets
        alive, depths = -1, {}
        for depth, value in enumerate(hashes):
            at = value % buckets * WAYS
            tag, owners = value >> 22, 0
            for word in words[at : at + WAYS].tolist():
                if word >> 22 == tag:
                    slot = word >> 8 & 0x3FFF
                    if incarnations.get(slot, 0) & 0xFF == word & 0xFF:
                        owners |= 1 << slot
            still = owners if alive == -1 else alive & owners
            gone = 0 if alive == -1 else alive & ~still
            while gone:
                depths[(gone & -gone).bit_length() - 1] = depth
                gone &= gone - 1
            alive = still
            if not alive:
                break
        while alive > 0:
            depths[(alive & -alive).bit_length() - 1] = len(hashes)
            alive &= alive - 1
        return depths

    def insert(self, hashes, slot, incarnation):
        words, buckets, low = self.words, self.buckets, slot << 8 | incarnation & 0xFF
        for value in hashes:
            at = value % buckets * WAYS
            entry = (value >> 22) << 22 | low
            found = words[at : at + WAYS].tolist()
            if entry not in found:
                self.turn = (self.turn + 1) % WAYS
                words[at + (found.index(0) if 0 in found else self.turn)] = entry


def world(endpoints):
    made = tuple(
        Endpoint(slot=at, incarnation=1, name=f"pod-{at}", address=f"10.0.{at >> 8}.{at & 255}", port=80)
        for at in range(endpoints)
    )
    rows = [LoadRow(slot=at, incarnation=1, health=Health.FRESH, sampled_ns=NOW_NS) for at in range(endpoints)]
    topology = Topology(epoch=1, generation=1, endpoints=made)
    return View(topology, Load.of(rows, epoch=1, topology_generation=1, published_ns=NOW_NS))


def index():
    # No engine evicts here, so that both designs are asked to remember the same.
    return PrefixIndex(PrefixSettings(max_tokens=1 << 60, capacity_blocks=1 << 60))


def cost_us(run, times):
    def once():
        begin = time.process_time_ns()
        for at in range(times):
            run(at)
        return (time.process_time_ns() - begin) / times / 1000

    once()
    return min(once() for _ in range(ROUNDS))


class Reader:
    """A worker that only follows."""

    def __init__(self, logs, endpoints, prefix):
        self.ledger, self.prefix = Ledger(), prefix
        self.fleet = Roster(self.ledger).fleet(world(endpoints), NOW_NS)
        self.live = dict.fromkeys(range(endpoints), 1)
        self.peers = Peers([LogReader(log) for log in logs])

    def catch_up(self):
        return self.peers.catch_up(self.ledger, self.fleet, self.prefix, self.live)


def costs(blocks, endpoints):
    """CPU µs: a pick's own share in the journal design, following one remote request, a pick in the table design."""
    dice = random.Random(blocks)
    count = max(10, min(200, MAX_PAIRS // 2 // blocks))
    prompts = [([dice.getrandbits(64) for _ in range(blocks)], dice.randrange(endpoints)) for _ in range(count)]
    log = bytearray(JOURNALS_BYTES)
    journal, mine, reader = Journal(LogWriter(log), 1), index(), Reader([log], endpoints, index())
    table, incarnations = Table(bytearray(TABLE_BYTES)), dict.fromkeys(range(endpoints), 1)

    def write(at):
        hashes, slot = prompts[at % count]
        journal.booked(1 << 32 | at, Booking(slot, 1, NOW_NS, 500, hashes))
        journal.released(1 << 32 | at)

    def pick(at):
        hashes, slot = prompts[at % count]
        mine.match(hashes)
        mine.insert(hashes, slot, 1)
        write(at)

    def follow(at):
        write(at)
        reader.catch_up()

    def look_up(at):
        hashes, slot = prompts[at % count]
        table.match(hashes, incarnations)
        table.insert(hashes, slot, 1)

    return (
        cost_us(pick, count),
        cost_us(follow, count) - cost_us(write, count),
        cost_us(look_up, count),
    )


def picking(size_kb, endpoints=10):
    """CPU µs of a whole pick and its end, without and with a journal, and how many blocks such a prompt has."""
    view, policy = world(endpoints), config.load().policy
    dice = random.Random(size_kb)
    bodies = [
        msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": dice.randbytes(size_kb * 512).hex()}]})
        for _ in range(20)
    ]

    def pick(judge, at):
        made = judge.decide(Ask({":path": "/v1/chat/completions", "x-request-id": "bench"}, bodies[at % 20]), NOW_NS / 1e9)
        judge.release(made.ticket, DONE, NOW_NS / 1e9)

    journal = Journal(LogWriter(bytearray(JOURNALS_BYTES)), 1)
    judges = [FleetJudge(policy, lambda _: view, random.Random(1), journal=each) for each in (None, journal)]
    without, own = (cost_us(lambda at, judge=judge: pick(judge, at), 200) for judge in judges)
    return without, own, judges[0].decisions.latest(1)[0].prefix_blocks


def truth(endpoints, blocks=32, prompts=8_000, forgotten=5):
    """Play the same picks to both designs; return per design (share of pairs lost, of pairs that nobody should know).

    Half of each prompt is one of twenty beginnings that every endpoint has served, as system prompts are.
    """
    dice = random.Random(endpoints)
    beginnings = [[dice.getrandbits(64) for _ in range(blocks // 2)] for _ in range(20)]
    log = bytearray(JOURNALS_BYTES)
    journal, reader = Journal(LogWriter(log), 1), Reader([log], endpoints, index())
    table, sent, incarnations = Table(bytearray(TABLE_BYTES)), {}, dict.fromkeys(range(endpoints), 1)
    for at in range(prompts):
        hashes = dice.choice(beginnings) + [dice.getrandbits(64) for _ in range(blocks // 2)]
        slot = dice.randrange(endpoints)
        journal.booked(1 << 32 | at, Booking(slot, 1, NOW_NS, 500, hashes))
        journal.released(1 << 32 | at)
        if at % 50 == 0:
            reader.catch_up()
        table.insert(hashes, slot, 1)
        for value in hashes:
            sent.setdefault((value, slot))
    reader.catch_up()
    for slot in range(forgotten):  # engines that started again
        reader.prefix.forget(slot)
        incarnations[slot] = 2
    pairs = [pair for pair in sent if pair[1] >= forgotten][-MAX_PAIRS // 2 :]
    void = [pair for pair in sent if pair[1] < forgotten]

    def known(which, find):
        return sum(pair[1] in find(pair[0]) for pair in which) / len(which)

    finders = (lambda value: reader.prefix.match([value]).blocks), (lambda value: table.match([value], incarnations))
    return [(1 - known(pairs, find), known(void, find)) for find in finders]


def ledger_us(endpoints):
    """CPU µs to follow one remote request without a prompt to remember."""
    log = bytearray(JOURNALS_BYTES)
    journal, reader = Journal(LogWriter(log), 1), Reader([log], endpoints, None)

    def write(at):
        journal.booked(1 << 32 | at, Booking(at % endpoints, 1, NOW_NS, 500))
        journal.released(1 << 32 | at)

    def follow(at):
        write(at)
        reader.catch_up()

    def idle(_):
        reader.catch_up()

    return cost_us(write, 2000), cost_us(follow, 2000) - cost_us(write, 2000), cost_us(idle, 2000)


def replay_s(blocks):
    """How long a new worker reads in a full journal."""
    dice, log = random.Random(1), bytearray(JOURNALS_BYTES)
    journal = Journal(LogWriter(log), 1)
    count = 0
    while count * (blocks * 9 + 100) < 2 * JOURNALS_BYTES:
        count += 1
        booking = Booking(dice.randrange(10), 1, NOW_NS, 500, [dice.getrandbits(64) for _ in range(blocks)])
        journal.booked(1 << 32 | count, booking)
        journal.released(1 << 32 | count)
    reader = Reader([log], 10, PrefixIndex(PrefixSettings()))
    begin = time.process_time()
    reader.catch_up()
    return time.process_time() - begin, reader.prefix.pairs


def explaining_us(endpoints):
    """CPU µs to put one decision with its scores into words and into shared memory."""
    view = world(endpoints)
    judge = FleetJudge(config.load().policy, lambda _: view, random.Random(1))
    body = msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": "word " * 200}]})
    judge.decide(Ask({":path": "/v1/chat/completions"}, body), NOW_NS / 1e9)
    entry, encode, log = judge.decisions.latest(1)[0], msgspec.msgpack.Encoder().encode, LogWriter(bytearray(JOURNALS_BYTES))
    return cost_us(lambda _: log.append(encode(entry.explain())), 200)


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    print(f"Python {sys.version.split()[0]}; CPU µs, the quickest of {ROUNDS} rounds\n")
    print(
        "| blocks | endpoints | journal: own pick | each remote one | table: any pick | "
        + " | ".join(f"N = {n}" for n in WORKERS),
        end="",
    )
    print(" | equal at |\n" + "|---" * (6 + len(WORKERS)) + "|")
    for blocks in BLOCKS:
        for endpoints in ENDPOINTS:
            own, remote, any_pick = costs(blocks, endpoints)
            ratios = " | ".join(f"{(own + (n - 1) * remote) / any_pick:.2f}" for n in WORKERS)
            equal = 1 + (any_pick - own) / remote
            print(
                f"| {blocks} | {endpoints} | {own:.1f} | {remote:.1f} | {any_pick:.1f} | {ratios} | N = {equal:.0f} |",
                flush=True,
            )
    print(
        "\n| body | pick without journal | with | each remote one | "
        + " | ".join(f"N = {n}" for n in WORKERS[1:])
        + " | at most |"
    )
    print("|" + "---|" * (5 + len(WORKERS[1:])))
    for size_kb in (1, 8, 64):
        without, own, blocks = picking(size_kb)
        _, remote, _ = costs(blocks, 10)
        per_s = " | ".join(f"{n * 1e6 / (own + (n - 1) * remote):,.0f}/s" for n in WORKERS[1:])
        print(
            f"| {size_kb} KB, {blocks} blocks | {without:.1f} | {own:.1f} | {remote:.1f} | {per_s} | {1e6 / remote:,.0f}/s |",
            flush=True,
        )
    print("\n| endpoints | journal: pairs lost | known in vain | table: pairs lost | known in vain |\n|---|---|---|---|---|")
    for endpoints in ENDPOINTS:
        told = " | ".join(f"{lost:.2%} | {vain:.2%}" for lost, vain in truth(endpoints))
        print(f"| {endpoints} | {told} |", flush=True)
    write, follow, idle = ledger_us(100)
    print(
        f"\nledger alone: {write:.1f} to write a request and its end, {follow:.1f} to follow one, {idle:.2f} if nothing is new"
    )
    for blocks in (2, 32, 322):
        seconds, pairs = replay_s(blocks)
        print(f"a new worker reads a full journal of {blocks}-block prompts in {seconds * 1000:.0f} ms and knows {pairs} pairs")
    for endpoints in ENDPOINTS:
        print(f"an explained decision among {endpoints} endpoints into shared memory: {explaining_us(endpoints):.0f}")
    print(f"\nmemory: {JOURNALS_BYTES >> 20} MiB of journals in all and an index of 175 to 275 bytes a pair in each worker")
    print("(core/prefix.py); the table is 8 bytes a pair, once")


if __name__ == "__main__":
    main()
