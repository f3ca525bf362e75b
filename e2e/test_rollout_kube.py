"""Rollouts on a real Kubernetes API: weights in a rewrite that the scraper follows there, and in somebody's HTTPRoute."""

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from threading import Barrier

import aiohttp
import pytest
from aiohttp import web
from msgspec.structs import replace

from shunter.envoyconf.testing_kube import find_crds, running_process
from shunter.lab.testing import lab_server
from shunter.rollout.core.machine import Wish, begin
from shunter.rollout.core.spec import Rollout, Side, Traffic
from shunter.rollout.errors import ConfigError, ServerError, StateError
from shunter.rollout.shell.store import Record
from shunter.stack.testing_kube import LLMD

pytest.importorskip("kubernetes", reason="pip install 'shunter-rollout[kubernetes]'")

GATEWAY = "gateway.networking.k8s.io"


@pytest.fixture
def api(admin, monkeypatch):
    """The official client, as its administrator's kubeconfig has it."""
    from shunter.rollout.shell import kube

    monkeypatch.setenv("KUBECONFIG", str(admin.kube.kubeconfig))
    return kube.connect()


def rewrites(home, name=""):
    return f"/apis/{LLMD}/v1alpha2/namespaces/{home}/inferencemodelrewrites{name and f'/{name}'}"


