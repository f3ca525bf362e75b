"""What one judgement costs: µs of CPU per decide() and release(), beside the least that could be done instead.

The floor is a loop without a product around it: decode the JSON into typed fields, hash the prompt in 256-byte blocks, look
them up in a dictionary of bit masks, take the maximum of scores computed beforehand. Absolute figures belong to this machine
and this minute; the ratio to the floor, measured in turns with it, is what to compare.
"""

import json
import os
import platform
import random
import time
from collections.abc import Callable
from statistics import median

import msgspec
import xxhash

from shunter.picker import config
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.judgement import Ask, Outcome, Pick
from shunter.snapshot import Endpoint, Health, Load, LoadRow, Pool, Topology, View

__all__ = ["main", "world"]

ROUNDS = 7
ROUND_S = 0.04  # of CPU; long against the clock's resolution, short enough that both columns meet the same noise
SIZES_KB = (1, 8, 64, 256)
ENDPOINTS = (10, 100, 1000)
CONVERSATIONS = 50
OUTCOME = Outcome(complete=True, status=200)
HEADERS = {":path": "/v1/chat/completions", ":method": "POST", "content-type": "application/json", "x-request-id": "bench"}


def world(endpoints: int, now_ns: int) -> View:
    """A pool in which everybody's load is known and different."""
    dice = random.Random(7)
    topology = Topology(
        epoch=1,
        generation=1,
        pools=(Pool(name="bench"),),
        endpoints=tuple(
            Endpoint(
                slot=at, incarnation=1, name=f"pod-{at}", address=f"10.0.{at // 250}.{at % 250 + 1}", port=8000, pools=(0,)
            )
            for at in range(endpoints)
        ),
    )
    rows = [
        LoadRow(
            slot=at,
            incarnation=1,
            health=Health.FRESH,
            sampled_ns=now_ns,
            waiting=float(dice.randrange(5)),
            running=float(dice.randrange(30)),
            kv_usage=dice.random(),
            block_size=16,
            num_blocks=60_000,
        )
        for at in range(endpoints)
    ]
    return View(topology, Load.of(rows, epoch=1, topology_generation=1, published_ns=now_ns))


