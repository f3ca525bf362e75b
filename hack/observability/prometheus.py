"""A real Prometheus and its promtool, for tests and drills: rules checked, unit-tested, and evaluated on what is scraped.

::

    with running_prometheus({"picker": [f"127.0.0.1:{port}"]}, rules=rules) as prometheus:
        prometheus.await_scrapes(3)
        prometheus.query("up")
        prometheus.alerts()

Both are Debian's (2.42), which `hack/observability/fetch` unpacks; others on PATH do as well.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from shunter.envoyconf.shell.envoy import tools_dir

__all__ = ["Missing", "Prometheus", "QueryError", "find", "hasten", "promtool", "running_prometheus"]

T = TypeVar("T")

# Starting takes a tenth of a second, a scrape some milliseconds; a machine with a test on every core takes its time.
DEADLINE_S = 60.0
POLL_S = 0.05

# As often as a test's patience wants it; a scrape that takes as long has failed, which a busy machine must not make of it.
INTERVAL = "500ms"

_RANGE = re.compile(r"(\[|offset )(\d+)([smhd])\b")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Missing(Exception):  # noqa: N818  what is missing, not what went wrong
    """A program that is not here; the message says how to get it."""


class QueryError(Exception):
    """Prometheus would not evaluate an expression; the message has its words."""


def find(name: str) -> Path:
    """Return ``prometheus``, ``promtool`` or ``dashboard-schema``: put there by `hack/observability/fetch`, or on PATH."""
    places = (str(tools_dir() / "debian" / "usr" / "bin"), str(tools_dir() / "bin"), os.environ.get("PATH", ""))
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        raise Missing(f"no {name}: hack/observability/fetch puts it into the tools directory, installing nothing")
    return Path(found)


def promtool(*arguments: str | Path) -> str:
    """Run promtool and return what it printed; AssertionError with that if it was not content."""
    done = subprocess.run([find("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def hasten(rules: Mapping[str, Any], factor: float) -> dict[str, Any]:
    """Return rules whose ranges, offsets and waits are so many times shorter: what takes an hour in production, in a test."""

    def shorter(amount: str, unit: str) -> str:
        return f"{max(round(int(amount) * _SECONDS[unit] * 1000 / factor), 1)}ms"

    def quick(rule: dict[str, Any]) -> dict[str, Any]:
        changed = rule | {"expr": _RANGE.sub(lambda found: found[1] + shorter(found[2], found[3]), rule["expr"])}
        return changed | {"for": shorter(rule["for"][:-1], rule["for"][-1])} if "for" in rule else changed

    return {"groups": [{"name": group["name"], "rules": [*map(quick, group["rules"])]} for group in rules["groups"]]}


class Prometheus:
    """One that runs: what it scraped, what its rules say."""

    def __init__(self, url: str, jobs: Mapping[str, int]) -> None:
        """``jobs`` says how many targets each has."""
        self.url = url
        self._jobs = jobs

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Evaluate an expression now; each series is ``{"metric": labels, "value": [time, text]}``."""
        return self._get("query", query=expression)["result"]

    def values(self, expression: str, label: str) -> dict[str, float]:
        """Return the values of an expression by a label of its series."""
        return {series["metric"].get(label, ""): float(series["value"][1]) for series in self.query(expression)}

    def names(self) -> set[str]:
        """Every name of a series that it has."""
        return set(self._get("label/__name__/values"))

    def rules(self) -> list[dict[str, Any]]:
        """Every rule as it stands, with ``health`` and ``lastError``."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def alerts(self) -> list[dict[str, Any]]:
        """Return the alerts that are pending or firing: labels, annotations, state, value."""
        return self._get("alerts")["alerts"]

    def await_scrapes(self, count: int) -> None:
        """Wait until every job's targets have been scraped so often, successfully."""
        for job, targets in self._jobs.items():
            often = f'sum_over_time(up{{job="{job}"}}[1h]) >= {count}'
            self.await_that(
                lambda often=often, targets=targets: len(self.query(often)) == targets,
                f"{job} was not scraped {count} times",
            )

    def await_that(self, condition: Callable[[], T], otherwise: str, deadline_s: float = DEADLINE_S) -> T:
        """Return the first true answer; AssertionError with these words if there is none in time."""
        deadline = time.monotonic() + deadline_s
        while not (answer := condition()):
            assert time.monotonic() < deadline, f"{otherwise}; its alerts: {self.alerts()}"
            time.sleep(POLL_S)
        return answer

    def _get(self, page: str, **query: str) -> Any:
        url = f"{self.url}/api/v1/{page}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=DEADLINE_S) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise QueryError(f"{query}: {json.load(error)['error']}") from error


@contextmanager
def running_prometheus(
    targets: Mapping[str, str | Sequence[str]], rules: Mapping[str, Any] | None = None, interval: str = INTERVAL
) -> Generator[Prometheus]:
    """Run one that scrapes ``targets`` and evaluates ``rules`` (as a rule file has them) until the end.

    Targets are by job: addresses, ``/metrics`` of each, or one with another path: ``127.0.0.1:9901/stats/prometheus``.
    """
    program = find("prometheus")
    with tempfile.TemporaryDirectory(prefix="shunter-prometheus-") as scratch:
        directory = Path(scratch)
        config = {
            "global": {"scrape_interval": interval, "scrape_timeout": interval, "evaluation_interval": interval},
            "rule_files": [str(directory / "rules.yaml")],
            "scrape_configs": [_job(job, addresses) for job, addresses in targets.items()],
        }
        (directory / "rules.yaml").write_bytes(msgspec.yaml.encode(rules or {"groups": []}))
        (directory / "prometheus.yaml").write_bytes(msgspec.yaml.encode(config))
        log = directory / "log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [
                    program,
                    f"--config.file={directory / 'prometheus.yaml'}",
                    f"--storage.tsdb.path={directory / 'data'}",
                    "--web.listen-address=127.0.0.1:0",
                ],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env={**os.environ, "GOMAXPROCS": "1"},
            )
        try:
            counts = {job: 1 if isinstance(each, str) else len(each) for job, each in targets.items()}
            yield Prometheus(_await_ready(process, log), counts)
        except BaseException as error:
            error.add_note(f"Prometheus printed:\n{log.read_text(errors='replace')}")
            raise
        finally:
            process.terminate()
            try:
                process.wait(DEADLINE_S)
            finally:
                process.kill()
                process.wait()


def _job(name: str, addresses: str | Sequence[str]) -> dict[str, Any]:
    if isinstance(addresses, str):
        address, _, path = addresses.partition("/")
        return {"job_name": name, "metrics_path": f"/{path or 'metrics'}", "static_configs": [{"targets": [address]}]}
    return {"job_name": name, "static_configs": [{"targets": [*addresses]}]}


def _await_ready(process: "subprocess.Popen[bytes]", log: Path) -> str:
    """Return its URL as soon as it serves."""
    deadline = time.monotonic() + DEADLINE_S
    while "Server is ready to receive web requests" not in (text := log.read_text(errors="replace")):
        assert process.poll() is None, f"Prometheus ended with {process.returncode}"
        assert time.monotonic() < deadline, "Prometheus is not ready"
        time.sleep(POLL_S)
    (port,) = set(re.findall(r'msg="Listening on" address=127\.0\.0\.1:(\d+)', text))
    return f"http://127.0.0.1:{port}"
