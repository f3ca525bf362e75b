"""The model servers behind every benchmark: many addresses, one process, a recorded vLLM page, answers that cost nothing."""

import gzip
import json
import lzma
import urllib.request
from ipaddress import IPv4Address
from pathlib import Path

import msgspec
from hack.bench import streams
from hack.bench.processes import ROOT, Children
from hack.bench.programs import compiled

from shunter.conformance.shell.ports import free_ports

__all__ = ["Engines", "start"]

# vLLM under load, as recorded for the scraper's tests.
PAGE = ROOT / "packages/scraper/tests/data/vllm-under-load.txt.xz"

# All of 127.0.0.0/8 is this machine; engines.c counts on from the same address.
FIRST = IPv4Address("127.0.0.2")

# What prometheus_client's ASGI application compresses with when asked.
GZIP_LEVEL = 9


class Engines(msgspec.Struct, frozen=True):
    """Running model servers."""

    port: int
    addresses: list[str]
    pid: int

    @property
    def authorities(self) -> list[str]:
        return [f"{address}:{self.port}" for address in self.addresses]

    def scrapes(self) -> int:
        """How many metrics pages were served so far."""
        with urllib.request.urlopen(f"http://{self.authorities[0]}/tally", timeout=5) as response:
            return json.load(response)["scrapes"]


def start(children: Children, count: int, *, chunks: int = 0, interval_ms: int = 0) -> Engines:
    """Start model servers that answer a stream in so many chunks, so many ms apart."""
    page = lzma.decompress(PAGE.read_bytes())
    files = {
        "page": page,
        "page.gz": gzip.compress(page, GZIP_LEVEL),
        "answer": streams.ANSWER,
        "chunk": streams.CHUNK,
        "last-chunk": streams.LAST_CHUNK,
    }
    paths = [_write(children.directory / name, content) for name, content in files.items()]
    [port] = free_ports(1)
    pid = children.start("engines", [compiled("engines"), count, port, *paths, chunks, interval_ms])
    addresses = [str(FIRST + at) for at in range(count)]
    children.await_port(port, addresses[-1])
    return Engines(port, addresses, pid)


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
