"""How late replicas hear of each other by a real Redis, and what that costs: two sharers, one that tells and one that hears.

A worker's journal is written at a steady rate: a booking of a prompt of so many blocks, and its end. Counted are the
milliseconds until the other replica's sharer has booked it in its own journal, and the CPU time of both sharers (this process
has nothing else to do but that, to write journals and to look) and of the Redis.
"""

import argparse
import asyncio
import contextlib
import os
import platform
import random
import resource
import tempfile
import time
from pathlib import Path
from statistics import median

from shunter.envoyconf.shell.envoy import tools_dir
from shunter.envoyconf.testing_kube import running_process
from shunter.picker.core.journal import Booked, read_event
from shunter.picker.core.ledger import Booking, first_ticket
from shunter.picker.shell.memory import Memory, Seat, new_life
from shunter.picker.shell.sharer import Settings, Sharer
from shunter.snapshot import Endpoint, Load, SnapshotWriter, Topology

ENDPOINTS = 10
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
LOOK_S = 0.0005


def publish(directory):
    endpoints = tuple(
        Endpoint(slot=at, incarnation=1, name=f"p{at}", address=f"10.0.0.{at + 1}", port=80) for at in range(ENDPOINTS)
    )
    with contextlib.closing(SnapshotWriter(directory)) as writer:
        now_ns = time.monotonic_ns()
        writer.publish_topology(Topology(epoch=1, generation=1, endpoints=endpoints), now_ns)
        writer.publish_load(Load.of((), epoch=1, topology_generation=1, published_ns=now_ns))


def cpu_s(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


async def measure(args, directory, url, redis_pid):
    settings = Settings(url=url, group="bench", snapshot=directory)
    publish(directory)
    replicas = []
    for name in ("east", "west"):
        (home := directory / name).mkdir()
        worker = Memory(Seat(home, 0, 2, new_life(home)))
        sharer = Sharer(settings, Seat(home, 1, 2, new_life(home)))
        await sharer.start()
        replicas.append((worker, sharer))
    (east, _), (west, hearing) = replicas
    news = west.others()[1]
    while hearing.hearer.replicas == 0:  # noqa: ASYNC110  nobody tells
        await asyncio.sleep(0.05)
    dice = random.Random(1)
    hashes = [dice.getrandbits(63) for _ in range(args.blocks)]
    said_s, waits_s = [], []
    own_s, server_s, begun_s = resource.getrusage(resource.RUSAGE_SELF), cpu_s(redis_pid), time.monotonic()
    total = int(args.rate * args.seconds)
    while len(waits_s) < total:
        now_s = time.monotonic()
        while len(said_s) < total and now_s >= begun_s + len(said_s) / args.rate:
            ticket = first_ticket(1) + 1 + len(said_s)
            east.journal.booked(ticket, Booking(len(said_s) % ENDPOINTS, 1, time.monotonic_ns(), 1000, hashes))
            if len(said_s) > 50:
                east.journal.released(ticket - 50)
            said_s.append(now_s)
        batch = news.read()
        booked = sum(isinstance(read_event(record), Booked) for record in batch.records) if batch else 0
        for _ in range(booked):
            waits_s.append(time.monotonic() - said_s[len(waits_s)])
        await asyncio.sleep(LOOK_S)
    took = resource.getrusage(resource.RUSAGE_SELF)
    spent_s = took.ru_utime + took.ru_stime - own_s.ru_utime - own_s.ru_stime
    served_s = cpu_s(redis_pid) - server_s
    for worker, sharer in replicas:
        await sharer.drain(1.0)
        worker.close()
    waits_s.sort()
    return median(waits_s), waits_s[int(len(waits_s) * 0.99)], spent_s / total, served_s / total


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", type=float, default=200.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--blocks", type=int, default=32, help="hashes of each prompt")
    parser.add_argument("--port", type=int, default=16379, help="of the Redis that is started for this")
    args = parser.parse_args()
    program = tools_dir() / "redis/usr/bin/redis-server"
    libraries = ":".join(map(str, (tools_dir() / "redis").glob("usr/lib/*-linux-gnu*")))
    with tempfile.TemporaryDirectory(prefix="shunter-bench-sharer-") as name:
        directory = Path(name)
        command = [str(program), "--port", str(args.port), "--bind", "127.0.0.1", "--save", ""]
        with running_process(directory / "log", command, env=os.environ | {"LD_LIBRARY_PATH": libraries}) as process:
            half_s, most_s, ours_s, theirs_s = asyncio.run(
                measure(args, directory, f"redis://127.0.0.1:{args.port}", process.pid)
            )
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}")
    print(f"{args.rate:g} requests/s of {args.blocks} blocks\n")
    print("| heard after p50 | p99 | both sharers' CPU a request | the Redis's |\n|---|---|---|---|")
    print(f"| {half_s * 1e3:.1f} ms | {most_s * 1e3:.1f} ms | {ours_s * 1e6:.0f} µs | {theirs_s * 1e6:.0f} µs |")


if __name__ == "__main__":
    main()
