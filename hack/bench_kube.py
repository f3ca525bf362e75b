"""What following a Kubernetes API costs, and how long a change takes: many pods that change, on a real kube-apiserver.

Pods are made in as many namespaces as there are pools and told ready by hand, since there is no kubelet. Then pods lose and
get back their readiness at a steady rate. Counted are the milliseconds from the API server's answer to the request that changed
a pod until the picker's judge, which reads the snapshot as a worker does, answers otherwise a request that only this pod may
serve: refuses it, or sends it there. On the way stand a watch of our own, which is told when the scraper's is, and the time
that the snapshot has of its publication. CPU and memory are the scraper's alone (/proc). Scrapes are set to once a minute:
what they cost is measured by hack/bench_scrape.py. Nobody answers them here: the judge is shown endpoints that were never
scraped.
"""

import argparse
import contextlib
import http.client
import json
import os
import platform
import random
import re
import ssl
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from operator import itemgetter
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

from shunter.envoyconf.testing_kube import find_crds, running_kube, running_process
from shunter.picker import config
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.judgement import Ask, Outcome, Pick
from shunter.snapshot import Load, LoadRow, SnapshotReader, View

__all__ = ["main"]

POOLS, PODS, RATE, SECONDS = 50, 2000, 20.0, 20.0
# Requests come as often as the figures are fine.
LOOK_S = 0.001
PORT = 8000
HEADERS = {":method": "POST", ":path": "/v1/completions", "content-type": "application/json"}
BODY = b'{"model": "m", "prompt": "hello"}'
# Each endpoint is scraped once at the start; what is idle is counted after that, for so long.
FIRST_SCRAPES_S, IDLE_S = 3, 5
MAKERS = 8  # threads that make objects
STAGES = {
    "the API server's answer → its watches": itemgetter(0, 1),
    "→ the snapshot is published": itemgetter(1, 2),
    "→ another pick": itemgetter(2, 3),
}
GROUP = "inference.networking.k8s.io"
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
PATIENCE_S = 300


def address(number):
    return f"127.{10 + number // 62500}.{number // 250 % 250}.{number % 250 + 1}"


def connect(kube):
    config = json.loads(kube.kubeconfig.read_text())
    trust = ssl.create_default_context(cafile=config["clusters"][0]["cluster"]["certificate-authority"])
    connection = http.client.HTTPSConnection(urlsplit(kube.server).netloc, context=trust, timeout=60)
    return connection, config["users"][0]["user"]["token"]


class Client:
    """One kept-alive connection of the administrator."""

    def __init__(self, kube):
        self._connection, self._token = connect(kube)

    def __call__(self, method, path, body, kind="application/json"):
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": kind}
        self._connection.request(method, path, json.dumps(body), headers)
        answer = self._connection.getresponse()
        said = answer.read()
        if answer.status >= 300:
            raise RuntimeError(f"{method} {path}: {said.decode()}")

    def make_pool(self, number):
        home = f"ns-{number}"
        self("POST", "/api/v1/namespaces", {"metadata": {"name": home}})
        spec = {
            "selector": {"matchLabels": {"app": "model"}},
            "targetPorts": [{"number": PORT}],
            "endpointPickerRef": {"name": "epp", "port": {"number": 9002}},
        }
        body = {"apiVersion": f"{GROUP}/v1", "kind": "InferencePool", "metadata": {"name": "pool"}, "spec": spec}
        self("POST", f"/apis/{GROUP}/v1/namespaces/{home}/inferencepools", body)

    def make_pod(self, number, pools):
        home, name = f"ns-{number % pools}", f"pod-{number}"
        labels = {"app": "model", "pod-template-hash": "6d4b75cb6d", "app.kubernetes.io/name": "vllm"}
        container = {"name": "vllm", "image": "vllm", "env": [{"name": f"SETTING_{i}", "value": "x" * 40} for i in range(20)]}
        self(
            "POST",
            f"/api/v1/namespaces/{home}/pods",
            {"metadata": {"name": name, "labels": labels}, "spec": {"containers": [container]}},
        )
        self.tell(number, pools, ready=True)

    def tell(self, number, pools, *, ready):
        home, name = f"ns-{number % pools}", f"pod-{number}"
        ip = address(number)
        conditions = [{"type": "Ready", "status": str(ready)}]
        body = {"status": {"podIP": ip, "podIPs": [{"ip": ip}], "conditions": conditions}}
        self("PATCH", f"/api/v1/namespaces/{home}/pods/{name}/status", body, "application/strategic-merge-patch+json")


class Watch(threading.Thread):
    """Follows all pods, as a scraper does, and keeps when each was spoken of last."""

    def __init__(self, kube):
        super().__init__(daemon=True)
        self.told_s = {}
        connection, token = connect(kube)
        connection.request("GET", "/api/v1/pods?watch=1", headers={"Authorization": f"Bearer {token}"})
        self._answer = connection.getresponse()

    def run(self):
        with contextlib.suppress(OSError, http.client.HTTPException):
            for line in self._answer:
                self.told_s[int(re.search(rb'"name":"pod-([0-9]+)"', line)[1])] = time.monotonic()


def shared(kube, jobs):
    """Do jobs of the form (method name, arguments) by several connections."""
    local = threading.local()

    def do(job):
        if not hasattr(local, "client"):
            local.client = Client(kube)
        getattr(local.client, job[0])(*job[1:])

    with ThreadPoolExecutor(MAKERS) as pool:
        list(pool.map(do, jobs))


