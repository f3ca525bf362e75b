"""What the control plane takes: many Envoys, many endpoints, one process.

Simulated clients hold one aggregated stream each, ask for everything as Envoy does and accept it. Then one endpoint of the
pool leaves or comes, again and again; measured is from the scraper's publication until the first and the last client have it.
At last everybody's load moves ten times a second in the profile native. CPU is of the server; the clients are another process.

    python hack/bench_xds.py [--clients 100] [--endpoints 1000] [--form delta|sotw] [--page docs/gateway/xds.md]
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ["GRPC_VERBOSITY"] = "NONE"  # a hundred connections say goodbye, each in a line

import grpc.aio

from shunter.envoyconf.core.schema import envoy_schema
from shunter.envoyconf.core.xds.kinds import Kind
from shunter.snapshot import Endpoint, Health, Load, LoadRow, Pool, SnapshotWriter, Topology

CHANGES = 20
WEIGHTS_S = 10.0
CLOCK = os.sysconf("SC_CLK_TCK")
METHODS = {"delta": "DeltaAggregatedResources", "sotw": "StreamAggregatedResources"}
BEGIN, END = "<!-- hack/bench_xds.py -->", "<!-- end -->"


class Scraper:
    """Publishes a pool of many endpoints."""

    def __init__(self, directory, count):
        self.writer = SnapshotWriter(directory)
        self.count = count
        self.generation = 0
        self.dice = random.Random(7)

    def publish(self, without=None, noise=0.0):
        self.generation += 1
        now_ns = time.monotonic_ns()
        endpoints = tuple(
            Endpoint(
                slot=slot,
                incarnation=1,
                name=f"vllm-{slot}",
                address=f"10.{slot >> 16}.{slot >> 8 & 255}.{slot & 255}",
                port=8000,
                pools=(0,),
                ready=slot != without,
            )
            for slot in range(self.count)
        )
        rows = [
            LoadRow(
                slot=each.slot,
                incarnation=1,
                health=Health.FRESH,
                sampled_ns=now_ns,
                waiting=self.dice.random() * noise,
                running=8.0,
                kv_usage=0.5,
            )
            for each in endpoints
        ]
        topology = Topology(epoch=1, generation=self.generation, pools=(Pool(name="llama"),), endpoints=endpoints)
        load = Load.of(rows, epoch=1, topology_generation=self.generation, published_ns=now_ns)
        published = time.perf_counter()
        self.writer.publish_topology(topology, now_ns)
        self.writer.publish_load(load)
        return published


class Client:
    """One simulated Envoy: accepts whatever comes, and says when endpoints came."""

    def __init__(self, port, form, number):
        schema, self.delta = envoy_schema(), form == "delta"
        prefix = "envoy.service.discovery.v3.Delta" if self.delta else "envoy.service.discovery.v3."
        self.request = schema.message(f"{prefix}DiscoveryRequest")
        response = schema.message(f"{prefix}DiscoveryResponse")
        # A connection each: gRPC would share one among channels to the same place.
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
        self.call = self.channel.stream_stream(
            f"/envoy.service.discovery.v3.AggregatedDiscoveryService/{METHODS[form]}",
            request_serializer=self.request.SerializeToString,
            response_deserializer=response.FromString,
        )()
        self.node = {"id": f"envoy-{number}"}
        self.names = {Kind.ENDPOINTS.url: ["pool/llama"], Kind.ROUTES.url: ["routes"]}
        self.endpoints = asyncio.Queue()
        self.complete = asyncio.Event()
        self.received = self.bytes = 0

    async def run(self):
        for kind in (Kind.CLUSTER, Kind.ENDPOINTS, Kind.LISTENER, Kind.ROUTES):
            names = self.names.get(kind.url, [])
            field = "resource_names_subscribe" if self.delta else "resource_names"
            await self.call.write(self.request(node=self.node, type_url=kind.url, **{field: names}))
        seen = set()
        while True:
            response = await self.call.read()
            now = time.perf_counter()
            url = response.type_url
            self.received += 1
            self.bytes += response.ByteSize()
            seen.add(url)
            rest = {} if self.delta else {"resource_names": self.names.get(url, []), "version_info": response.version_info}
            await self.call.write(self.request(type_url=url, response_nonce=response.nonce, **rest))
            if url == Kind.ENDPOINTS.url:
                self.endpoints.put_nowait(now)
            if len(seen) == 4:
                self.complete.set()


def cpu_s(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK


def memory_mb(pid):
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


async def measure(form, clients, endpoints):
    """Return what one run measured."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        directory = Path(name)
        scraper = Scraper(directory, endpoints)
        scraper.publish()
        intent = directory / "intent.json"
        pool = {"name": "llama", "selector": {"app": "vllm"}}
        intent.write_text(json.dumps({"pools": [pool], "profile": "native", "listeners": [{"port": 0}]}))
        command = [sys.executable, "-m", "shunter.envoyconf", "serve", "-f", str(intent), "--snapshot", name]
        process = await asyncio.create_subprocess_exec(
            *command, "--port", "0", "--status-port", "0", stderr=asyncio.subprocess.PIPE
        )
        try:
            line = (await process.stderr.readline()).decode()
            port = int(line.split(":")[1].split(",")[0])
            return await _measure(form, clients, endpoints, scraper, port, process.pid)
        finally:
            process.terminate()
            await process.communicate()
            scraper.writer.close()


