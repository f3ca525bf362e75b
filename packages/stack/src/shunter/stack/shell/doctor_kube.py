"""Asks a Kubernetes API for what the doctor wants to know, and through it the pages of the parts in their pods.

Pods are reached by the API server's proxy (``pods/proxy``), as ``kubectl get --raw`` does: no port is forwarded.
"""

import asyncio
import email.utils
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from shunter.scraper.core.resources import RESOURCES
from shunter.scraper.errors import ApiError, ConfigError
from shunter.scraper.shell.kube.api import Api, RefusedError, connect
from shunter.stack.core.doctor import objects
from shunter.stack.core.doctor.facts import (
    PICKER_PAGES,
    SCRAPER_PAGES,
    Condition,
    KubeFacts,
    Page,
    PickerFacts,
    PoolFacts,
    Right,
    ScraperFacts,
    read_picker,
    read_scraper,
)
from shunter.stack.errors import StackError

__all__ = ["look"]

VERBS = ("list", "watch")
# The ports' names in our manifests, and the numbers that they have by default.
PICKER_PORT, SCRAPER_PORT = ("http-metrics", 9090), ("http-scraper", 9091)
# More than anybody has in a namespace where inference is served; the first of them are enough to know what is wrong.
MOST = 2000
POOL_VERSIONS = ("inference.networking.k8s.io/v1", "inference.networking.x-k8s.io/v1alpha2")
WITH_CONDITIONS = ("InferenceObjective", "InferenceModelRewrite")

Found = tuple[KubeFacts, tuple[PickerFacts, ...], tuple[ScraperFacts, ...]]
Shape = TypeVar("Shape")


class _Version(msgspec.Struct, rename="camel"):
    git_version: str = ""


async def look(
    kubeconfig: Path | None, context: str | None, namespaces: Sequence[str], account: str | None, *, parts: bool
) -> Found:
    """Return the facts of a cluster, and of its pickers and scrapers if ``parts``; raises StackError if nothing leads there."""
    try:
        async with connect(kubeconfig, context) as api:
            return await _Examiner(api, tuple(namespaces) or (api.namespace,)).look(account, parts=parts)
    except ConfigError as error:
        raise StackError(str(error)) from error


