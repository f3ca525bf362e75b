"""The programs a benchmark needs: our own in C, compiled when they are wanted, and the reference picker, if it can be had."""

import functools
import json
import os
import shutil
import subprocess
from pathlib import Path

from hack.bench.processes import Trouble, Unavailable

from shunter.envoyconf.shell.envoy import tools_dir

__all__ = ["EPP_VERSION", "compiled", "reference_picker", "run"]

SOURCES = Path(__file__).with_name("c")
COMPILER = ("gcc", "-O2", "-Wall", "-Wextra")
EPP_VERSION = "v0.10.0"
EPP_MODULE = f"github.com/llm-d/llm-d-router/cmd/epp@{EPP_VERSION}"
BUILD_S = 3600  # 8 minutes of CPU


@functools.cache
def compiled(name: str) -> Path:
    """Return the program made of ``c/NAME.c``; raise Trouble where there is no gcc."""
    source, program = SOURCES / f"{name}.c", tools_dir() / "bench" / name
    if program.exists() and program.stat().st_mtime > source.stat().st_mtime:
        return program
    if shutil.which(COMPILER[0]) is None:
        raise Unavailable("there is no gcc; the load generators are C programs (Debian: apt install gcc)")
    program.parent.mkdir(parents=True, exist_ok=True)
    made = program.with_suffix(f".{os.getpid()}")  # another checkout may share the directory
    done = subprocess.run([*COMPILER, "-o", str(made), str(source)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Trouble(f"gcc does not compile {source}: {done.stderr[:400]}")
    return made.replace(program)


def run(name: str, *words: object, seconds: float) -> dict[str, float]:
    """Run one of our programs to its end and return what it reports."""
    command = [str(compiled(name)), *map(str, words)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 30)
    except subprocess.TimeoutExpired:
        raise Trouble(f"{name} hangs") from None
    if done.returncode:
        raise Trouble(f"{name}: {done.stderr.strip()[-400:]}")
    return json.loads(done.stdout)


@functools.cache
def reference_picker() -> Path:
    """Return llm-d-router's ``epp``: ``$EPP_BIN``, else one built by Go; raise Unavailable, which says how to get it."""
    if given := os.environ.get("EPP_BIN"):
        if not os.access(given, os.X_OK):
            raise Unavailable(f"EPP_BIN={given} is not an executable file")
        return Path(given)
    program = tools_dir() / "bench" / "epp"
    if program.exists():
        return program
    how = f"build {EPP_MODULE} with CGO_ENABLED=0 (a checkout of that tag will do: go build ./cmd/epp) and set EPP_BIN"
    if shutil.which("go") is None:
        raise Unavailable(f"no Go here; {how}")
    environment = {**os.environ, "CGO_ENABLED": "0", "GOBIN": str(program.parent)}
    try:
        done = subprocess.run(
            ["go", "install", EPP_MODULE], capture_output=True, text=True, check=False, timeout=BUILD_S, env=environment
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"go install takes more than {BUILD_S} s; {how}") from None
    if done.returncode or not program.exists():
        raise Unavailable(f"the module proxy used here does not serve it; {how}")
    return program
