"""Our own programs in C, compiled when they are wanted."""

import functools
import json
import os
import shutil
import subprocess
from pathlib import Path

from hack.bench.processes import Trouble, Unavailable

from shunter.envoyconf.shell.envoy import tools_dir

__all__ = ["compiled", "run"]

SOURCES = Path(__file__).with_name("c")
COMPILER = ("gcc", "-O2", "-Wall", "-Wextra")


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
