"""Keeps what a rollout has come to in a ConfigMap, so that it goes on wherever it is started again.

For a rollout NAME there is ``rollout-NAME`` with the keys ``record`` and ``wish``, and ``holder``: who is at it, and when
that was said last. Who is silent for long is dead, and somebody else may be at it; one who was only away finds another's name
there and stops. Every change names the version that it changes: of two at once one is refused (409) and looks again.
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import msgspec
from kubernetes import client

from shunter.rollout.core.machine import Wish
from shunter.rollout.errors import RefusedError, ServerError, StateError
from shunter.rollout.shell.kube import ANSWER_S, ask, configured
from shunter.rollout.shell.store import Record

__all__ = ["ConfigMapStore", "config_map_names"]

PREFIX, LABEL = "rollout-", "shunter.dev/rollout"
# Said anew every RENEW_S; who is silent for HOLD_S is taken for dead. A pod is started again within seconds.
RENEW_S, HOLD_S = 5.0, 20.0
NOT_FOUND, CONFLICT = 404, 409
# Whoever reads, changes and is refused tries again so often: a person's wish and a process's record meet seldom.
TRIES = 5

Answer = TypeVar("Answer")


class ConfigMapStore:
    """The ConfigMap of one rollout. Methods raise StateError, and ServerError while the API server does not answer."""

    def __init__(self, namespace: str, name: str) -> None:
        """Reach the API server; raises ConfigError if none is configured."""
        self.name = name
        self._namespace = namespace
        self._api: Any = client.CoreV1Api(configured())
        self._me = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(4).hex()}"
        self._renewed_s = 0.0
        self._holds = False

    def load(self) -> Record | None:
        """Return the record; None if there is none."""
        text = (self._read() or {}).get("record")
        try:
            return msgspec.json.decode(text, type=Record) if text else None
        except ValueError as error:
            raise StateError(f"ConfigMap {self._namespace}/{PREFIX}{self.name}: not a rollout's record: {error}") from None

    def save(self, record: Record) -> None:
        """Keep a record."""
        self._change(lambda data: data | {"record": msgspec.json.format(msgspec.json.encode(record)).decode()})

    def wish(self) -> Wish:
        """Return what is wanted, and say now and then that one is still at it; what cannot be read is no wish."""
        if self._holds and time.monotonic() - self._renewed_s >= RENEW_S:
            self._change(lambda data: data)
        with contextlib.suppress(StateError, ValueError):
            return Wish((self._read() or {}).get("wish", Wish.RUN))
        return Wish.RUN

    def want(self, wish: Wish) -> None:
        """Say what is wanted."""
        self._change(lambda data: data | {"wish": str(wish)})

    def fulfil(self, wish: Wish) -> None:
        """Forget what is wanted, unless that is something else by now."""
        self._change(lambda data: _without(data, "wish") if data.get("wish") == wish else None)

    def held(self) -> bool:
        """Tell whether somebody is at it."""
        return _is_held(self._read() or {})

    @contextmanager
    def at_it(self) -> Generator[bool]:
        """Be the one who is at it while the block runs; yields whether nobody else was.

        Afterwards this store changes nothing any more: a call that is still under way then, in a thread, finds no holder of its
        name, or the next one's, and raises StateError.
        """
        if not self._change(lambda data: None if _is_held(data) else data | self._holder()):
            yield False
            return
        self._holds = True
        try:
            yield True
        finally:
            with contextlib.suppress(StateError, ServerError):
                self._change(lambda data: _without(data, "holder"))

    def _holder(self) -> dict[str, str]:
        return {"holder": f"{self._me} {int(time.time())}"}

    def _change(self, change: Callable[[dict[str, str]], dict[str, str] | None]) -> bool:
        """Change what is there, in as many tries as it takes; tell whether ``change`` had a change to make of it."""
        for _ in range(TRIES):
            found = self._find()
            data: dict[str, str] = dict(found.data or {}) if found else {}
            if self._holds:
                if data.get("holder", "").partition(" ")[0] != self._me:
                    raise StateError(f"another process has gone on with {self.name}")
                data |= self._holder()
                self._renewed_s = time.monotonic()
            changed = change(data)
            if changed is None:
                return False
            name = PREFIX + self.name
            meta = found.metadata if found else client.V1ObjectMeta(name=name)
            meta.labels = {**(meta.labels or {}), LABEL: self.name}
            body = client.V1ConfigMap(metadata=meta, data=changed)
            call = self._api.replace_namespaced_config_map if found else self._api.create_namespaced_config_map
            place = (name, self._namespace) if found else (self._namespace,)
            if _asking(lambda call=call, place=place, body=body: call(*place, body, _request_timeout=ANSWER_S), CONFLICT):
                return True
        raise StateError(f"ConfigMap {self._namespace}/{PREFIX}{self.name}: others change it all the time")

    def _find(self) -> Any:
        name = PREFIX + self.name
        return _asking(
            lambda: self._api.read_namespaced_config_map(name, self._namespace, _request_timeout=ANSWER_S), NOT_FOUND
        )

    def _read(self) -> dict[str, str] | None:
        found = self._find()
        return found.data if found else None


def config_map_names(namespace: str) -> list[str]:
    """Return the names of all rollouts in a namespace; raises StateError and ServerError.

    One that has not looked yet has no record, nor has one that was refused when it did.
    """
    api: Any = client.CoreV1Api(configured())
    found: Any = _asking(
        lambda: api.list_namespaced_config_map(namespace, label_selector=LABEL, _request_timeout=ANSWER_S), NOT_FOUND
    )
    kept = (each.metadata.labels[LABEL] for each in found.items if "record" in (each.data or {})) if found else ()
    return sorted(kept)


def _is_held(data: Mapping[str, str]) -> bool:
    said_s = data.get("holder", "").rpartition(" ")[2]
    return said_s.isdecimal() and time.time() - int(said_s) < HOLD_S


def _without(data: Mapping[str, str], gone: str) -> dict[str, str]:
    return {key: value for key, value in data.items() if key != gone}


def _asking(call: Callable[[], Answer], pardoned: int) -> Answer | None:
    """Make a call; return None for a refusal with the status that is ``pardoned``; raises StateError and ServerError."""
    try:
        return ask(call)
    except RefusedError as error:
        if error.status == pardoned:
            return None
        raise StateError(str(error)) from None