class _Examiner:
    """One cluster's."""

    def __init__(self, api: Api, namespaces: tuple[str, ...]) -> None:
        self._api = api
        self._namespaces = namespaces

    async def look(self, account: str | None, *, parts: bool) -> Found:
        asked_s = time.time()
        try:
            answer, headers = await self._api.get("/version")
            release = objects.decode(answer, _Version).git_version
        except (ApiError, ValueError) as error:
            return KubeFacts(server=self._api.title, trouble=str(error), namespaces=self._namespaces), (), ()
        resources = await self._resources()
        pools = await self._pools(resources)
        pods = await self._list("/api/v1", "pods", objects.PodList)
        services = await self._list("/api/v1", "services", objects.ServiceList)
        slices = await self._list("/apis/discovery.k8s.io/v1", "endpointslices", objects.SliceList)
        pickers = objects.behind(pools or (), services or (), pods or ())
        if account is None and pickers:
            account = f"{pickers[0].metadata.namespace}/{pickers[0].spec.service_account_name}"
        elif account and "/" not in account:
            account = f"{self._namespaces[0]}/{account}"
        facts = KubeFacts(
            server=self._api.title,
            version=release,
            namespaces=self._namespaces,
            resources=resources,
            skew_s=_skew_s(headers.get("Date", ""), asked_s),
            account=account or "",
            rights=await self._rights(account, resources) if account else None,
            pools=pools,
            pods=None if pods is None else tuple(map(objects.pod_facts, pods)),
            services=None if services is None else objects.service_facts(services, slices),
            conditions=await self._conditions(resources),
        )
        if not parts:
            return facts, (), ()
        judges = [read_picker(where, pages) for where, pages in await self._pages(pickers, PICKER_PORT, PICKER_PAGES)]
        senses = [read_scraper(where, pages) for where, pages in await self._pages(pickers, SCRAPER_PORT, SCRAPER_PAGES)]
        return facts, tuple(judges), tuple(senses)

    async def _resources(self) -> frozenset[str]:
        """Return which of the resources that are followed are served, as plural.group/version."""
        found: set[str] = set()
        for version in sorted({f"{each.group}/{each.version}" for each in RESOURCES if each.group}):
            try:
                plurals = objects.served((await self._api.get(f"/apis/{version}"))[0])
            except (ApiError, ValueError):
                continue  # there is none of it
            found |= {f"{plural}.{version}" for plural in plurals}
        return frozenset(found)

    async def _list(self, root: str, plural: str, shape: type[Any]) -> list[Any] | None:
        """Return the objects in all namespaces that are examined; None if one may not be asked."""
        found: list[Any] = []
        for namespace in self._namespaces:
            try:
                page = await self._api.page(f"{root}/namespaces/{namespace}/{plural}", limit=MOST)
                found += objects.decode(page, shape).items or ()
            except (ApiError, ValueError):
                return None
        return found

    async def _pools(self, resources: frozenset[str]) -> tuple[PoolFacts, ...] | None:
        """Return the InferencePools, of both versions if both are served."""
        pools: list[PoolFacts] = []
        for version in POOL_VERSIONS:
            if f"inferencepools.{version}" in resources:
                found = await self._list(f"/apis/{version}", "inferencepools", objects.PoolList)
                if found is None:
                    return None
                pools += map(objects.pool_facts, found)
        return tuple(pools)

    async def _rights(self, account: str, resources: frozenset[str]) -> tuple[Right, ...] | None:
        """Return what a service account may do of what it must; None if one may not ask."""
        home, _, name = account.partition("/")
        who = {
            "user": f"system:serviceaccount:{home}:{name}",
            "groups": ["system:serviceaccounts", f"system:serviceaccounts:{home}", "system:authenticated"],
        }
        there = [each for each in RESOURCES if not each.group or f"{each.plural}.{each.group}/{each.version}" in resources]
        rights: list[Right] = []
        for namespace, each, verb in ((one, each, verb) for one in self._namespaces for each in there for verb in VERBS):
            asked = {"namespace": namespace, "verb": verb, "group": each.group, "resource": each.plural}
            review = {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SubjectAccessReview",
                "spec": {**who, "resourceAttributes": asked},
            }
            try:
                said = await self._api.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
                rights.append(Right(f"{verb} {each.title} in {namespace}", objects.decode(said, objects.Review).status.allowed))
            except (ApiError, ValueError):
                return None
        return tuple(rights)

    async def _conditions(self, resources: frozenset[str]) -> dict[str, tuple[Condition, ...]]:
        found: dict[str, tuple[Condition, ...]] = {}
        for each in RESOURCES:
            if each.kind in WITH_CONDITIONS and f"{each.plural}.{each.group}/{each.version}" in resources:
                listed = await self._list(f"/apis/{each.group}/{each.version}", each.plural, objects.StatusList)
                found |= {f"{each.kind} {one.title}": tuple(one.status.conditions or ()) for one in listed or ()}
        return found

    async def _pages(
        self, pods: Sequence[objects.Pod], port: tuple[str, int], paths: Sequence[str]
    ) -> list[tuple[str, dict[str, Page]]]:
        """Return the pages of each pod, by where it is."""
        found: list[tuple[str, dict[str, Page]]] = []
        for pod in pods:
            named = [each.container_port for each in pod.ports if each.name == port[0]]
            number = named[0] if named else port[1]
            root = f"/api/v1/namespaces/{pod.metadata.namespace}/pods/{pod.metadata.name}:{number}/proxy"
            pages = await asyncio.gather(*(self._page(f"{root}{path}") for path in paths))
            found.append((f"{pod.title}:{number}", dict(zip(paths, pages, strict=True))))
        return found

    async def _page(self, path: str) -> Page:
        try:
            return Page(200, await self._api.page(path))
        except RefusedError as error:
            return Page(error.status, str(error).partition(": ")[2].encode())
        except ApiError as error:
            return Page(0, str(error).encode())


def _skew_s(date: str, asked_s: float) -> float | None:
    """Return how far a server's clock is ahead, by its Date header, which is in whole seconds."""
    try:
        return email.utils.parsedate_to_datetime(date).timestamp() - asked_s
    except ValueError:
        return None
