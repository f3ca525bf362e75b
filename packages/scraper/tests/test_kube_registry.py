"""What fails is tried less and less often, whatever it fails of, and what would help is said."""

import asyncio
import contextlib
import json

import pytest

pytest.importorskip("kubernetes", reason="pip install 'shunter-scraper[kubernetes]'")

from shunter.scraper.core.reflection import VersionGoneError
from shunter.scraper.core.resources import RESOURCES
from shunter.scraper.errors import ApiError
from shunter.scraper.shell.kube import registry
from shunter.scraper.shell.kube.api import RefusedError, connect
from shunter.scraper.shell.kube.registry import Kubernetes

PATIENCE_S = 30
PODS = RESOURCES[0]
POD = {"metadata": {"name": "a", "namespace": "n", "resourceVersion": "9"}}


def event(kind, item):
    return json.dumps({"type": kind, "object": item}).encode()


class Api:
    """A server without pods; each watch is the next of ``watches``: lines, and how it ends. The last one stays open."""

    title, namespace = "here", "n"

    def __init__(self, *watches):
        self.watches = list(watches)
        self.lists = 0
        self.done = asyncio.Event()

    async def page(self, path, **query):
        self.lists += 1
        return json.dumps({"metadata": {"resourceVersion": "5"}, "items": []}).encode()

    async def lines(self, path, **query):
        if not self.watches:
            self.done.set()
            await asyncio.Future()
        lines, end = self.watches.pop(0)
        for line in (b"", *lines):
            yield line
        if end is not None:
            raise end


@pytest.fixture
def failures(monkeypatch):
    """How many failures in a row there were when each wait began; nobody waits."""
    counted = []

    def retry_s(failures, _):
        counted.append(failures)
        return 0.0

    monkeypatch.setattr(registry, "retry_s", retry_s)
    return counted


async def follow(api):
    task = asyncio.ensure_future(Kubernetes(api, ["n"], [PODS]).run())
    async with asyncio.timeout(PATIENCE_S):
        await api.done.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("head", ["HTTP/1.1 503 Later", "HTTP/1.1 410 Gone"])
