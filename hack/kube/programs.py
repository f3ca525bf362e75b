"""The programs that make containers: where they are, what they need around them, and waiting for them."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from shunter.envoyconf.shell.envoy import tools_dir

__all__ = ["Condition", "Missing", "await_that", "environment", "find"]

# Half a second on an idle machine; two minutes are for one with a test on every core.
START_TIMEOUT_S = 120
POLL_S = 0.05

Condition = Callable[[], bool]


class Missing(Exception):  # noqa: N818 # what is missing, not what went wrong
    """A program that is not here; the message says how to get it."""


def environment() -> dict[str, str]:
    """Return an environment that sees what `hack/kube/fetch` unpacked first."""
    unpacked = tools_dir() / "debian" / "usr"
    path = [str(unpacked / "sbin"), str(unpacked / "bin"), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"]
    return os.environ | {"PATH": os.pathsep.join(path), "LD_LIBRARY_PATH": str(unpacked / "lib" / "x86_64-linux-gnu")}


def find(name: str) -> Path:
    """Return a program of Debian's container packages, unpacked by `hack/kube/fetch` or installed."""
    found = shutil.which(name, path=environment()["PATH"])
    if found is None:
        raise Missing(f"no {name}: hack/kube/fetch unpacks Debian's packages into the tools directory, installing nothing")
    return Path(found)


def await_that(condition: Condition, otherwise: str) -> None:
    """Wait until it is so; AssertionError with these words if it is not in time."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(POLL_S)
