"""How a model server is started as a process, as a value, and what a launcher is given to say so."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from shunter.conformance.errors import LaunchError
from shunter.conformance.sections.servers.target import Means
from shunter.conformance.shell.launching.readiness import GRACE_S
from shunter.conformance.shell.ports import free_ports

__all__ = ["HOST", "Launcher", "Recipe", "Site"]

HOST = "127.0.0.1"


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """One server as a process: how it is started, and what is then to be known about it.

    `environment` is added to ours. `engine` stands in the command line of the process that generates, where that is not the
    one that answers. The `version` may be known beforehand; else it is asked for at a path, and is a field of that answer.
    """

    command: tuple[str, ...]
    url: str
    profile: str
    environment: dict[str, str] = {}
    model: str = ""
    metrics_url: str = ""
    means: Means = Means()
    grace_s: float = GRACE_S
    engine: str = ""
    version: str = ""
    version_at: tuple[str, str] = ("/version", "version")


def _here(program: str) -> str:
    """A program that is named from here, by its path: the server runs elsewhere."""
    return os.path.abspath(program) if os.sep in program else program  # noqa: PTH100 – a link to an interpreter is an environment


class Site:
    """Where a server is to be started: an empty directory for its files, free ports, and where its programs are installed."""

    def __init__(self, directory: Path, *, python: str = "", program: str = "", arguments: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.python = _here(python) or sys.executable
        self.arguments = arguments
        self._named_python = bool(python)
        self._program = _here(program)
        self._ports: set[int] = set()

    def found(self, program: str) -> str:
        """Return the program that the examiner named, or that PATH has, or nothing: another interpreter was named instead."""
        return self._program or ("" if self._named_python else shutil.which(program) or "")

    def command(self, program: str, module: str) -> tuple[str, ...]:
        """Return how a command begins: with the program, else with the interpreter that has the module."""
        native = self.found(program)
        return (native,) if native else (self.python, "-m", module)

    def installed(self, distribution: str) -> str:
        """Return the version of a distribution that the interpreter has; raises LaunchError with the remedy if it has none."""
        asked = self.ask(f"import importlib.metadata as m; print(m.version({distribution!r}))")
        if not asked:
            raise LaunchError(
                f"no {distribution} for {self.python}: pip install it there, or say with --python or --bin where it is"
            )
        return asked[0]

    def ask(self, code: str) -> list[str]:
        """Return the lines that the interpreter prints, none if it cannot."""
        try:
            return subprocess.check_output([self.python, "-c", code], text=True, stderr=subprocess.DEVNULL).splitlines()  # noqa: S603 – the examiner's own interpreter
        except (OSError, subprocess.CalledProcessError):
            return []

    def path(self, command: tuple[str, ...]) -> dict[str, str]:
        """Return PATH with the directory of a program first, as in an activated virtual environment."""
        return {"PATH": os.pathsep.join([str(Path(command[0]).parent), os.environ.get("PATH", os.defpath)])}

    def port(self) -> int:
        """Return a free port that this site has not returned before."""
        while True:
            [port] = free_ports(1)
            if port not in self._ports:
                self._ports.add(port)
                return port


Launcher = Callable[[Site], Recipe]
"""Writes what its server needs into the site's directory, and says how to start it."""
