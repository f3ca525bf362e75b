"""The result of a benchmark: rows of medians, and a head that says where and with what they were measured."""

import os
import platform
import subprocess
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from statistics import median

import msgspec
from hack.bench.cases import Case

from shunter.envoyconf.shell.envoy import VERSION as ENVOY_VERSION

__all__ = ["Head", "Result", "Row", "Sample", "head", "read", "row", "write"]


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement of one subject."""

    picker_us_per_request: float
    envoy_us_per_request: float
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    longest_ms: float = 0.0
    rss_mb: float
    largest_mb: float
    per_second: float
    failures: int = 0


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """Medians over the rounds. CPU is the picker's, with all its processes; in an idle case ``request`` means scrape.

    Where nothing was measured the figures are null and ``reason`` says why.
    """

    case: str
    load: str  # what the case has in common with others
    subject: str
    rounds: int
    picker_us_per_request: float | None = None
    envoy_us_per_request: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    longest_ms: float | None = None
    rss_mb: float | None = None
    largest_mb: float | None = None  # the largest of the processes that rss_mb adds up
    failures: int | None = None  # in all rounds
    per_second: float | None = None
    picker_us_range: tuple[float, float] | None = None
    envoy_us_range: tuple[float, float] | None = None
    p99_ms_range: tuple[float, float] | None = None
    reason: str | None = None

    @property
    def total_us(self) -> float | None:
        """CPU of picker and Envoy together."""
        if self.picker_us_per_request is None or self.envoy_us_per_request is None:
            return None
        return self.picker_us_per_request + self.envoy_us_per_request


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """Where, when and with what. ``calibration_us``: the floor's 1 KB exchange in process, before and after."""

    date: str
    seconds: int
    cores: int
    cpu: str
    kernel: str
    python: str
    versions: dict[str, str]
    load_before: float
    calibration_us: tuple[float, float]
    rounds: int
    round_s: float


class Result(msgspec.Struct, frozen=True):
    """A whole run."""

    head: Head
    rows: list[Row]


def row(case: Case, subject: str, samples: list[Sample], reason: str | None = None) -> Row:
    """Fold the samples of all rounds."""
    if not samples:
        return Row(case=case.name, load=case.load.name, subject=subject, rounds=0, reason=reason or "nothing was measured")

    def values(name: str) -> list[float]:
        return [getattr(sample, name) for sample in samples]

    def middle(name: str) -> float:
        return round(median(values(name)), 3)

    def extremes(name: str) -> tuple[float, float]:
        return round(min(values(name)), 3), round(max(values(name)), 3)

    return Row(
        case=case.name,
        load=case.load.name,
        subject=subject,
        rounds=len(samples),
        picker_us_per_request=middle("picker_us_per_request"),
        envoy_us_per_request=middle("envoy_us_per_request"),
        p50_ms=middle("p50_ms"),
        p99_ms=middle("p99_ms"),
        longest_ms=middle("longest_ms"),
        rss_mb=middle("rss_mb"),
        largest_mb=middle("largest_mb"),
        failures=sum(sample.failures for sample in samples),
        per_second=middle("per_second"),
        picker_us_range=extremes("picker_us_per_request"),
        envoy_us_range=extremes("envoy_us_per_request"),
        p99_ms_range=extremes("p99_ms"),
        reason=reason,
    )


def head(
    begun: float, load_before: float, calibration_us: tuple[float, float], rounds: int, round_s: float, more: Mapping[str, str]
) -> Head:
    """Describe this machine and this minute. ``begun``: by the monotonic clock; ``more``: versions of what is not ours."""
    return Head(
        date=time.strftime("%Y-%m-%d"),
        seconds=round(time.monotonic() - begun),
        cores=len(os.sched_getaffinity(0)),
        cpu=_cpu(),
        kernel=platform.release(),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        versions={
            "shunter": version("shunter-picker"),
            "envoy": ENVOY_VERSION,
            "uvloop": version("uvloop"),
            "msgspec": version("msgspec"),
            "grpcio": version("grpcio"),
            "gcc": _first_line("gcc", "-dumpfullversion"),
            **more,
        },
        load_before=round(load_before, 2),
        calibration_us=calibration_us,
        rounds=rounds,
        round_s=round_s,
    )


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _first_line(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "none"


def write(path: Path, result: Result) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")


def read(path: Path) -> Result:
    return msgspec.json.decode(path.read_bytes(), type=Result)
