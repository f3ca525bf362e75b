"""A real stack with clients and a Prometheus, in which something is broken, and everything that then tells of it."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, TypeVar

from hack.observability import prometheus
from hack.observability.prometheus import Prometheus

from shunter.picker.core.rules import rules
from shunter.stack.testing import Running, running_stack

__all__ = ["FASTER", "Scene", "running_scene"]

T = TypeVar("T")

# By how much the alerts' ranges and waits are shorter; what compares with hours ago has to be shortened more.
FASTER = 60
MUCH_FASTER = 360

# Silence of 30 s is an alert; of so much in a drill, and so that a busy machine's pauses are none.
SILENCE_S = 8

# On two busy cores everything takes its time.
DEADLINE_S = 120.0
POLL_S = 0.1


class Scene:
    """What a drill acts upon and looks at."""

    def __init__(self, stack: Running, server: Prometheus) -> None:
        self.stack = stack
        self.prometheus = server
        self._dice = random.Random()

    # -- what clients do

    def ask(self, prompt: str, request_id: str | None = None, headers: Mapping[str, str] | None = None, tokens: int = 8) -> str:
        """Ask once, in a trace of its own, and return the request's id."""
        request_id = request_id or f"drill-{self._dice.getrandbits(48):012x}"
        body = {
            "model": self.stack.state.plan.model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": tokens,
            "stream": True,
        }
        sent = {
            "x-request-id": request_id,
            "traceparent": f"00-{self._dice.getrandbits(128):032x}-{self._dice.getrandbits(64):016x}-01",
            **(headers or {}),
        }
        self.stack.chat(body, sent)
        return request_id

    def crowd(
        self, size: int, prompt: Callable[[], str], headers: Mapping[str, str] | None = None, tokens: int = 8
    ) -> contextlib.AbstractContextManager[None]:
        """Let so many clients ask one request after the other."""
        return self.stack.crowd(size, lambda: self.ask(prompt(), headers=headers, tokens=tokens))

    def words(self, count: int = 150) -> str:
        """Return a prompt that nobody has asked before."""
        return " ".join(f"{self._dice.getrandbits(24):06x}" for _ in range(count))

    # -- what is broken

    def break_engine(self, name: str, *faults: str) -> None:
        """Let a model server have these faults, and no others."""
        (engine,) = [each for each in self.stack.state.plan.engines if each.name == name]
        url = f"http://{engine.authority}/admin/faults"
        request = urllib.request.Request(url, json.dumps(faults).encode(), method="PUT")
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
            answer.read()

    @contextlib.contextmanager
    def throttled(self, name: str) -> Iterator[None]:
        """Let a process run for a tenth of the time."""
        pid, enough = self.stack.state.pids[name], threading.Event()

        def throttle() -> None:
            while not enough.wait(0.02):
                os.kill(pid, signal.SIGSTOP)
                enough.wait(0.18)
                os.kill(pid, signal.SIGCONT)

        thread = threading.Thread(target=throttle)
        thread.start()
        try:
            yield
        finally:
            enough.set()
            thread.join()

    @contextlib.contextmanager
    def stopped(self, *pids: int) -> Iterator[None]:
        """Let processes stand still."""
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    # -- what tells of it

    def state(self) -> dict[str, Any]:
        """What the page is told first."""
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.stack.state.plan.ports.admin}/events", timeout=DEADLINE_S
        ) as events:
            section = None
            for line in events:
                name, _, data = line.decode().rstrip("\n").partition(": ")
                if name == "event":
                    section = data
                elif name == "data" and section == "state":
                    return json.loads(data)
        raise AssertionError("the page said nothing")

    def findings(self) -> list[str]:
        """What the page says is wrong now, the gravest first; else that all is well."""
        verdict = self.state()["verdict"]
        return [finding["sentence"] for finding in verdict["findings"]] or [verdict["sentence"]]

    def await_finding(self, words: str) -> str:
        """Return the page's sentence with these words."""
        return self.await_that(lambda: next((each for each in self.findings() if words in each), ""), f"no page says {words}")

    def await_alert(self, name: str) -> str:
        """Return the summary of an alert that fires."""

        def fires() -> str:
            found = [each for each in self.prometheus.alerts() if each["labels"]["alertname"] == name]
            return next((each["annotations"]["summary"] for each in found if each["state"] == "firing"), "")

        return self.await_that(fires, f"{name} does not fire: {self.prometheus.alerts()}")

    def value(self, expression: str) -> float:
        """What a query of a single series answers; 0 as long as there is none."""
        found = self.prometheus.query(expression)
        return float(found[0]["value"][1]) if found else 0.0

    def figures(self, expression: str) -> list[str]:
        """What a query answers, a line for each series."""
        lines: list[str] = []
        for series in self.prometheus.query(expression):
            labels = ", ".join(f'{name}="{value}"' for name, value in series["metric"].items() if name not in HIDDEN)
            lines.append(f"{{{labels}}} {float(series['value'][1]):.4g}")
        return [expression, *sorted(lines)]

    def explain(self, *arguments: str) -> str:
        """What `shunter explain` prints."""
        command = [sys.executable, "-m", "shunter.stack.cli", "explain", "--name", self.stack.name, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.rstrip() if done.returncode == 0 else ""

    def await_trace(self, request_id: str) -> str:
        """The trace of a request, when model server, picker and gateway have sent their parts."""

        def whole() -> str:
            told = self.explain("--trace", request_id)
            return told if {"gateway.request", "ingress", "llm_request"} <= set(re.findall(r"[\w.]+", told)) else ""

        return self.await_that(whole, f"no whole trace of {request_id}")

    def access_line(self, request_id: str) -> dict[str, Any]:
        """What Envoy's access log has of a request."""
        path = self.stack.directory / "access.log"

        def find() -> dict[str, Any]:
            whole, _, _ = path.read_text().rpartition("\n")  # the last line may be half written
            return next(
                (line for line in map(json.loads, reversed(whole.splitlines())) if line["request_id"] == request_id), {}
            )

        return self.await_that(find, f"no line of {request_id} in the access log")

    def log(self, words: str) -> str:
        """The picker's last line with these words."""
        path = self.stack.directory / "logs" / "picker.log"

        def last() -> str:
            return next((line for line in reversed(path.read_text(errors="replace").splitlines()) if words in line), "")

        return self.await_that(last, f"the log says nothing of {words}")

    def await_that(self, ask: Callable[[], T], otherwise: str) -> T:
        """Return the first true answer."""
        deadline_s = time.monotonic() + DEADLINE_S
        while not (answer := ask()):
            assert time.monotonic() < deadline_s, f"{otherwise}; the page: {self.findings()}"
            time.sleep(POLL_S)
        return answer


# Of series: of which Prometheus, and which metric; the query says it.
HIDDEN = {"__name__", "job", "instance"}


def quick_rules() -> dict[str, Any]:
    """The rules as a drill has the patience for; the thresholds are the real ones but for the scraper's silence."""
    quick, quicker = (prometheus.hasten(rules(), factor)["groups"] for factor in (FASTER, MUCH_FASTER))
    return {
        "groups": [
            group | {"rules": [*map(_hurry, group["rules"], other["rules"])]}
            for group, other in zip(quick, quicker, strict=True)
        ]
    }


def _hurry(rule: dict[str, Any], quicker: dict[str, Any]) -> dict[str, Any]:
    match rule.get("alert"):
        case "PrefixHitsLost":
            return quicker
        case "SnapshotOld":
            return rule | {"expr": rule["expr"].replace("> 30", f"> {SILENCE_S}")}
        case _:
            return rule


@contextlib.contextmanager
def running_scene(*options: str) -> Generator[Scene]:
    """Run a stack with further ``options`` of `shunter up`; raises prometheus.Missing where there is no Prometheus."""
    prometheus.find("prometheus")
    with running_stack("--profile", "usage", "--speed", "4", "--traces", *options) as stack:
        ports = stack.state.plan.ports
        targets = {
            "picker": f"127.0.0.1:{ports.admin}",
            "scraper": f"127.0.0.1:{ports.scraper}",
            "envoy": f"127.0.0.1:{ports.envoy_admin}/stats/prometheus",
        }
        with prometheus.running_prometheus(targets, quick_rules()) as server:
            server.await_scrapes(1)
            yield Scene(stack, server)