def usage(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    memory = next(line for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if line.startswith("Pss:"))
    return (int(fields[11]) + int(fields[12])) * TICK_S, int(memory.split()[1]) / 1024


class Picker:
    """The judge of a picker's worker, with what it is configured by default."""

    def __init__(self, directory):
        self._reader = SnapshotReader(directory)
        self._seen = self._shown = None
        self._judge = FleetJudge(config.load().policy, self._view, random.Random(7))

    def close(self):
        self._reader.close()

    def _view(self, now_ns):
        view = self._reader.view(now_ns)
        if view is not None and view is not self._seen:
            rows = [LoadRow(slot=each.slot, incarnation=each.incarnation) for each in view.topology.endpoints]
            epoch, generation = view.topology.epoch, view.topology.generation
            load = Load.of(rows, epoch=epoch, topology_generation=generation, published_ns=view.load.published_ns)
            self._seen, self._shown = view, View(view.topology, load)
        return self._shown

    @property
    def published_s(self):
        """When the snapshot that was looked at last was published."""
        return self._seen.load.published_ns / 1e9

    def endpoints(self):
        view = self._view(time.monotonic_ns())
        return len(view.topology.endpoints) if view else 0

    def sends(self, address):
        """Whether a request that only this endpoint may serve is sent there."""
        now_s = time.monotonic()
        answer = self._judge.decide(Ask(HEADERS, BODY, subset=(f"{address}:{PORT}",)), now_s)
        if isinstance(answer, Pick):
            self._judge.release(answer.ticket, Outcome(complete=True), now_s)
        return isinstance(answer, Pick)


def until(condition):
    """Look as often as the figures are fine."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError
        time.sleep(LOOK_S)


def measure(args, directory):
    with contextlib.ExitStack() as stack:
        kube = stack.enter_context(running_kube(find_crds("gie_")))
        shared(kube, [("make_pool", number) for number in range(args.pools)])
        shared(kube, [("make_pod", number, args.pools) for number in range(args.pods)])
        command = [str(Path(sys.executable).with_name("shunter")), "scraper", "run", "--all-namespaces"]
        command += ["--kubeconfig", str(kube.kubeconfig), "--snapshot", str(directory / "snapshot"), "--log-level", "error"]
        command += ["--interval-min-ms", "60000", "--interval-max-ms", "60000", "--models-interval", "0"]
        begun_s = time.monotonic()
        process = stack.enter_context(running_process(directory / "log", command))
        until((directory / "snapshot" / "topology.ring").exists)
        picker = stack.enter_context(contextlib.closing(Picker(directory / "snapshot")))
        until(lambda: picker.endpoints() == args.pods)
        first_s = time.monotonic() - begun_s
        time.sleep(FIRST_SCRAPES_S)
        idle_s, _ = usage(process.pid)
        time.sleep(IDLE_S)
        quiet_s, _ = usage(process.pid)
        watch = Watch(kube)
        watch.start()
        client, ways, begun_s = Client(kube), [], time.monotonic()
        changes = int(args.rate * args.seconds)
        for change in range(changes):
            delay_s = begun_s + change / args.rate - time.monotonic()
            time.sleep(max(delay_s, 0))  # until the next change is due
            number, ready = change // 2 % args.pods, bool(change % 2)
            former_s = watch.told_s.get(number)
            client.tell(number, args.pools, ready=ready)
            told_s = time.monotonic()
            until(lambda number=number, ready=ready: picker.sends(address(number)) is ready)
            picked_s, published_s = time.monotonic(), picker.published_s
            until(lambda number=number, former_s=former_s: watch.told_s.get(number) != former_s)
            ways.append((told_s, watch.told_s[number], published_s, picked_s))
        took_s = time.monotonic() - begun_s
        busy_s, memory_mb = usage(process.pid)
    waits_s = sorted(way[-1] - way[0] for way in ways)
    return {
        "stages": [sorted(later - earlier for earlier, later in map(pair, ways)) for pair in STAGES.values()],
        "first_s": first_s,
        "idle": (quiet_s - idle_s) / IDLE_S,
        "busy": (busy_s - quiet_s) / took_s,
        "rate": changes / took_s,
        "memory_mb": memory_mb,
        "p50_ms": median(waits_s) * 1000,
        "p99_ms": waits_s[int(len(waits_s) * 0.99)] * 1000,
        "max_ms": waits_s[-1] * 1000,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pools", type=int, default=POOLS)
    parser.add_argument("--pods", type=int, default=PODS)
    parser.add_argument("--rate", type=float, default=RATE, help="changes a second")
    parser.add_argument("--seconds", type=float, default=SECONDS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shunter-bench-kube-") as name:
        found = measure(args, Path(name))
    print(f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, Python {platform.python_version()}")
    print(f"{args.pools} pools, {args.pods:,} pods, {found['rate']:.1f} changes/s for {args.seconds:g} s\n")
    print("| from start to all endpoints | idle | while changing | memory (PSS) | change → pick p50 | p99 | max |")
    print("|---|---|---|---|---|---|---|")
    print(
        f"| {found['first_s']:.1f} s | {found['idle']:.3f} cores | {found['busy']:.3f} cores | {found['memory_mb']:.0f} MB "
        f"| {found['p50_ms']:.0f} ms | {found['p99_ms']:.0f} ms | {found['max_ms']:.0f} ms |"
    )
    print("\n| from a change to another pick | p50 | p99 |\n|---|---|---|")
    for title, times_s in zip(STAGES, found["stages"], strict=True):
        print(f"| {title} | {median(times_s) * 1000:.1f} ms | {times_s[int(len(times_s) * 0.99)] * 1000:.1f} ms |")


if __name__ == "__main__":
    main()
