"""How a real Envoy spreads requests over the picker's workers: a port for each, or one port for all, with and without limits.

A closed loop of clients asks an upstream that answers after HOLD_S, in the profile lean, so that each request holds one stream
at the picker. After SETTLE_S the shares are counted over COUNT_S; then the busier worker is killed, and the time is taken until
each worker has at least a quarter of the picks of a second again.
"""

import argparse
import asyncio
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import aiohttp
from aiohttp import web

from shunter.envoyconf import bootstrap, load_intent
from shunter.envoyconf.testing import running_envoy
from shunter.picker.shell.memory import watch
from shunter.snapshot import Endpoint, Health, Load, LoadRow, Pool, SnapshotWriter, Topology

HOLD_S = 0.4
SETTLE_S = 3.0
COUNT_S = 5.0
RECOVER_S = 30.0
FAIR = 0.25
CLOCK = os.sysconf("SC_CLK_TCK")
MODES = {
    "a port each": [],
    "one port, no limits": ["--one-port", "--max-streams", "65536", "--connection-max-age", "86400"],
    "one port, 20 s": ["--one-port", "--max-streams", "65536"],
} | {f"one port, 20 s, {streams} streams": ["--one-port", "--max-streams", str(streams)] for streams in (64, 16, 8, 4)}


@contextlib.asynccontextmanager
async def upstream():
    async def answer(request):
        await request.read()
        await asyncio.sleep(HOLD_S)
        return web.json_response({"choices": []})

    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


def publish(writer, port):
    now_ns = time.monotonic_ns()
    endpoints = (Endpoint(slot=0, incarnation=1, name="pod", address="127.0.0.1", port=port, pools=(0,)),)
    writer.publish_topology(Topology(epoch=1, generation=1, pools=(Pool(name="p"),), endpoints=endpoints), now_ns)
    row = LoadRow(slot=0, incarnation=1, health=Health.FRESH, sampled_ns=now_ns, waiting=0.0, running=0.0, kv_usage=0.0)
    writer.publish_load(Load.of([row], epoch=1, topology_generation=1, published_ns=now_ns))


class Picker:
    def __init__(self, directory, options):
        with (directory / "log").open("wb") as log:
            command = [sys.executable, "-m", "shunter.picker", "run", "--snapshot", directory, "--runtime", directory / "run"]
            ports = ["--port=0", "--health-port=0", "--admin-port=0", "--workers=2", "--log-level=info"]
            self.process = subprocess.Popen([*map(str, command), *ports, *options], stderr=log)
        self.log = directory / "log"
        self.seats = directory / "run"

    def workers(self):
        port = self.log.read_text().partition("admin pages on port ")[2].split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/debug/workers", timeout=10) as page:
            return json.loads(page.read())

    async def ready(self):
        while self.process.poll() is None:
            with contextlib.suppress(OSError, IndexError):
                workers = await asyncio.to_thread(self.workers)
                if all(worker["ready"] for worker in workers):
                    return workers
            await asyncio.sleep(0.05)
        raise SystemExit(self.log.read_text())

    def picks(self):
        """Picks by process, so far."""
        counters = watch(self.seats, len([*self.seats.glob("counters-*")]))
        return {each.pid: each.tally().picks for each in counters}

    async def share(self, seconds):
        """Picks of each worker in this time."""
        before = self.picks()
        await asyncio.sleep(seconds)
        after = self.picks()
        workers = await asyncio.to_thread(self.workers)
        return {worker["pid"]: after.get(worker["pid"], 0) - before.get(worker["pid"], 0) for worker in workers}

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def __enter__(self):
        return self


def cpu_s(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK


async def ask(session, url, tally):
    body = {"model": "m", "messages": [{"role": "user", "content": "which track?"}]}
    while True:
        try:
            async with session.post(f"{url}/v1/chat/completions", json=body) as response:
                await response.read()
                tally[response.status] = tally.get(response.status, 0) + 1
        except (aiohttp.ClientError, TimeoutError) as error:
            tally[type(error).__name__] = tally.get(type(error).__name__, 0) + 1


async def measure(options, *, clients, threads):
    with tempfile.TemporaryDirectory(prefix="shunter-ports-") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        writer = stack.enter_context(contextlib.closing(SnapshotWriter(directory)))
        async with upstream() as port:
            publish(writer, port)
            picker = stack.enter_context(Picker(directory, options))
            workers = await picker.ready()
            addresses = list(dict.fromkeys(worker["address"] for worker in workers))
            pool = {"name": "p", "endpoints": [f"127.0.0.1:{port}"], "picker": {"addresses": addresses}}
            intent = {"pools": [pool], "listeners": [{"name": "gateway", "port": 0}]}
            async with running_envoy(bootstrap(load_intent(json.dumps(intent))), threads=threads) as envoy:
                connector = aiohttp.TCPConnector(limit=0)
                async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=30)) as session:
                    tally = {}
                    asking = [asyncio.create_task(ask(session, envoy.url, tally)) for _ in range(clients)]
                    await asyncio.sleep(SETTLE_S)
                    before = {worker["pid"]: cpu_s(worker["pid"]) for worker in workers}
                    shares = await picker.share(COUNT_S)
                    spent = sum(cpu_s(pid) - cpu for pid, cpu in before.items())
                    busier = max(shares, key=shares.get)
                    os.kill(busier, signal.SIGKILL)
                    killed = time.monotonic()
                    recovery = await recovered(picker, busier, killed)
                    for task in asking:
                        task.cancel()
                    await asyncio.gather(*asking, return_exceptions=True)
        total = sum(shares.values())
        failures = sum(count for result, count in tally.items() if result != 200)
        return min(shares.values()) / total, total / COUNT_S, 1e6 * spent / total, recovery, failures


async def recovered(picker, dead, killed):
    while time.monotonic() < killed + RECOVER_S:
        shares = await picker.share(1.0)
        total = sum(shares.values())
        if dead not in shares and len(shares) == 2 and total and min(shares.values()) / total >= FAIR:
            return time.monotonic() - killed
    return None


async def main(rounds, clients, threads):
    print(
        f"{os.cpu_count()} cores, Python {platform.python_version()}, 2 workers, {clients} clients, {threads} Envoy thread(s)\n"
    )
    rows = {mode: [] for mode in MODES}
    for _ in range(rounds):
        for mode, options in MODES.items():
            rows[mode].append(await measure(options, clients=clients, threads=threads))
            print(mode, rows[mode][-1], file=sys.stderr, flush=True)
    print("| | lesser worker's share | requests/s | CPU µs per request | both at work again after a kill | failed |")
    print("|---|---|---|---|---|---|", flush=True)
    for mode, found in rows.items():
        share, rate, cpu = (statistics.median(row[at] for row in found) for at in range(3))
        recoveries = [row[3] for row in found]
        again = f"not within {RECOVER_S:g} s" if None in recoveries else f"{statistics.median(recoveries):.0f} s"
        print(
            f"| {mode} | {100 * share:.0f} % | {rate:.0f} | {cpu:.0f} | {again} | {sum(row[4] for row in found)} |", flush=True
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--clients", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.rounds, arguments.clients, arguments.threads))