def bodies(size_kb: int) -> list[bytes]:
    """Conversations of this size: one system prompt, then each its own words, in messages of about 2 KB."""
    dice = random.Random(size_kb)
    made: list[bytes] = []
    for _ in range(CONVERSATIONS):
        messages = [{"role": "system", "content": "You are a careful assistant. " * 10}]
        while len(json.dumps(messages)) < size_kb * 1024 - 700:
            left = size_kb * 1024 - len(json.dumps(messages)) - 150
            words = " ".join(f"{dice.getrandbits(32):08x}" for _ in range(max(1, min(2000, left) // 9)))
            messages.append({"role": "user", "content": words})
        made.append(json.dumps({"model": "lab/llama-3-8b", "messages": messages, "max_tokens": 256, "stream": True}).encode())
    return made


class Message(msgspec.Struct):
    """The floor reads content only."""

    content: str


class Chat(msgspec.Struct):
    """The floor's idea of a request."""

    model: str
    messages: list[Message]


class Floor:
    """The least that a prefix-aware pick has to do."""

    def __init__(self, endpoints: int) -> None:
        dice = random.Random(7)
        self.decode = msgspec.json.Decoder(Chat).decode
        self.index: dict[int, int] = {}
        self.base = [dice.random() * 4 for _ in range(endpoints)]
        self.in_flight = [0] * endpoints

    def __call__(self, body: bytes) -> int:
        request = self.decode(body)
        prompt = "\n".join([message.content for message in request.messages]).encode()
        value, digest, hashes = xxhash.xxh3_64_intdigest(request.model.encode()), xxhash.xxh3_64_intdigest, list[int]()
        for at in range(0, len(prompt) - 255, 256):
            value = digest(prompt[at : at + 256], value)
            hashes.append(value)
        alive, depths, index = -1, dict[int, int](), self.index
        for depth, value in enumerate(hashes):
            gone = alive & ~index.get(value, 0)
            alive &= ~gone
            while gone > 0:
                depths[(gone & -gone).bit_length() - 1] = depth
                gone &= gone - 1
            if not alive:
                break
        while alive > 0:
            depths[(alive & -alive).bit_length() - 1] = len(hashes)
            alive &= alive - 1
        scale, in_flight = 3 / (len(hashes) or 1), self.in_flight
        best, chosen = -1.0, 0
        for at, score in enumerate(self.base):
            total = score + depths.get(at, 0) * scale - in_flight[at] * 0.001
            if total > best:
                best, chosen = total, at
        bit = 1 << chosen
        for value in hashes:
            index[value] = index.get(value, 0) | bit
        in_flight[chosen] += 1
        in_flight[chosen] -= 1
        return chosen


def judged(endpoints: int) -> Callable[[bytes], None]:
    """The product: the default configuration, everything on."""
    now_s = 100.0
    view = world(endpoints, int(now_s * 1e9))
    judge = FleetJudge(config.load().policy, lambda _now_ns: view, random.Random(7))

    def run(body: bytes) -> None:
        pick = judge.decide(Ask(HEADERS, body), now_s)
        if not isinstance(pick, Pick):
            raise SystemExit(f"refused: {pick}")
        judge.release(pick.ticket, OUTCOME, now_s)

    return run


def exchanged(endpoints: int) -> Callable[[bytes], None]:
    """All of ext_proc in mode BUFFERED but the sockets: two messages decoded, judged, two encoded, then the stream ends."""
    from envoy.service.ext_proc.v3.external_processor_pb2 import ProcessingRequest

    from shunter.picker.core.limits import Budget, Limits
    from shunter.picker.core.session import Session
    from shunter.picker.transport.wire import decode, encode

    now_s = 100.0
    view = world(endpoints, int(now_s * 1e9))
    judge = FleetJudge(config.load().policy, lambda _now_ns: view, random.Random(7))
    limits = Limits()
    budget = Budget(limits.buffered_bytes)
    first = ProcessingRequest()
    first.protocol_config.request_body_mode = 2  # BUFFERED
    for name, value in {**HEADERS, ":authority": "gateway", ":scheme": "http", "user-agent": "bench", "accept": "*/*"}.items():
        first.request_headers.headers.headers.add(key=name, raw_value=value.encode())
    headers = first.SerializeToString()
    messages: dict[bytes, bytes] = {}

    def run(body: bytes) -> None:
        message = messages.get(body)
        if message is None:
            second = ProcessingRequest()
            second.request_body.body, second.request_body.end_of_stream = body, True
            message = messages[body] = second.SerializeToString()
        session = Session(judge, limits, budget)
        replies = [*session.feed(decode(headers), now_s), *session.feed(decode(message), now_s)]
        if not any(b"x-gateway-destination-endpoint" in encode(reply) for reply in replies):
            raise SystemExit(f"no endpoint in {replies}")
        session.close(now_s)

    return run


def cost_us(run: Callable[[bytes], object], made: list[bytes], times: int) -> float:
    """CPU µs per call."""
    begin = time.process_time_ns()
    for at in range(times):
        run(made[at % CONVERSATIONS])
    return (time.process_time_ns() - begin) / times / 1000


def main() -> None:
    """Print the table."""
    cores = len(os.sched_getaffinity(0))
    print(f"Python {platform.python_version()}, msgspec {msgspec.__version__}, xxhash {xxhash.VERSION}, {cores} cores")
    print(f"CPU µs per pick, median of {ROUNDS} rounds (lowest to highest), in turns; floor: see the head of this file")
    print("judge: decide and release; exchange: judge with ext_proc decoded and encoded around it, no sockets\n")
    print(f"{'endpoints':>9} {'body KB':>7} {'floor':>22} {'judge':>22} {'exchange':>22} {'judge/floor':>11}")
    for endpoints in ENDPOINTS:
        for size_kb in SIZES_KB:
            made = bodies(size_kb)
            runs = (Floor(endpoints), judged(endpoints), exchanged(endpoints))
            warm = [cost_us(run, made, 2 * CONVERSATIONS) for run in runs]
            times = max(CONVERSATIONS, int(ROUND_S * 1e6 / max(warm)))
            rounds = [[cost_us(run, made, times) for run in runs] for _ in range(ROUNDS)]
            told = [f"{median(each):.1f} ({min(each):.1f} to {max(each):.1f})" for each in zip(*rounds, strict=True)]
            ratio = median(judge / floor for floor, judge, _ in rounds)
            print(f"{endpoints:>9} {size_kb:>7} {told[0]:>22} {told[1]:>22} {told[2]:>22} {ratio:>11.2f}", flush=True)


if __name__ == "__main__":
    main()
