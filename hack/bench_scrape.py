"""What a scrape costs in CPU: the scraper beside the least that could be done, on the same recorded page, in turns.

The floor (hack/bench/floor/scrape.py) asks over kept-alive connections, receives into one buffer and reads three gauges where
they were; it checks nothing and tells nobody. The scraper is run as it is: files, timeouts, HTTP, all signals of the engine,
cadence, and the snapshot published. A server of its own answers both with a page of a real vLLM, whose numbers change. Counted
are its answers and the CPU of the subject alone (/proc/PID/stat); absolute figures belong to this machine and this minute.
"""

import argparse
import asyncio
import contextlib
import lzma
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import uvloop

__all__ = ["main"]

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    lzma.decompress((ROOT / f"packages/scraper/tests/data/{name}.txt.xz").read_bytes())
    for name in ("vllm-before", "vllm-under-load")
]
ENDPOINTS = 100
INTERVAL_MS = 50
ROUNDS = 5
ROUND_S = 3.0  # of wall time; the clock of /proc has ticks of 10 ms
WARM_S = 1.0
TICK_S = 1 / os.sysconf("SC_CLK_TCK")
ANSWERS = [
    b"HTTP/1.1 200 OK\r\ndate: Wed, 25 Nov 2026 10:00:00 GMT\r\nserver: uvicorn\r\ncontent-length: %d\r\n"
    b"content-type: text/plain; version=0.0.4; charset=utf-8\r\n\r\n%s" % (len(page), page)
    for page in PAGES
]


class Server(asyncio.Protocol):
    """Answers whatever is asked, and counts."""

    answered = 0

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, _data):
        Server.answered += 1
        self.transport.write(ANSWERS[Server.answered // ENDPOINTS % 2])


def cpu_s(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) * TICK_S


@contextlib.contextmanager
def started(subject, ports):
    with tempfile.TemporaryDirectory() as directory:
        if subject == "floor":
            words = ["-m", "hack.bench.floor.scrape", INTERVAL_MS, *[f"127.0.0.1:{port}" for port in ports]]
        else:
            path = Path(directory) / "endpoints.yaml"
            entries = [f"- {{name: e{port}, address: 127.0.0.1, port: {port}}}\n" for port in ports]
            path.write_text("defaultEngine: vllm\nendpoints:\n" + "".join(entries))
            words = ["-m", "shunter.scraper", "run", "--log-level", "error", "--endpoints", path]
            words += ["--snapshot", directory, "--interval-min-ms", INTERVAL_MS, "--interval-max-ms", INTERVAL_MS]
            words += ["--models-interval", 0]  # the floor does not ask for them
        process = subprocess.Popen([sys.executable, *map(str, words)], cwd=ROOT)
        try:
            yield process.pid
        finally:
            process.terminate()
            process.wait()


async def measure(subject, ports):
    """Return CPU µs per answer, and answers per second."""
    with started(subject, ports) as pid:
        while Server.answered < ENDPOINTS:  # noqa: ASYNC110  its start
            await asyncio.sleep(0.05)
        await asyncio.sleep(WARM_S)
        answered, cpu, begin = Server.answered, cpu_s(pid), time.monotonic()
        await asyncio.sleep(ROUND_S)
        answered, cpu, wall = Server.answered - answered, cpu_s(pid) - cpu, time.monotonic() - begin
    Server.answered = 0
    return cpu / answered * 1e6, answered / wall


async def compare(rounds):
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(Server, "127.0.0.1", 0) for _ in range(ENDPOINTS)]
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    found = [(await measure("floor", ports), await measure("shunter", ports)) for _ in range(rounds)]
    for at, subject in enumerate(("floor", "shunter")):
        costs = [each[at][0] for each in found]
        rate = median(each[at][1] for each in found)
        print(f"{subject:>8} {median(costs):>8.1f} ({min(costs):.1f} to {max(costs):.1f}) {rate:>8.0f}/s")
    print(f"{'ratio':>8} {median(ours[0] / floor[0] for floor, ours in found):>8.2f}")


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    print(f"Python {platform.python_version()}, uvloop {uvloop.__version__}; {ENDPOINTS} endpoints every {INTERVAL_MS} ms")
    print(f"CPU µs per scrape of a page of {len(PAGES[0])} bytes, median of {arguments.rounds} rounds, in turns\n")
    uvloop.run(compare(arguments.rounds))


if __name__ == "__main__":
    main()