async def test_a_refusal_that_is_cut_is_a_failure_like_others(serve, tmp_path, head):
    """As of a server that ends while it answers: it must not end the scraper."""

    async def cut(writer):
        writer.write(f"{head}\r\nContent-Length: 100\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    server = await serve(cut)
    cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{server.port}"}}
    contexts = [{"name": "x", "context": {"cluster": "c", "user": "u"}}]
    users = [{"name": "u", "user": {"token": "t"}}]
    (tmp_path / "config").write_text(
        json.dumps({"current-context": "x", "contexts": contexts, "clusters": [cluster], "users": users})
    )
    async with connect(tmp_path / "config") as api:
        with pytest.raises(ApiError, match="the connection was cut"):
            await api.page("/api/v1/pods")


@pytest.mark.parametrize(
    ("watch", "lists"),
    [
        (((), None), 1),
        (((), ApiError("the connection was cut")), 1),
        (((), VersionGoneError("gone")), 5),
        (((event("ERROR", {"code": 410}),), None), 5),
        (((b"<html>",), None), 1),
    ],
)
async def test_waits_grow_while_watches_end_at_once(failures, watch, lists):
    api = Api(*[watch] * 4)
    await follow(api)
    assert failures == [1, 2, 3, 4]
    assert api.lists == lists


async def test_a_watch_that_tells_something_begins_the_count_anew(failures):
    nothing, something = ((), None), ((event("ADDED", POD),), None)
    await follow(Api(nothing, nothing, something, nothing))
    assert failures == [1, 2, 1, 2]


async def test_a_watch_that_lasted_begins_the_count_anew(failures, monkeypatch):
    monkeypatch.setattr(registry, "SHORT_S", -1.0)
    await follow(Api(*[((), None)] * 3))
    assert failures == [1, 1, 1]


class Refusing(Api):
    """Refuses the first list."""

    def __init__(self, status):
        super().__init__()
        self._status = status

    async def page(self, path, **query):
        body = await super().page(path, **query)
        if self.lists == 1:
            raise RefusedError(self._status, "no")
        return body


@pytest.mark.parametrize(
    ("status", "said", "unsaid"),
    [
        (401, "the token or certificate does not hold", "does not answer"),
        (403, "`shunter scraper rbac` prints what must be allowed", "does not answer"),
        (500, "here does not answer: HTTP 500: no", "rbac"),
    ],
)
async def test_a_refusal_is_told_with_its_remedy(failures, caplog, status, said, unsaid):
    await follow(Refusing(status))
    assert failures == [1]
    assert said in caplog.text
    assert unsaid not in caplog.text


class Forbidding(Api):
    """A server that has a pod and a pool of it, and refuses to list some resources."""

    def __init__(self, *forbidden):
        super().__init__()
        self.forbidden = set(forbidden)

    async def page(self, path, **query):
        plural = path.rpartition("/")[2]
        if plural in self.forbidden:
            raise RefusedError(403, f"{plural}: no")
        return json.dumps({"metadata": {"resourceVersion": "5"}, "items": ITEMS.get(path.partition("/n/")[0], [])}).encode()


META = {"name": "a", "namespace": "n", "labels": {"app": "a"}}
STATUS = {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}
SPEC = {"selector": {"matchLabels": {"app": "a"}}, "targetPorts": [{"number": 8000}]}
ITEMS = {
    "/api/v1/namespaces": [{"metadata": META, "status": STATUS}],
    "/apis/inference.networking.k8s.io/v1/namespaces": [{"metadata": META, "spec": SPEC}],
}


@pytest.fixture
async def following():
    """Follow a server: the registry, and what its ``changed`` will return."""
    tasks = []

    def follow(api, resources=RESOURCES):
        followed = Kubernetes(api, ["n"], resources)
        tasks.extend(asyncio.ensure_future(each) for each in (followed.run(), followed.changed()))
        return followed, tasks[-1]

    yield follow
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_is_forbidden_holds_up_the_rest_for_a_while_only(failures, monkeypatch, following, until):
    api = Forbidding("inferenceobjectives")
    followed, first = following(api)
    await until(lambda: len(failures) >= 10)
    assert not first.done()
    monkeypatch.setattr(registry, "GRACE_S", 0.0)
    async with asyncio.timeout(PATIENCE_S):
        cluster = await first
    assert [each.host for each in cluster.members] == ["10.0.0.1"]
    troubled = {each.resource: each.trouble for each in followed.following if each.trouble}
    assert set(troubled) == {"inferenceobjectives.llm-d.ai", "inferenceobjectives.inference.networking.x-k8s.io"}
    assert all("`shunter scraper rbac` prints" in words for words in troubled.values())
    api.forbidden.clear()
    async with asyncio.timeout(PATIENCE_S):
        await followed.changed()
    await until(lambda: all(each.known and not each.trouble for each in followed.following))


@pytest.mark.parametrize("plural", ["pods", "inferencepools"])
async def test_nobody_is_not_told_of_while_something_is_forbidden(failures, monkeypatch, following, until, plural):
    """A reader may know endpoints of a former run: an empty snapshot would take them away."""
    monkeypatch.setattr(registry, "GRACE_S", 0.0)
    api = Forbidding(plural)
    _, first = following(api)
    await until(lambda: len(failures) >= 20)
    assert not first.done()
    api.forbidden.clear()
    async with asyncio.timeout(PATIENCE_S):
        assert (await first).members


class Bare(Api):
    """A server without any pools; perhaps it does not even know what they are."""

    def __init__(self, *unknown):
        super().__init__()
        self._unknown = unknown

    async def page(self, path, **query):
        if path.rpartition("/")[2] in self._unknown:
            raise RefusedError(404, "the server could not find the requested resource")
        return await super().page(path, **query)


@pytest.mark.parametrize(
    ("unknown", "said"),
    [
        ((), "n of here: there is no InferencePool;"),
        (("inferencepools",), "n of here: the server has no InferencePools: their CRDs are not installed;"),
    ],
)
async def test_that_there_is_no_pool_at_all_is_said_once(following, caplog, unknown, said):
    followed, first = following(Bare(*unknown))
    async with asyncio.timeout(PATIENCE_S):
        assert not (await first).pools
        followed._touched.set()
        await followed.changed()
    assert caplog.text.count(said) == 1


class Telling(Forbidding):
    """A server whose pods' watch tells what is put into ``told``."""

    def __init__(self):
        super().__init__()
        self.told = asyncio.Queue()

    async def lines(self, path, **query):
        yield b""
        while path.endswith("/pods"):
            yield event("ADDED", {"metadata": META | {"name": await self.told.get()}, "status": STATUS})
        await asyncio.Future()


async def test_a_change_goes_out_at_once_and_what_follows_it_closely_together(monkeypatch, following, until):
    api, gate, held, real = Telling(), asyncio.Event(), [], asyncio.sleep
    followed, first = following(api)
    async with asyncio.timeout(PATIENCE_S):
        await first

    async def sleep(seconds):
        if seconds < PATIENCE_S:
            await real(seconds)
        else:
            held.append(seconds)
            await gate.wait()

    change, clock = asyncio.ensure_future(followed.changed()), asyncio.get_running_loop().time
    begun_s = clock()
    await until(lambda: clock() > begun_s + registry.SETTLE_S)
    monkeypatch.setattr(asyncio, "sleep", sleep)
    monkeypatch.setattr(registry, "SETTLE_S", 2 * PATIENCE_S)
    await api.told.put("b")
    async with asyncio.timeout(PATIENCE_S):
        assert len((await change).members) == 2
    assert not held
    change = asyncio.ensure_future(followed.changed())
    for name in "cd":
        await api.told.put(name)
    await until(lambda: held and api.told.empty())
    assert not change.done()
    gate.set()
    async with asyncio.timeout(PATIENCE_S):
        assert len((await change).members) == 4