async def test_an_adapter_takes_over_by_a_rewrite_that_the_scraper_follows(admin, tmp_path, unused_tcp_port_factory):
    """Pods are lab servers at loopback addresses; nobody sends requests, so there is nothing to analyse."""
    home, port = admin.namespace("rollout"), unused_tcp_port_factory()
    admin.pool(home, ports=(port,))
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(lab_server(host=host, port=port, loras=["v1"], max_loras=2))
            for host in ("127.0.0.2", "127.0.0.3")
        ]
        for number, host in enumerate(("127.0.0.2", "127.0.0.3")):
            admin.pod(home, f"pod-{number}", host)
        kubeconfig = str(admin.kube.kubeconfig)
        picker, health, pages = (str(unused_tcp_port_factory()) for _ in range(3))
        for name, *arguments in (
            ("scraper", "--kubeconfig", kubeconfig, "--namespace", home, "--models-interval", "0.2"),
            ("picker", "--port", picker, "--health-port", health, "--admin-port", pages, "--workers", "1"),
        ):
            command = (sys.executable, "-m", f"shunter.{name}", "run", "--snapshot", str(tmp_path / "snapshot"), *arguments)
            stack.enter_context(running_process(tmp_path / f"{name}.log", command))
        (tmp_path / "rollout.yaml").write_text(f"""
kind: Rollout
name: review
model: review
from: {{model: v1, source: /a/v1}}
to: {{model: v2, source: /a/v2}}
pool: pool
traffic: {{rewrite: review, namespace: {home}}}
pickers: ["http://127.0.0.1:{pages}"]
steps: [10, 100]
pause: 0s
analysis: null
""")
        command = (
            sys.executable,
            "-m",
            "shunter.rollout",
            "start",
            "-f",
            tmp_path / "rollout.yaml",
            "--state",
            tmp_path / "state",
        )
        process = await asyncio.create_subprocess_exec(
            *map(str, command),
            env=os.environ | {"KUBECONFIG": kubeconfig},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode() + (tmp_path / "scraper.log").read_text()
        assert b"10 % v2" in output
        assert [set(server.models.adapters) for server in servers] == [{"v2"}] * 2
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{pages}/debug/fleet") as answer:
            (split,) = (await answer.json())["splits"]
    assert split["shares"] == [{"model": "v2", "wanted": 1.0, "requests": 0}]
    (rule,) = admin("GET", rewrites(home, "review"))["spec"]["rules"]
    assert rule["targets"] == [{"modelRewrite": "v2", "weight": 100}]


async def test_a_rewrite_is_applied_and_what_others_say_in_it_stays(admin, api):
    from shunter.rollout.shell.kube import RewriteResource

    home = admin.namespace("applied")
    rollout = Rollout(
        kind="Rollout",
        name="review",
        model="review",
        from_=Side(model="v1"),
        to=Side(model="v2"),
        pool="pool",
        traffic=Traffic(rewrite="review", namespace=home),
    )
    traffic = RewriteResource(rollout, api)
    await traffic.move(1)
    label = {"metadata": {"labels": {"team": "food"}}}
    admin("PATCH", rewrites(home, "review"), label, "application/merge-patch+json")
    await traffic.move(50)
    found = admin("GET", rewrites(home, "review"))
    assert found["metadata"]["labels"] == {"team": "food"}
    assert [target["weight"] for target in found["spec"]["rules"][0]["targets"]] == [50, 50]
    with pytest.raises(ServerError, match=r"HTTP 404.*nowhere"):
        await RewriteResource(replace(rollout, traffic=Traffic(rewrite="r", namespace="nowhere")), api).move(1)


@pytest.fixture
def route(admin):
    """Somebody's HTTPRoute with two pools in a rule; yields its namespace, its path, and the rules as they were."""
    (crd,) = find_crds("gw_httproutes")
    admin.kube.kubectl("apply", "--server-side", "-f", str(crd))
    admin.kube.kubectl("wait", "--for=condition=Established", "--timeout=60s", f"crd/httproutes.{GATEWAY}")
    home = admin.namespace("route")
    place = f"/apis/{GATEWAY}/v1/namespaces/{home}/httproutes"

    def backend(name, **weight):
        return {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": name, "port": 8000, **weight}

    matches = [{"path": {"type": "PathPrefix", "value": "/v1"}}]
    split = [backend("llama-v1", weight=100), backend("llama-v2", weight=0)]
    rules = [{"backendRefs": split, "matches": matches}, {"backendRefs": [backend("other")]}]
    body = {"apiVersion": f"{GATEWAY}/v1", "kind": "HTTPRoute", "metadata": {"name": "llm"}, "spec": {"rules": rules}}
    admin("POST", place, body)
    return home, f"{place}/llm", rules


async def test_weights_of_two_pools_are_changed_in_somebodys_route(admin, api, route):
    from shunter.rollout.shell.kube import HttpRoute

    home, place, rules = route
    rollout = Rollout(
        kind="Rollout",
        name="llama",
        from_=Side(pool="llama-v1"),
        to=Side(pool="llama-v2"),
        traffic=Traffic(http_route="llm", namespace=home),
    )
    traffic = HttpRoute(rollout, api)
    assert await traffic.share(()) == 0
    await traffic.move(10)
    assert await traffic.share(()) == 10
    changed, other = admin("GET", place)["spec"]["rules"]
    assert [each["weight"] for each in changed["backendRefs"]] == [90, 10]
    assert changed["matches"] == rules[0]["matches"]
    assert other["backendRefs"][0]["weight"] == 1
    stranger = replace(rollout, to=Side(pool="mistral"))
    with pytest.raises(ConfigError, match=f"no rule has both {home}/llama-v1 and {home}/mistral"):
        await HttpRoute(stranger, api).share(())


async def test_a_pool_takes_over_from_another_one(admin, route, tmp_path):
    """Its picker says who is ready; that one endpoint of the new pool is not yet holds nothing up, since the other is."""
    home, place, _ = route

    async def fleet(_):
        rows = [
            {"authority": f"10.0.0.{at}:8000", "ready": at != 3, "health": "fresh", "pools": [f"{home}/{pool}"]}
            for at, pool in enumerate(("llama-v1", "llama-v2", "llama-v2"), 1)
        ]
        return web.json_response({"snapshot_age_s": 0.1, "endpoints": rows})

    async def metrics(_):
        return web.Response()

    app = web.Application()
    app.add_routes([web.get("/debug/fleet", fleet), web.get("/metrics", metrics)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    (tmp_path / "rollout.yaml").write_text(f"""
kind: Rollout
name: llama
from: {{pool: llama-v1}}
to: {{pool: llama-v2}}
traffic: {{httpRoute: llm, namespace: {home}}}
pickers: ["http://127.0.0.1:{runner.addresses[0][1]}"]
steps: [10, 100]
pause: 0s
analysis: null
""")
    command = (sys.executable, "-m", "shunter.rollout", "start", "-f", tmp_path / "rollout.yaml", "--state", tmp_path / "state")
    process = await asyncio.create_subprocess_exec(
        *map(str, command), "--interval", "0.2", env=os.environ | {"KUBECONFIG": str(admin.kube.kubeconfig)}
    )
    assert await process.wait() == 0
    await runner.cleanup()
    assert [each["weight"] for each in admin("GET", place)["spec"]["rules"][0]["backendRefs"]] == [0, 100]


@pytest.fixture
def home(admin):
    return admin.namespace("kept")


@pytest.fixture
def kept(home, api):
    """Where a rollout is kept: a ConfigMap of a namespace of its own."""
    from shunter.rollout.shell.kube_store import ConfigMapStore

    return lambda: ConfigMapStore(home, "review")


@pytest.fixture
def record():
    sides = {"from_": Side(model="v1"), "to": Side(model="v2")}
    rollout = Rollout(kind="Rollout", name="review", model="review", traffic=Traffic(rewrite="review"), **sides)
    return Record(rollout, begin(rollout, 1.5))


def test_a_record_and_wishes_are_kept_in_a_configmap(kept, record):
    store = kept()
    assert (store.load(), store.wish(), store.held()) == (None, Wish.RUN, False)
    store.save(record)
    kept().want(Wish.PAUSE)
    assert (store.load(), store.wish()) == (record, Wish.PAUSE)
    store.save(record)
    assert kept().wish() is Wish.PAUSE, "a record does not put a wish aside"


def test_what_others_say_of_the_configmap_stays(admin, home, kept, record):
    store = kept()
    store.save(record)
    for verb in ("annotate", "label"):
        admin.kube.kubectl(verb, "-n", home, "configmap/rollout-review", "team=llm")
    store.want(Wish.PAUSE)
    told = admin("GET", f"/api/v1/namespaces/{home}/configmaps/rollout-review")["metadata"]
    assert told["annotations"] == {"team": "llm"}
    assert told["labels"] == {"team": "llm", "shunter.dev/rollout": "review"}


def test_one_is_at_it_until_he_has_been_silent_for_long(kept, record, monkeypatch):
    first, second = kept(), kept()
    with first.at_it() as alone:
        assert alone
        first.save(record)
        with second.at_it() as also:
            assert not also
        monkeypatch.setattr("shunter.rollout.shell.kube_store.HOLD_S", 0)
        with second.at_it() as instead:
            assert instead
            with pytest.raises(StateError, match="another process has gone on with review"):
                first.save(record)
    assert not second.held()


def test_who_has_no_record_yet_is_not_listed(kept, home, record):
    """Nor is who was refused before there was any."""
    from shunter.rollout.shell.kube_store import config_map_names

    with kept().at_it():
        assert config_map_names(home) == []
    assert config_map_names(home) == []
    kept().save(record)
    assert config_map_names(home) == ["review"]


def test_a_call_that_is_under_way_when_its_process_ends_changes_nothing_afterwards(kept, record):
    """It is made in a thread, which goes on: somebody else may be at it before it is refused and tries again."""
    first = kept()
    with first.at_it():
        first.save(record)
    with pytest.raises(StateError, match="another process has gone on with review"):
        first.save(record)
    with kept().at_it() as alone:
        assert alone
        with pytest.raises(StateError, match="another process has gone on with review"):
            first.save(record)


def test_of_those_who_begin_at_once_one_is_at_it(kept, record):
    """Each reads that nobody is, before any of them writes that it is."""
    many = 4
    at_once = Barrier(many)

    def begin(stack):
        store = kept()
        at_once.wait()
        return stack.enter_context(store.at_it())

    kept().save(record)
    with ThreadPoolExecutor(many) as pool, ExitStack() as stack:
        begun = pool.map(begin, [stack.enter_context(ExitStack()) for _ in range(many)])
        assert sorted(begun) == [False] * (many - 1) + [True]
        assert kept().held()
    assert not kept().held()


def test_a_wish_that_came_meanwhile_is_not_forgotten(kept):
    store = kept()
    store.want(Wish.RESUME)
    kept().want(Wish.ROLLBACK)
    store.fulfil(Wish.RESUME)
    assert store.wish() is Wish.ROLLBACK
    store.fulfil(Wish.ROLLBACK)
    assert store.wish() is Wish.RUN
