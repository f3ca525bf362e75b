"""Where the drama takes place: model servers, a whole stack before them, and everything that is watched from outside."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from shunter.stack.testing import Running, running_stack

__all__ = ["WORKERS", "stage"]

WORKERS = 2
ENGINES = 3
ROOT = Path(__file__).parents[2]


@contextmanager
def _bytecode() -> Generator[None]:
    """Have modules compiled once, like those of installed packages, whatever this shell wants: half of a start is that."""
    with tempfile.TemporaryDirectory(prefix="shunter-bytecode-") as cache, patch.dict(os.environ, PYTHONPYCACHEPREFIX=cache):
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        yield


@contextmanager
def stage(profile: str, *options: str) -> Generator[Running]:
    """Run a stack of ``profile``, with further ``options``, and with cheap model servers."""
    command = [sys.executable, "-m", "hack.chaos.engines", str(ENGINES)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as engines:
        backends = [word for port in engines.stdout.readline().split() for word in ("--backend", f"http://127.0.0.1:{port}")]
        try:
            with _bytecode(), running_stack("--profile", profile, "--workers", str(WORKERS), *options, *backends) as stack:
                yield stack
        finally:
            engines.stdin.close()
