"""Processes of a benchmark: started together, ended together, and what they and their children take of CPU and memory."""

import contextlib
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

__all__ = ["ROOT", "Children", "Trouble", "Unavailable", "cpu_s", "rss_mb", "tree", "until"]

ROOT = Path(__file__).resolve().parents[2]
START_S = 60.0
STOP_S = 5.0
LAST_WORDS_BYTES = 400


class Trouble(Exception):  # noqa: N818  not an error: the row says why it is empty
    """A subject cannot be measured, for this reason."""


class Unavailable(Trouble):
    """Nor will it be later: it is not there."""


class Children(contextlib.AbstractContextManager["Children"]):
    """Processes that end with the context; each writes what it says into a file in ``directory``."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.processes: list[tuple[subprocess.Popen[bytes], Path]] = []

    def start(self, name: str, command: Sequence[object], environment: Mapping[str, str] | None = None) -> int:
        """Return the pid."""
        log = self.directory / f"{name}.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [str(word) for word in command],
                cwd=ROOT,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append((process, log))
        return process.pid

    def check(self) -> None:
        """Raise Trouble with the last words of one that is dead."""
        for process, log in self.processes:
            if process.poll() is not None:
                words = " ".join(log.read_text(errors="replace")[-LAST_WORDS_BYTES:].split())
                raise Trouble(f"{log.stem} ended with {process.returncode}: {words}")

    def await_port(self, port: int, host: str = "127.0.0.1") -> None:
        until(lambda: _listens(host, port), f"nobody listens on {host}:{port}", self)

    def await_page(self, url: str) -> None:
        until(lambda: _succeeds(url), f"{url} does not succeed", self)

    def __exit__(self, *_: object) -> None:
        for process, _log in self.processes:
            process.terminate()
        for process, _log in self.processes:
            try:
                process.wait(STOP_S)
            except subprocess.TimeoutExpired:
                for pid in tree([process.pid]):
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, 9)
                process.wait()


def until(condition, trouble: str, children: Children | None = None) -> None:
    """Poll; raise Trouble when it takes too long, or when a child dies over it."""
    deadline = time.monotonic() + START_S
    while not condition():
        if children is not None:
            children.check()
        if time.monotonic() > deadline:
            raise Trouble(f"{trouble} after {START_S:.0f} s")
        time.sleep(0.02)


def _listens(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), 1).close()
    except OSError:
        return False
    return True


def _succeeds(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as response:
            return response.status == 200
    except OSError:
        return False


def tree(roots: Iterable[int]) -> list[int]:
    """These processes and all that descend from them."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found: list[int] = []
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting += children.get(pid, ())
    return found


def cpu_s(roots: Iterable[int]) -> float:
    """CPU of processes and their descendants, in all threads, to the nanosecond.

    The kernel's CPU clock of a process (``man clock_getcpuclockid``): /proc counts in hundredths of a second, which at ten
    requests a second would be more than what is measured.
    """
    total = 0.0
    for pid in tree(roots):
        with contextlib.suppress(OSError):
            total += time.clock_gettime(~pid << 3 | 2)
    return total


def rss_mb(roots: Iterable[int]) -> list[float]:
    """Resident memory of each of these processes and their descendants; what they share counts in each."""
    found = [0.0]
    for pid in tree(roots):
        with contextlib.suppress(OSError, StopIteration):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            found.append(int(next(line for line in lines if line.startswith("VmRSS:")).split()[1]) / 1024)
    return found
