"""Writes what objects of ours are told about themselves into their status: by one scraper at a time, the leader."""

import asyncio
import logging
import os
import random
import socket
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from kubernetes.aio.client import ApiException, V1Lease
from kubernetes.aio.leaderelection.electionconfig import Config
from kubernetes.aio.leaderelection.leaderelection import LeaderElection
from kubernetes.aio.leaderelection.resourcelock.leaselock import LeaseLock

from shunter.scraper.core.complaints import Complaint, Place
from shunter.scraper.core.conditions import Judged, status_of
from shunter.scraper.core.patience import retry_s
from shunter.scraper.errors import ApiError
from shunter.scraper.shell.kube.api import Api

__all__ = ["LEASE", "Statuses"]

LEASE = "shunter-scraper"
# The numbers of Kubernetes' own controllers: another one leads so long after the leader was last heard of.
LEASE_S, RENEW_S, RETRY_S = 15, 10, 2

NOT_FOUND, CONFLICT = 404, 409
# An API server that starts again is away for about so many tries.
PATIENT = 6

log = logging.getLogger(__name__)


class _Lease(LeaseLock):
    """The library's, with two things mended.

    Up to 37.0.2 it cannot create a lease, since its own check refuses the argument ``pretty`` that it gives; and it says the
    same of a lease that somebody else holds and of one that we may not touch.
    """

    async def get(self, name: str, namespace: str) -> Any:
        """Look at the lease; raises ApiException unless it is there or is to be created."""
        found: Any = await super().get(name, namespace)
        if not found[0] and found[1].status != NOT_FOUND:
            raise found[1]
        return found

    async def create(self, name: str, namespace: str, election_record: Any) -> bool:
        """Create it; False if somebody else was faster; raises ApiException."""
        spec: Any = self.update_lease(election_record)
        body: Any = V1Lease.from_dict({"metadata": {"name": name}, "spec": spec.to_dict()})
        try:
            await self.api_instance.create_namespaced_lease(namespace, body)
        except ApiException as error:
            if _status(error) != CONFLICT:
                raise
            return False
        return True


def _status(error: Any) -> int:
    return error.status


class Statuses:
    """Says what is to be said, as soon as it is and as long as this scraper leads."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._judged: tuple[Judged, ...] = ()
        self._changed = asyncio.Event()
        self._said: dict[Place, tuple[str, int, Complaint]] = {}
        self._failed: dict[Place, str] = {}
        self._leading: asyncio.Task[None] | None = None
        self.identity = f"{socket.gethostname()}-{os.getpid()}-{random.getrandbits(32):08x}"

    def judge(self, judged: Iterable[Judged]) -> None:
        """Take what is to be said from now on, of every object that is told anything."""
        self._judged = tuple(judged)
        self._changed.set()

    async def run(self) -> None:
        """Compete for the lease, and write while it is ours, until cancelled."""
        failures = 0
        while True:
            lock: Any = _Lease(LEASE, self._api.namespace, self.identity, self._api.client)
            election: Any = LeaderElection(Config(lock, LEASE_S, RENEW_S, RETRY_S, self._lead, self._follow))
            try:
                await election.run()
                failures = 0
            except Exception as error:  # noqa: BLE001  the library lets through whatever its connection dies of
                failures += 1
                if failures == PATIENT:
                    words = f"HTTP {_status(error)}" if isinstance(error, ApiException) else str(error)
                    log.warning("no status is written: the lease %s/%s: %s", self._api.namespace, LEASE, words)
            finally:
                # The library's end of a leader that could not renew its lease in time, but not of one whose renewal failed.
                if self._leading:
                    self._leading.cancel()
            await asyncio.sleep(retry_s(failures or 1, random.random()))  # noqa: S311  jitter

    async def _lead(self) -> None:
        log.info("this scraper writes statuses (lease %s/%s)", self._api.namespace, LEASE)
        self._leading = asyncio.current_task()
        self._said.clear()
        failures = 0
        while True:
            self._changed.clear()
            if await self._write():
                failures = 0
                await self._changed.wait()
            else:
                failures += 1
                await asyncio.sleep(retry_s(failures, random.random()))  # noqa: S311  jitter

    async def _follow(self) -> None:
        log.info("another scraper writes statuses")

    async def _write(self) -> bool:
        """Say what has not been said; tell whether all of it could be."""
        said_before, self._said = self._said, {}
        failed_before, self._failed = self._failed, {}
        for judged in self._judged:
            place, said = (judged.resource.title, judged.key), (judged.uid, judged.generation, judged.complaint)
            if said_before.get(place) == said:
                self._said[place] = said
                continue
            status = status_of(judged, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
            try:
                if status:
                    await self._api.apply_status(f"{judged.resource.path(judged.key.namespace)}/{judged.key.name}", status)
                self._said[place] = said
            except ApiError as error:
                self._failed[place] = str(error)
                if failed_before.get(place) != str(error):
                    log.warning("the status of %s %s/%s: %s", judged.resource.title, *judged.key, error)
        return not self._failed
