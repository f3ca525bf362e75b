"""Who leads writes statuses: each object is told once, and nobody is told by two."""

import asyncio
import contextlib

import pytest

pytest.importorskip("kubernetes", reason="pip install 'shunter-scraper[kubernetes]'")

from kubernetes.aio.client import ApiException

from shunter.scraper.core.conditions import ACCEPTED, Judged
from shunter.scraper.core.manifests import Key
from shunter.scraper.core.resources import RESOURCES
from shunter.scraper.shell.kube import statuses
from shunter.scraper.shell.kube.api import RefusedError
from shunter.scraper.shell.kube.statuses import Statuses

OBJECTIVES = next(each for each in RESOURCES if each.plural == "inferenceobjectives")
PATIENCE_S = 30


def objective(name, uid="1"):
    return Judged(OBJECTIVES, Key("n", name), uid, 1, ACCEPTED, None)


class Api:
    """Takes statuses; those of names in ``refuses`` it refuses."""

    client, namespace = None, "n"

    def __init__(self):
        self.told, self.refuses = [], set()
        self.came = asyncio.Event()

    async def apply_status(self, path, body):
        await asyncio.sleep(0)
        name = body["metadata"]["name"]
        if name in self.refuses:
            raise RefusedError(403, f"{name} is forbidden")
        self.told.append(name)
        self.came.set()

    async def until(self, *names):
        async with asyncio.timeout(PATIENCE_S):
            while self.told != [*names]:
                self.came.clear()
                await self.came.wait()


class Lease:
    """A lease that is free; to look at it fails when it is lost, and has no answer after that."""

    def __init__(self):
        self.lost, self.asked = asyncio.Event(), asyncio.Event()

    def __call__(self, name, namespace, identity, _):
        self.name, self.namespace, self.identity = name, namespace, identity
        self.looks = 0
        return self

    async def get(self, name, namespace):
        self.looks += 1
        if self.lost.is_set():
            self.asked.set()
            await asyncio.Future()
        if self.looks == 2:
            await self.lost.wait()
            raise ApiException(500)
        return True, None

    async def update(self, name, namespace, record):
        return True


@pytest.fixture
async def leader(monkeypatch):
    lease, api = Lease(), Api()
    monkeypatch.setattr(statuses, "_Lease", lease)
    writer = Statuses(api)
    task = asyncio.ensure_future(writer.run())
    yield writer, api, lease
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_each_object_is_told_once(leader):
    writer, api, _ = leader
    writer.judge([objective("a")])
    await api.until("a")
    writer.judge([objective("a"), objective("b")])
    await api.until("a", "b")


async def test_an_object_that_is_made_again_is_told_again(leader):
    writer, api, _ = leader
    writer.judge([objective("a")])
    await api.until("a")
    writer.judge([objective("a", uid="2")])
    await api.until("a", "a")


async def test_whoever_cannot_look_at_its_lease_leads_no_more(leader):
    writer, api, lease = leader
    writer.judge([objective("a")])
    await api.until("a")
    lease.lost.set()
    async with asyncio.timeout(PATIENCE_S):
        await lease.asked.wait()
    writer.judge([objective("a"), objective("b")])
    for _ in range(100):
        await asyncio.sleep(0)
    assert api.told == ["a"]


async def test_what_cannot_be_told_is_tried_again_and_logged_once(leader, caplog, monkeypatch):
    monkeypatch.setattr(statuses, "retry_s", lambda *_: 0.0)
    writer, api, _ = leader
    api.refuses.add("a")
    writer.judge([objective("a"), objective("b")])
    await api.until("b")
    for _ in range(100):
        await asyncio.sleep(0)
    api.refuses.clear()
    await api.until("b", "a")
    assert caplog.text.count("a is forbidden") == 1
