"""Follows everything of interest in some namespaces of a Kubernetes API.

Each resource of each namespace is listed and then watched on its own, so that one that is missing, forbidden or broken does not
hold up the others. What is known stays in force while the server is away.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence

from shunter.scraper.core.cluster import Cluster
from shunter.scraper.core.complaints import Complaint, Place
from shunter.scraper.core.conditions import judgements
from shunter.scraper.core.mirror import Mirror
from shunter.scraper.core.patience import MISSING_S, retry_s, watch_s
from shunter.scraper.core.reflection import Reflection, VersionGoneError
from shunter.scraper.core.resources import RESOURCES, RESOURCES_OF_SERVICES, Resource
from shunter.scraper.core.slices import SERVICE_LABEL, Service, Slice
from shunter.scraper.errors import ApiError
from shunter.scraper.shell.kube.api import Api, RefusedError
from shunter.scraper.shell.kube.statuses import Statuses
from shunter.scraper.shell.registry import Following

__all__ = ["Kubernetes"]

# Objects on one page of a list.
PAGE_OBJECTS = 500
# Changes come in bursts: a rollout, a relist. The first goes out at once; what comes within this time after it was made use of
# is one change more. So a storm of them takes no more than half of a core: 2,000 pods are gone through in 10 to 20 ms.
SETTLE_S = 0.02
# A watch that has told nothing and ended so soon has failed, whatever ended it.
SHORT_S = 1.0
# A server that starts answers 404 for resources that it has not read yet. Only after so long there are none.
ABSENT_S = 15.0
# What may not be read holds up the first snapshot for so long; whoever installs us applies rights and pods in any order.
GRACE_S = 10.0

NOT_FOUND = 404
# What to do about answers that are refusals.
REMEDIES = {
    401: "the token or certificate does not hold: see the kubeconfig, or the pod's service account",
    403: "`shunter scraper rbac` prints what must be allowed",
}

log = logging.getLogger(__name__)


class Kubernetes:
    """The objects of some namespaces, or of all (None), as a registry."""

    def __init__(
        self,
        api: Api,
        namespaces: Sequence[str | None],
        resources: Sequence[Resource] | None = None,
        *,
        services: Sequence[Service] = (),
        write_status: bool = False,
    ) -> None:
        """With ``services`` these are the pools, not InferencePools; the namespaces are named then."""
        self._api = api
        self._namespaces = tuple(namespaces)
        server = _Server(api.title)
        slices = {"labelSelector": f"{SERVICE_LABEL} in ({','.join(each.name for each in services)})"} if services else {}
        self._follows = [
            _Follow(Reflection(resource), resource.path(namespace), server, slices if resource.shape is Slice else {})
            for namespace in namespaces
            for resource in resources or (RESOURCES_OF_SERVICES if services else RESOURCES)
        ]
        self._reflections = [each.reflection for each in self._follows]
        homes = [(namespace, service) for namespace in namespaces if namespace for service in services]
        self._mirror = Mirror(self._reflections, homes)
        self._statuses = Statuses(api) if write_status else None
        self._complained: set[tuple[Place, Complaint]] = set()
        self._touched = asyncio.Event()
        self._known = asyncio.Event()
        self._told = False
        self._nowhere = False  # whether it was said that there is no pool

    @property
    def title(self) -> str:
        homes = ", ".join(name or "all namespaces" for name in self._namespaces)
        return f"{homes} of {self._api.title}"

    @property
    def following(self) -> Sequence[Following]:
        return [each.standing for each in self._follows]

    @property
    def complaints(self) -> Mapping[Place, Complaint]:
        return self._mirror.complaints

    def load(self) -> None:
        """Nothing is known before the lists are there."""

    async def run(self) -> None:
        """Follow every resource until cancelled."""
        async with asyncio.TaskGroup() as group:
            for each in self._follows:
                group.create_task(each.run(self._api, self._touched.set))
            if self._statuses:
                await self._known.wait()  # before, nobody could tell that a pool is not there
                group.create_task(self._statuses.run())

    async def changed(self) -> Cluster:
        """Wait for a change; at first until every resource has been listed, or is known to be missing.

        One that has been refused for a while is no longer waited for, if there is somebody without it: a snapshot without
        anybody would take away from readers whom they know of a former run.
        """
        clock = asyncio.get_running_loop().time
        while True:
            settled_s = clock() + SETTLE_S
            await self._touched.wait()
            await asyncio.sleep(settled_s - clock())
            self._touched.clear()
            if not all(each.known or each.given_up for each in self._follows):
                continue
            cluster, whole = self._mirror.cluster(), all(each.known for each in self._follows)
            if not (whole or cluster.members or self._told):
                continue
            self._told = True
            self._complain(nowhere=whole and not cluster.pools)
            if whole:
                self._known.set()
                if self._statuses:
                    self._statuses.judge(judgements(self._reflections, self._mirror.complaints))
            return cluster

    def _complain(self, *, nowhere: bool) -> None:
        """Log each complaint once, as long as it lasts, and that there is no pool at all."""
        if nowhere and not self._nowhere:
            known = any(each.listed for each in self._reflections if each.resource.plural == "inferencepools")
            why = "there is no InferencePool" if known else "the server has no InferencePools: their CRDs are not installed"
            log.warning("%s: %s; pools of another namespace: --namespace, a Service as a pool: --service", self.title, why)
        self._nowhere = nowhere
        complaints = set(self._mirror.complaints.items())
        for (title, key), complaint in sorted(complaints - self._complained):
            log.warning("%s %s/%s: %s", title, key.namespace, key.name, complaint.message)
        self._complained = complaints


class _Server:
    """Whether the API server as a whole answers, for the log: once when it no longer does, once when it does again."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._away: set[object] = set()

    def lost(self, who: object, reason: str) -> None:
        if not self._away:
            log.warning("%s does not answer: %s; what is known stays in force", self._title, reason)
        self._away.add(who)

    def found(self, who: object) -> None:
        if who in self._away:
            self._away.discard(who)
            if not self._away:
                log.info("%s answers again", self._title)


