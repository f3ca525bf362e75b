"""One measurement: everything started, warmed, loaded for some seconds, ended, and the CPU of each read off in between."""

import functools
import struct
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
from hack.bench import engines as model_servers
from hack.bench import gateway, streams
from hack.bench.cases import IDLE, Case, Load
from hack.bench.processes import Children, Trouble, cpu_s, rss_mb
from hack.bench.programs import run
from hack.bench.rows import Sample
from hack.bench.subjects import SUBJECTS, Picker, Start

__all__ = ["QUICK", "THOROUGH", "Times", "measure"]

HEAD = (
    "POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nUser-Agent: OpenAI/Python 1.99.0\r\n"
    "Authorization: Bearer sk-abcdefghijklmnopqrstuvwxyz\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
)

BESIDE_PROMPTS = 2


class Times(msgspec.Struct, frozen=True):
    """Seconds of each part of a measurement."""

    load: float = 4.0
    warm: float = 1.0
    idle: float = 1.0  # what a picker takes without requests is not what requests cost; as long as a scrape of each endpoint
    settle: float = 0.3


THOROUGH = Times()
QUICK = Times(load=2.0, warm=0.5, idle=1.0)


def measure(case: Case, subject: str, times: Times, subjects: Mapping[str, Start] = SUBJECTS) -> Sample:
    """Measure once; raise Trouble if it cannot be. ``subject`` is a key of ``subjects``, or "none": Envoy's own choice."""
    load = case.load
    with tempfile.TemporaryDirectory(prefix="shunter-bench-") as name, Children(Path(name)) as children:
        servers = model_servers.start(children, load.endpoints, chunks=load.chunks or 0, interval_ms=load.interval_ms)
        picker = Picker(roots=()) if subject == "none" else subjects[subject](children, case, servers)
        if load is IDLE:
            return _idle(picker, servers, times)
        port, envoy = picker.front, ()
        if not (load.direct or port):
            port, *envoy = gateway.start(children, servers, picker if picker.profile == "native" or picker.ports else None)
        time.sleep(times.settle)  # connections and first scrapes belong to the start, not to the idle rate
        roots = (*picker.roots, *picker.scrapers) if case.everything else picker.roots
        idle_per_s = 0.0 if case.everything else _rate(roots, times.idle)
        _send(case, picker, port, times.warm)
        picker_s, envoy_s, begin = cpu_s(roots), cpu_s(envoy), time.monotonic()
        told = _send(case, picker, port, times.load)
        wall_s = time.monotonic() - begin
        picker_s = cpu_s(roots) - picker_s - idle_per_s * wall_s
        envoy_s = cpu_s(envoy) - envoy_s
        children.check()
        done = int(told["done"] if load.direct else told["ok"])
        if not done:
            raise Trouble("no request succeeded")
        if roots and picker_s <= 0.0:  # what it does by itself, it did less under load
            raise Trouble(f"it takes no more than without requests, which is {idle_per_s:.2f} of a core")
        return _sample(
            *(picker_s / done, envoy_s / done, done / told["seconds"]),
            roots=(*roots, *envoy) if case.everything else roots,
            p50_ms=told["p50_ms"],
            p99_ms=told["p99_ms"],
            longest_ms=told["longest_ms"],
            failures=int(told["failed"]),
        )


def _idle(picker: Picker, servers: model_servers.Engines, times: Times) -> Sample:
    """CPU per completed scrape: picker and scraper together."""
    roots = (*picker.roots, *picker.scrapers)
    time.sleep(times.warm + times.idle)  # the first scrapes find out what there is
    begin, used_s, scrapes = time.monotonic(), cpu_s(roots), servers.scrapes()
    time.sleep(times.load)  # idling is what is measured
    wall_s, used_s, scrapes = time.monotonic() - begin, cpu_s(roots) - used_s, servers.scrapes() - scrapes
    if not scrapes:
        raise Trouble("nothing was scraped")
    return _sample(used_s / scrapes, 0.0, scrapes / wall_s, roots=roots)


def _sample(picker_s: float, envoy_s: float, per_second: float, *, roots: Sequence[int], **fields: float) -> Sample:
    memory = rss_mb(roots)
    return Sample(
        picker_us_per_request=picker_s * 1e6,
        envoy_us_per_request=envoy_s * 1e6,
        per_second=per_second,
        rss_mb=sum(memory),
        largest_mb=max(memory),
        **fields,
    )


def _rate(roots: tuple[int, ...], seconds: float) -> float:
    begin, used_s = time.monotonic(), cpu_s(roots)
    time.sleep(seconds)  # as above: what is taken without requests
    return (cpu_s(roots) - used_s) / (time.monotonic() - begin)


def _send(case: Case, picker: Picker, port: int | None, seconds: float) -> dict[str, float]:
    load = case.load
    if not load.direct:
        return run("load", "127.0.0.1", port, _requests(load), load.at_once, load.rate, seconds, seconds=seconds)
    ports, lean = ",".join(map(str, picker.ports)), case.profile != "full"
    recording = _recording(load.prompt_bytes, load.prompts, load.chunks, lean=lean)
    with ThreadPoolExecutor(1) as pool:
        beside = None
        if load.beside_bytes:
            large = _recording(load.beside_bytes, BESIDE_PROMPTS, None, lean=lean)
            beside = pool.submit(run, "replay", ports, large, 1, seconds, seconds=seconds)
        told = run("replay", ports, recording, load.at_once, seconds, seconds=seconds)
        if beside is not None and not beside.result()["done"]:
            raise Trouble("no large request succeeded")
    return told


@functools.cache
def _scratch() -> tempfile.TemporaryDirectory[str]:
    """A directory that lasts as long as this process."""
    return tempfile.TemporaryDirectory(prefix="shunter-bench-")


@functools.cache
def _requests(load: Load) -> Path:
    path = Path(_scratch().name) / f"requests-{load.prompt_bytes}-{load.chunks}-{load.users}"
    with path.open("wb") as file:
        for body in streams.prompts(load.prompt_bytes, load.prompts, stream=load.chunks is not None, user=load.users):
            request = HEAD.format(len(body)).encode() + body
            file.write(struct.pack("<I", len(request)) + request)
    return path


@functools.cache
def _recording(prompt_bytes: int, prompts: int, chunks: int | None, *, lean: bool) -> Path:
    path = Path(_scratch().name) / f"streams-{prompt_bytes}-{chunks}-{lean}"
    bodies = streams.prompts(prompt_bytes, prompts, stream=chunks is not None)
    with path.open("wb") as file:
        file.writelines(streams.write([streams.exchange(body, chunks=chunks, lean=lean) for body in bodies]))
    return path
