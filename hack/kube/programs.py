"""The programs that make containers: where they are, and running them for as long as a block lasts."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from shunter.envoyconf.shell.envoy import tools_dir

__all__ = ["Missing", "await_that", "find", "running"]

# Half a second on an idle machine; two minutes are for one with a test on every core.
START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 30
POLL_S = 0.05


class Missing(Exception):  # noqa: N818 # what is missing, not what went wrong
    """A program that is not here; the message says how to get it."""


def _path() -> str:
    unpacked = tools_dir() / "debian" / "usr"
    return os.pathsep.join([str(unpacked / "sbin"), str(unpacked / "bin"), os.environ.get("PATH", ""), "/usr/sbin"])


def find(name: str) -> Path:
    """Return a program of Debian's container packages, unpacked by `hack/kube/fetch` or installed."""
    found = shutil.which(name, path=_path())
    if found is None:
        raise Missing(f"no {name}: hack/kube/fetch unpacks Debian's packages into the tools directory, installing nothing")
    return Path(found)


def await_that(condition: Callable[[], bool], otherwise: str) -> None:
    """Wait until it is so; AssertionError with these words if it is not in time."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(POLL_S)


@contextlib.contextmanager
def running(log: Path, command: Sequence[str | Path], *, executable: Path | None = None) -> Generator[subprocess.Popen[bytes]]:
    """Run a program until the block ends; it sees the unpacked packages first."""
    libraries = tools_dir() / "debian" / "usr" / "lib" / "x86_64-linux-gnu"
    environment = os.environ | {"PATH": _path(), "LD_LIBRARY_PATH": str(libraries)}
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, executable=executable, stdout=out, stderr=out, env=environment, start_new_session=True
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
