"""Keeps what a rollout has come to, so that whoever is killed goes on, and hears what people want of it.

It is kept in a directory, or in Kubernetes (``kube_store``).

For a rollout NAME there are ``NAME.json``, the record; ``NAME.wish``, what somebody wants and nobody has done yet, locked for
the moment that a change takes; and ``NAME.lock``, held by the process that is at it (the kernel lets go of it when that dies,
however it does).
"""

import contextlib
import fcntl
import os
import re
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import IO, Protocol

import msgspec

from shunter.rollout.core.machine import State, Wish
from shunter.rollout.core.spec import Rollout
from shunter.rollout.errors import ConfigError, StateError
from shunter.snapshot.locks import is_taken, take

__all__ = ["FileStore", "Record", "Store", "default_directory", "kept_names", "open_store", "replace_file"]

CONFIG_MAP = "configmap:"
NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # a DNS label


class Record(msgspec.Struct, frozen=True):
    """What is kept: what was asked for, and what has come of it."""

    rollout: Rollout
    state: State


class Store(Protocol):
    """Where one rollout is kept. Methods raise StateError."""

    name: str

    def load(self) -> Record | None:
        """Return the record; None if there is none."""
        ...

    def save(self, record: Record) -> None:
        """Keep a record: all of it or, whatever happens, the one before."""
        ...

    def wish(self) -> Wish:
        """Return what is wanted; what cannot be read is no wish."""
        ...

    def want(self, wish: Wish) -> None:
        """Say what is wanted."""
        ...

    def fulfil(self, wish: Wish) -> None:
        """Forget what is wanted, unless that is something else by now."""
        ...

    def held(self) -> bool:
        """Tell whether somebody is at it."""
        ...

    def at_it(self) -> AbstractContextManager[bool]:
        """Be the one who is at it while the block runs; yields whether nobody else was."""
        ...


class FileStore:
    """A rollout's files."""

    def __init__(self, directory: Path, name: str) -> None:
        self.name = name
        self._record = directory / f"{name}.json"
        self._wish = directory / f"{name}.wish"
        self._lock = directory / f"{name}.lock"
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StateError(f"{directory}: {error.strerror}; say where rollouts are kept with --state") from None

    def load(self) -> Record | None:
        """Return the record; None if there is none."""
        try:
            return msgspec.json.decode(self._record.read_bytes(), type=Record)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise StateError(f"{self._record}: not a rollout's record: {error}; without the file it begins anew") from None

    def save(self, record: Record) -> None:
        """Keep a record: all of it or, whatever happens, the one before."""
        replace_file(self._record, msgspec.json.format(msgspec.json.encode(record)))

    def wish(self) -> Wish:
        """Return what is wanted; what cannot be read is no wish."""
        with contextlib.suppress(OSError, ValueError), self._wish.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            return Wish(file.read())
        return Wish.RUN

    def want(self, wish: Wish) -> None:
        """Say what is wanted."""
        self._rewish(lambda _: wish)

    def fulfil(self, wish: Wish) -> None:
        """Forget what is wanted, unless that is something else by now."""
        self._rewish(lambda wanted: "" if wanted == wish else wanted)

    def _rewish(self, change: Callable[[str], str]) -> None:
        try:
            with self._wish.open("a+", errors="replace") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.seek(0)
                wanted = change(file.read())
                file.truncate(0)
                file.write(wanted)
        except OSError as error:
            raise StateError(f"{self._wish}: cannot be written: {error.strerror}") from None

    def held(self) -> bool:
        """Tell whether somebody is at it."""
        with self._opened() as file:
            return self._ask(is_taken, file)

    @contextmanager
    def at_it(self) -> Generator[bool]:
        """Be the one who is at it while the block runs; yields whether nobody else was."""
        with self._opened() as file:
            yield self._ask(take, file)

    def _opened(self) -> IO[str]:
        try:
            return self._lock.open("w")
        except OSError as error:
            raise StateError(f"{self._lock}: cannot be opened: {error.strerror}") from None

    def _ask(self, ask: Callable[[IO[str]], bool], file: IO[str]) -> bool:
        try:
            return ask(file)
        except OSError as error:  # as on a network's file system without locks
            raise StateError(
                f"{self._lock}: cannot be locked: {error.strerror}; keep rollouts elsewhere with --state"
            ) from None


def open_store(place: str | None, name: str) -> Store:
    """Return where a rollout is kept: in a directory, or in ``configmap:NAMESPACE``; raises StateError and ConfigError."""
    if namespace := _namespace(place):
        return _kubernetes().ConfigMapStore(namespace, name)
    return FileStore(Path(place) if place else default_directory(), name)


def kept_names(place: str | None) -> list[str]:
    """Return the names of all rollouts that are kept there; raises StateError and ConfigError."""
    if namespace := _namespace(place):
        return _kubernetes().config_map_names(namespace)
    return sorted(path.stem for path in (Path(place) if place else default_directory()).glob("*.json"))


def _namespace(place: str | None) -> str:
    """Return the namespace of ``configmap:NAMESPACE``, empty for a directory; raises ConfigError."""
    if not place or not place.startswith(CONFIG_MAP):
        return ""
    namespace = place.removeprefix(CONFIG_MAP)
    if not NAMESPACE.fullmatch(namespace):
        found = f"{namespace!r} is no name of a namespace" if namespace else "a namespace is missing"
        raise ConfigError(f"--state {place}: {found}: give for example {CONFIG_MAP}default")
    return namespace


def _kubernetes() -> ModuleType:
    try:
        return import_module("shunter.rollout.shell.kube_store")
    except ImportError as error:
        raise ConfigError(f"--state {CONFIG_MAP}…: for Kubernetes install shunter-rollout[kubernetes]: {error}") from None


def default_directory() -> Path:
    """Return where rollouts are kept unless somebody says where: it outlives a boot."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "shunter" / "rollouts"


def replace_file(path: Path, content: bytes) -> None:
    """Put content in a file's place, at once and durably; raises StateError."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise StateError(f"{path}: cannot be written: {error.strerror}") from None