async def _measure(form, count, endpoints, scraper, port, pid):
    idle_mb, start_s, began = memory_mb(pid), cpu_s(pid), time.perf_counter()
    clients = [Client(port, form, number) for number in range(count)]
    tasks = [asyncio.create_task(client.run()) for client in clients]
    await asyncio.gather(*(client.complete.wait() for client in clients))
    result = {
        "form": form,
        "clients": count,
        "endpoints": endpoints,
        "all served, s": time.perf_counter() - began,
        "CPU of that, s": cpu_s(pid) - start_s,
        "memory without clients, MB": idle_mb,
        "memory, MB": memory_mb(pid),
    }
    for client in clients:
        client.endpoints = asyncio.Queue()
    first, last, start_s = [], [], cpu_s(pid)
    for number in range(CHANGES):
        published = scraper.publish(without=number)
        arrivals = sorted([await client.endpoints.get() for client in clients])
        first.append((arrivals[0] - published) * 1000)
        last.append((arrivals[-1] - published) * 1000)
        await asyncio.sleep(0.05)
    result |= {
        "first has a change, ms p50": statistics.median(first),
        "last has it, ms p50": statistics.median(last),
        "last has it, ms max": max(last),
        "CPU of a change, ms": (cpu_s(pid) - start_s) * 1000 / CHANGES,
    }
    received, start_s, began = sum(client.received for client in clients), cpu_s(pid), time.perf_counter()
    while time.perf_counter() - began < WEIGHTS_S:
        scraper.publish(noise=30.0)
        await asyncio.sleep(0.1)
    took_s = time.perf_counter() - began
    result |= {
        "weights 10 Hz: pushes/s to each": (sum(client.received for client in clients) - received) / count / took_s,
        "weights 10 Hz: CPU, % of a core": (cpu_s(pid) - start_s) / took_s * 100,
        "memory after, MB": memory_mb(pid),
    }
    for task, client in zip(tasks, clients, strict=True):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, grpc.aio.AioRpcError):
            await task
        client.call.cancel()
        await client.channel.close()
    return result


def table(results):
    """Return the results as Markdown."""
    lines = ["| | " + " | ".join(each["form"] for each in results) + " |", "|---|" + "---|" * len(results)]
    for key in list(results[0])[1:]:
        values = [f"{each[key]:.2f}" if key.endswith(", s") else f"{each[key]:,.0f}" for each in results]
        lines.append(f"| {key} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def main():
    """Measure and print, or put into a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--endpoints", type=int, default=1000)
    parser.add_argument("--form", choices=METHODS)
    parser.add_argument("--page", type=Path, help="put the table between the markers of this page")
    given = parser.parse_args()
    forms = [given.form] if given.form else list(METHODS)
    results = [asyncio.run(measure(form, given.clients, given.endpoints)) for form in forms]
    text = table(results)
    print(text)
    if given.page:
        page = given.page.read_text()
        before, rest = page.split(BEGIN)
        given.page.write_text(f"{before}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
