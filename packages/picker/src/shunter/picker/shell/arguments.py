"""What a command line names, read: configurations, certificates, directories, and a running picker's pages."""

import os
import random
import time
from collections.abc import Callable, Iterable
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import click

from shunter.picker import config
from shunter.picker.config import Plan
from shunter.picker.core.fleet import Fleet, Roster
from shunter.picker.core.ledger import Ledger
from shunter.picker.core.precedents import read
from shunter.picker.core.retrial import Retrial, report, retry
from shunter.picker.errors import ConfigError, PickerError, blaming
from shunter.picker.transport.tls import Tls
from shunter.snapshot import SnapshotError, SnapshotReader, runtime_directory

__all__ = ["choose_runtime", "choose_tls", "hold_trial", "make_directory", "read_fleet", "read_valid", "source"]

# Decisions on which a configuration is tried, and how long their page may take.
TRIED = 1_000
FETCH_S = 30.0


def choose_tls(cert: Path | None, key: Path | None, client_ca: Path | None) -> Tls | None:
    """Return what two or three files of PEM amount to, if they are given."""
    if cert and key:
        return Tls(cert, key, client_ca)
    if cert or key or client_ca:
        raise click.UsageError("TLS needs both --tls-cert-file and --tls-key-file")
    return None


def choose_runtime(port: int) -> Path:
    """Return where workers share what they know, by the first port's number."""
    try:
        return runtime_directory(f"picker-{port or os.getpid()}")
    except SnapshotError as error:
        raise ConfigError(str(error)) from error


def read_fleet(snapshot: Path) -> Fleet:
    """Return the endpoints that are ready."""
    reader, now_ns = SnapshotReader(snapshot), time.monotonic_ns()
    try:
        view = reader.view(now_ns)
        if view is None:
            raise PickerError(f"{snapshot}: no snapshot there{f': {reader.trouble}' if reader.trouble else ''}")
        return Roster(Ledger()).fleet(view, now_ns)
    finally:
        reader.close()


def make_directory(path: Path) -> Path:
    """Return a directory that is there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--record-decisions {path}: {error.strerror}") from error
    return path


def read_valid(file: Path | None, text: str | None = None, builtin: str | None = None) -> tuple[str, Plan]:
    """Return a configuration that can be used, and what it amounts to; a complaint about one names its file."""
    text = source(file, text, builtin)()
    with blaming(file):
        plan = config.load(text)
        config.rehearse(plan)
    return text, plan


def hold_trial(plan: Plan, against: str | None, decisions: BinaryIO | None) -> list[str]:
    """Return what a configuration would change of what a running picker decided, or of what is in a file."""

    def decide(lines: Iterable[bytes], place: str, plan: Plan) -> Retrial:
        return retry(read(lines, f"{place}: line"), plan.policy, random.Random(0))  # noqa: S311  no secret

    told: list[str] = []
    if against is not None:
        page, in_force = (_fetch(f"{against.rstrip('/')}/debug/{name}") for name in (f"precedents?last={TRIED}", "config"))
        lines = page.splitlines()
        told += report(decide(lines, against, plan), decide(lines, against, config.load(in_force)))
    if decisions is not None:
        told += report(decide(decisions, decisions.name, plan))
    return told


def _fetch(url: str) -> bytes:
    """Return a page of a running picker."""
    if not url.startswith(("http://", "https://")):
        raise PickerError(f"{url}: give the admin pages as http://HOST:PORT")
    try:
        with urlopen(url, timeout=FETCH_S) as page:  # noqa: S310  the scheme has been looked at
            return page.read()
    except HTTPError as error:
        raise PickerError(f"{url}: {error.code} {error.read().decode(errors='replace').strip() or error.reason}") from error
    except (OSError, HTTPException) as error:
        raise PickerError(f"{url}: {error.reason if type(error) is URLError else error}") from error


def source(file: Path | None, text: str | None, builtin: str | None, default: str | None = None) -> Callable[[], str]:
    """Return how to read the configuration, again at every reload; ``default`` as in DEFAULT unless given."""
    if sum(given is not None for given in (file, text, builtin)) > 1:
        raise click.UsageError("a file, a text and a built-in configuration exclude each other; give one")

    def read() -> str:
        if file is not None:
            try:
                return file.read_text()
            except (OSError, UnicodeDecodeError) as error:
                raise ConfigError(f"{file}: {getattr(error, 'strerror', None) or error}") from error
        if builtin is not None:
            return config.read_builtin(builtin)
        if text is not None:
            return text
        return config.DEFAULT if default is None else default

    return read
