"""One measurement: everything started, warmed, loaded for some seconds, ended, and the CPU of each read off in between."""

import functools
import struct
import tempfile
import time
from pathlib import Path

import msgspec
from hack.bench import engines as model_servers
from hack.bench import gateway, streams
from hack.bench.cases import IDLE, Case, Load
from hack.bench.processes import Children, Trouble, cpu_s, rss_mb
from hack.bench.programs import run
from hack.bench.rows import Sample
from hack.bench.subjects import SUBJECTS, Picker

__all__ = ["QUICK", "THOROUGH", "Times", "measure"]

HEAD = (
    "POST /v1/chat/completions HTTP/1.1\r\nHost: gateway\r\nUser-Agent: OpenAI/Python 1.99.0\r\n"
    "Authorization: Bearer sk-abcdefghijklmnopqrstuvwxyz\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
)


class Times(msgspec.Struct, frozen=True):
    """Seconds of each part of a measurement."""

    load: float = 4.0
    warm: float = 1.0
    idle: float = 1.0  # what a picker takes without requests is not what requests cost
    settle: float = 0.3


THOROUGH = Times()
QUICK = Times(load=2.0, warm=0.5, idle=0.5)


def measure(case: Case, subject: str, times: Times) -> Sample:
    """Measure once; raise Trouble if it cannot be."""
    load = case.load
    with tempfile.TemporaryDirectory(prefix="shunter-bench-") as name, Children(Path(name)) as children:
        servers = model_servers.start(children, load.endpoints, chunks=load.chunks or 0, interval_ms=load.interval_ms)
        picker = SUBJECTS[subject](children, case, servers) if subject != "none" else None
        if load is IDLE:
            assert picker is not None
            return _idle(picker, servers, times)
        port, envoy = (0, None) if load.direct else gateway.start(children, servers, picker and picker.intent, case.profile)
        time.sleep(times.settle)
        roots = picker.roots if picker else ()
        idle_per_s = _rate(roots, times.idle) if picker else 0.0
        _send(case, picker, port, times.warm)
        picker_s, envoy_s = cpu_s(roots), cpu_s([envoy] if envoy else ())
        begin = time.monotonic()
        told = _send(case, picker, port, times.load)
        wall_s = time.monotonic() - begin
        picker_s = cpu_s(roots) - picker_s - idle_per_s * wall_s
        envoy_s = cpu_s([envoy] if envoy else ()) - envoy_s
        children.check()
        done = int(told["done"] if load.direct else told["ok"])
        if not done:
            raise Trouble("no request succeeded")
        memory = rss_mb(roots)
        return Sample(
            picker_us_per_request=picker_s / done * 1e6,
            envoy_us_per_request=envoy_s / done * 1e6,
            p50_ms=told["p50_ms"],
            p99_ms=told["p99_ms"],
            rss_mb=sum(memory),
            largest_mb=max(memory),
            per_second=done / told["seconds"],
            failures=int(told["failed"]),
        )


def _idle(picker: Picker, servers: model_servers.Engines, times: Times) -> Sample:
    """CPU per completed scrape: picker and scraper together."""
    roots = (*picker.roots, *picker.scrapers)
    time.sleep(times.warm + times.idle)  # the first scrapes find out what there is
    begin, used_s, scrapes = time.monotonic(), cpu_s(roots), servers.scrapes()
    time.sleep(times.load)
    wall_s, used_s, scrapes = time.monotonic() - begin, cpu_s(roots) - used_s, servers.scrapes() - scrapes
    if not scrapes:
        raise Trouble("nothing was scraped")
    memory = rss_mb(roots)
    return Sample(
        picker_us_per_request=used_s / scrapes * 1e6,
        envoy_us_per_request=0.0,
        p50_ms=0.0,
        p99_ms=0.0,
        rss_mb=sum(memory),
        largest_mb=max(memory),
        per_second=scrapes / wall_s,
    )


def _rate(roots: tuple[int, ...], seconds: float) -> float:
    begin, used_s = time.monotonic(), cpu_s(roots)
    time.sleep(seconds)
    return (cpu_s(roots) - used_s) / (time.monotonic() - begin)


def _send(case: Case, picker: Picker | None, port: int, seconds: float) -> dict[str, float]:
    load = case.load
    if load.direct:
        assert picker is not None
        ports = ",".join(map(str, picker.ports))
        return run("replay", ports, _recording(load, lean=case.profile != "full"), load.at_once, seconds, seconds=seconds)
    return run("load", port, _requests(load), load.at_once, load.rate, seconds, seconds=seconds)


@functools.cache
def _scratch() -> Path:
    """A directory that lasts as long as this process."""
    directory = tempfile.TemporaryDirectory(prefix="shunter-bench-")
    _kept.append(directory)
    return Path(directory.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []


@functools.cache
def _requests(load: Load) -> Path:
    path = _scratch() / f"requests-{load.prompt_bytes}-{load.chunks}"
    with path.open("wb") as file:
        for body in streams.prompts(load.prompt_bytes, load.prompts, stream=load.chunks is not None):
            request = HEAD.format(len(body)).encode() + body
            file.write(struct.pack("<I", len(request)) + request)
    return path


@functools.cache
def _recording(load: Load, *, lean: bool) -> Path:
    path = _scratch() / f"streams-{load.prompt_bytes}-{load.chunks}-{lean}"
    bodies = streams.prompts(load.prompt_bytes, load.prompts, stream=load.chunks is not None)
    with path.open("wb") as file:
        file.writelines(
            streams.write([streams.exchange(body, at, chunks=load.chunks, lean=lean) for at, body in enumerate(bodies)])
        )
    return path