class _Follow:
    """One resource of one namespace, listed and watched as long as the scraper lives."""

    def __init__(self, reflection: Reflection, path: str, server: _Server, query: Mapping[str, str]) -> None:
        self.reflection = reflection
        self.known = False
        self._path = path
        self._query = query
        self._server = server
        self._failures = 0
        self._told = ""
        self._trouble = ""
        self._lists = self._watches = 0
        self._absent_since_s: float | None = None
        self._refused_since_s: float | None = None

    @property
    def standing(self) -> Following:
        return Following(
            resource=self.reflection.resource.title,
            place=self._path,
            known=self.known,
            trouble=self._trouble,
            relists=max(self._lists - 1, 0),
            restarts=max(self._watches - 1, 0),
        )

    @property
    def given_up(self) -> bool:
        """Whether it has been refused for so long that nobody waits for it."""
        since_s = self._refused_since_s
        return since_s is not None and asyncio.get_running_loop().time() - since_s >= GRACE_S

    async def run(self, api: Api, touched: Callable[[], None]) -> None:
        """List, watch, and begin again when either ends."""
        while True:
            try:
                if not self.reflection.version:
                    await self._list(api)
                    self.known = True
                    self._lists += 1
                    self._trouble, self._refused_since_s = "", None
                    touched()
                await self._watch(api, touched)
                wait_s = self._failed()
            except VersionGoneError:
                self.reflection.version = ""
                wait_s = self._failed()
            except RefusedError as error:
                wait_s = self._refused(error, touched)
            except ApiError as error:
                wait_s = self._failed()
                self._trouble = str(error)
                self._server.lost(self, str(error))
            await asyncio.sleep(wait_s)

    async def _list(self, api: Api) -> None:
        self.reflection.begin()
        token = self.reflection.take_page(await api.page(self._path, **self._query, limit=PAGE_OBJECTS))
        while token:
            more = {**self._query, "limit": PAGE_OBJECTS, "continue": token}
            token = self.reflection.take_page(await api.page(self._path, **more))

    async def _watch(self, api: Api, touched: Callable[[], None]) -> None:
        """Take what changes until the server ends the watch."""
        clock = asyncio.get_running_loop().time
        begun_s = clock()
        self._watches += 1
        try:
            async for line in api.lines(
                self._path,
                **self._query,
                watch=1,
                allowWatchBookmarks="true",
                resourceVersion=self.reflection.version,
                timeoutSeconds=watch_s(random.random()),  # noqa: S311  jitter
            ):
                self._recover()
                if line:
                    if self.reflection.take_line(line):
                        touched()
                    self._failures = 0
        finally:
            if clock() - begun_s > SHORT_S:
                self._failures = 0

    def _recover(self) -> None:
        """The server answers; whether it says anything of use is to be seen."""
        if self._told:
            log.info("%s: is read again", self._path)
        self._told, self._trouble, self._absent_since_s = "", "", None
        self._server.found(self)

    def _failed(self) -> float:
        """Return how long to wait after one failure more."""
        self._failures += 1
        return retry_s(self._failures, random.random())  # noqa: S311  jitter

    def _refused(self, error: RefusedError, touched: Callable[[], None]) -> float:
        """Return how long to wait after an answer that is none."""
        if error.status in REMEDIES:
            self._server.found(self)
            self._tell(logging.WARNING, f"{error}; {REMEDIES[error.status]}")
            self._refused_since_s = self._refused_since_s or asyncio.get_running_loop().time()
            if self.given_up and not self.known:
                touched()
            return self._failed()
        if error.status != NOT_FOUND or self.reflection.resource.required:
            self._trouble = str(error)
            self._server.lost(self, str(error))
            return self._failed()
        self._server.found(self)
        now_s = asyncio.get_running_loop().time()
        self._absent_since_s = self._absent_since_s or now_s
        if not self.reflection.listed or now_s - self._absent_since_s > ABSENT_S:
            self._tell(logging.INFO, f"there is no such resource (looked for again every {MISSING_S:g} s)")
            self.reflection.forget()
            self.known = True
            self._trouble = ""
            touched()
        return MISSING_S

    def _tell(self, level: int, words: str) -> None:
        """Log something once, until it is over or something else is wrong."""
        if words != self._told:
            log.log(level, "%s: %s", self._path, words)
        self._told = self._trouble = words
