"""The scraper on a real Kubernetes API: what is there is followed, whatever happens to the server or to the right to read."""

import asyncio
import contextlib
import json
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from shunter.envoyconf.testing_kube import find_crds, running_process
from shunter.scraper.cli import main as scraper
from shunter.snapshot import SnapshotError, SnapshotReader
from shunter.stack.testing_kube import GIE, LLMD, relayed

pytest.importorskip("kubernetes", reason="pip install 'shunter-scraper[kubernetes]'")


PATIENCE_S = 60
# Between two looks at what tells nobody that it has changed: a snapshot of another process, an object of the API.
LOOK_S = 0.02


def hosts(cluster):
    return sorted(each.host for each in cluster.members)


async def test_pods_are_followed_as_they_come_change_and_go(admin, following):
    home = admin.namespace("follow")
    async with following(admin.kube.kubeconfig, home) as followed:
        await followed.until(lambda now: now.members == ())
        admin.pod(home, "a", "10.0.0.1")
        admin.pool(home, ports=(8000, 8001))
        cluster = await followed.until(lambda now: len(now.members) == 2)
        assert [(each.name, each.port) for each in cluster.members] == [("a-rank-0", 8000), ("a-rank-1", 8001)]
        admin.pod(home, "b", "fd00::2")
        await followed.until(lambda now: len(now.members) == 4)
        admin.ready(home, "a", "10.0.0.1", status="False")
        await followed.until(lambda now: hosts(now) == ["fd00::2", "fd00::2"])
        admin.delete(home, "b")
        await followed.until(lambda now: now.members == ())
        admin("DELETE", f"/apis/{GIE}/v1/namespaces/{home}/inferencepools/pool")
        await followed.until(lambda now: now.pools == ())


async def test_other_namespaces_are_followed_when_asked_for(admin, following):
    one, other = admin.namespace("here"), admin.namespace("there")
    for home in (one, other):
        admin.pool(home)
        admin.pod(home, "a", "10.0.0.1")
    async with following(admin.kube.kubeconfig, one) as followed:
        cluster = await followed.until(lambda now: now.members)
        assert {each.namespace for each in cluster.members} == {one}
    async with following(admin.kube.kubeconfig, None) as followed:
        cluster = await followed.until(lambda now: {one, other} <= {each.namespace for each in now.members})
        assert {cluster.pools[each.pools[0]].namespace == each.namespace for each in cluster.members} == {True}


async def test_more_pods_than_a_page_has_are_listed(admin, following, monkeypatch):
    monkeypatch.setattr("shunter.scraper.shell.kube.registry.PAGE_OBJECTS", 3)
    home = admin.namespace("pages")
    admin.pool(home)
    for number in range(8):
        admin.pod(home, f"p{number}", f"10.0.0.{number + 1}")
    async with following(admin.kube.kubeconfig, home) as followed:
        assert len((await followed.until(lambda now: True)).members) == 8


async def test_objects_that_belong_to_a_pool_are_followed(admin, following):
    home = admin.namespace("objects")
    admin.pool(home)
    async with following(admin.kube.kubeconfig, home) as followed:
        admin.objective(home)
        cluster = await followed.until(lambda now: now.objectives)
        assert [(each.name, each.priority) for each in cluster.objectives] == [("o", 7)]


async def test_a_server_that_dies_and_comes_back_loses_nobody(admin, following, heard, caplog):
    home = admin.namespace("killed")
    admin.pool(home)
    for number in range(3):
        admin.pod(home, f"p{number}", f"10.0.0.{number + 1}")
    async with following(admin.kube.kubeconfig, home) as followed:
        await followed.until(lambda now: len(now.members) == 3)
        told = len(followed.clusters)
        async with heard.when("answers again"):
            await asyncio.to_thread(admin.kube.kill_apiserver)
            await asyncio.to_thread(admin.kube.start_apiserver)
            await asyncio.to_thread(admin.pod, home, "p3", "10.0.0.4")
            await followed.until(lambda now: len(now.members) == 4)
        assert caplog.text.count("does not answer") == 1
        assert all(len(each.members) >= 3 and len(each.pools) == 1 for each in followed.clusters[told:])


async def test_a_watch_that_is_cut_goes_on_where_it_was(admin, following, tmp_path):
    home = admin.namespace("cut")
    admin.pool(home)
    admin.pod(home, "a", "10.0.0.1")
    kubeconfig = tmp_path / "relayed"
    async with (
        relayed(admin.kube.server, admin.kube.kubeconfig, kubeconfig) as relay,
        following(kubeconfig, home) as followed,
    ):
        await followed.until(lambda now: len(now.members) == 1)
        relay.shut()
        await asyncio.to_thread(admin.pod, home, "b", "10.0.0.2")
        relay.reopen()
        await followed.until(lambda now: len(now.members) == 2)
        assert all(now.members for now in followed.clusters[1:])


def compact(kube):
    """Make etcd forget all but the present, as it does every five minutes."""

    def call(path, body):
        request = urllib.request.Request(f"{kube.etcd}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    revision = call("/v3/kv/range", {"key": "Lw=="})["header"]["revision"]
    call("/v3/kv/compaction", {"revision": revision, "physical": True})


async def test_what_happened_while_history_was_forgotten_is_learnt_from_a_new_list(admin, following, tmp_path):
    home = admin.namespace("compacted")
    admin.pool(home)
    admin.pod(home, "a", "10.0.0.1")
    kubeconfig = tmp_path / "relayed"
    async with (
        relayed(admin.kube.server, admin.kube.kubeconfig, kubeconfig) as relay,
        following(kubeconfig, home) as followed,
    ):
        await followed.until(lambda now: len(now.members) == 1)
        told = len(followed.clusters)
        relay.shut()
        await asyncio.to_thread(admin.pod, home, "b", "10.0.0.2")
        await asyncio.to_thread(admin.delete, home, "a")
        await asyncio.to_thread(compact, admin.kube)
        await asyncio.to_thread(admin.kube.kill_apiserver)
        await asyncio.to_thread(admin.kube.start_apiserver)
        relay.reopen()
        await followed.until(lambda now: hosts(now) == ["10.0.0.2"])
        assert all(now.members for now in followed.clusters[told:])


async def test_definitions_may_go_and_come_back(admin, following):
    home = admin.namespace("crds")
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    plural = f"inferencepools.{GIE}"
    crds = [each for file in find_crds("gie_") for each in yaml.safe_load_all(file.read_text()) if each]
    definition = next(each for each in crds if each["metadata"]["name"] == plural)
    admin.pool(home)
    admin.pod(home, "a", "10.0.0.1")
    async with following(admin.kube.kubeconfig, home) as followed:
        await followed.until(lambda now: now.members)
        await asyncio.to_thread(admin, "DELETE", f"{path}/{plural}")
        await followed.until(lambda now: not now.pools)
        await asyncio.to_thread(recreate, admin, path, definition, home)
        await followed.until(lambda now: now.members)


def recreate(admin, path, definition, home):
    """Make a definition again, and a pool as soon as the server takes one."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            admin("POST", path, definition)
            break
        except RuntimeError:  # the former one is still being deleted
            if time.monotonic() > deadline:
                raise
    while True:
        try:
            return admin.pool(home)
        except (RuntimeError, ValueError):  # established a moment later
            if time.monotonic() > deadline:
                raise


@pytest.fixture
def account(admin, tmp_path):
    """A service account that may do what `shunter scraper rbac` says; its kubeconfig, and the manifests."""
    home = admin.namespace("account")
    path = admin.account(home, tmp_path / "account")
    printed = CliRunner().invoke(scraper, ["rbac", "--namespace", home, "--service-account-namespace", home])
    return home, path, list(yaml.safe_load_all(printed.output))


async def test_what_rbac_prints_is_enough_and_is_needed(admin, account, following, heard):
    home, kubeconfig, manifests = account
    admin.pool(home)
    admin.pod(home, "a", "10.0.0.1")
    async with following(kubeconfig, home) as followed:
        async with heard.when("`shunter scraper rbac` prints what must be allowed"):
            pass
        assert not followed.clusters
        await asyncio.to_thread(admin.kube.apply, manifests)
        await followed.until(lambda now: now.members)


async def test_a_right_that_is_withdrawn_takes_nobody_away(admin, account, following, heard):
    home, kubeconfig, manifests = account
    admin.pool(home)
    admin.pod(home, "a", "10.0.0.1")
    admin.kube.apply(manifests)
    roles = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{home}/rolebindings/shunter-scraper"
    async with following(kubeconfig, home) as followed:
        await followed.until(lambda now: now.members)
        told = len(followed.clusters)
        await asyncio.to_thread(admin, "DELETE", roles)
        async with heard.when("HTTP 403"):
            await asyncio.to_thread(admin.kube.kill_apiserver)
            await asyncio.to_thread(admin.kube.start_apiserver)
        await asyncio.to_thread(admin.kube.apply, manifests)
        await asyncio.to_thread(admin.pod, home, "b", "10.0.0.2")
        await followed.until(lambda now: len(now.members) == 2)
        assert all(now.members for now in followed.clusters[told:])


def test_the_command_publishes_what_the_api_has(admin, tmp_path):
    home = admin.namespace("command")
    admin.pool(home)
    admin.pod(home, "a", "127.0.0.1")
    directory = tmp_path / "snapshot"
    command = [Path(sys.executable).with_name("shunter"), "scraper", "run", "--snapshot", directory, "--namespace", home]
    command += ["--kubeconfig", admin.kube.kubeconfig]
    with running_process(tmp_path / "log", map(str, command)) as process:
        assert published(directory, 1) == ["a-rank-0"]
        admin.pod(home, "b", "127.0.0.2")
        assert published(directory, 2) == ["a-rank-0", "b-rank-0"]
    assert process.returncode == 0, (tmp_path / "log").read_text()


def published(directory, count):
    """Wait for a topology of so many endpoints, and return their names."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(SnapshotError), contextlib.closing(SnapshotReader(directory)) as reader:
            view = reader.view(time.monotonic_ns())
            if view and len(view.topology.endpoints) == count:
                return [each.name for each in view.topology.endpoints]
        time.sleep(LOOK_S)
    raise TimeoutError(directory)


def accepted(admin, home):
    """What the objective says of itself: status, reason and generation of its condition; None if it says nothing yet."""
    found = admin("GET", f"/apis/{LLMD}/v1alpha2/namespaces/{home}/inferenceobjectives/o").get("status", {})
    conditions = [each for each in found.get("conditions", []) if each["type"] == "Accepted"]
    return next(((each["status"], each["reason"], each.get("observedGeneration")) for each in conditions), None)


def becomes(admin, home, wanted):
    deadline = time.monotonic() + PATIENCE_S
    while (said := accepted(admin, home)) != wanted:
        if time.monotonic() > deadline:
            raise TimeoutError(said)
        time.sleep(LOOK_S)


async def test_an_objective_is_told_whether_it_counts_by_one_scraper_of_two(admin, account, following, heard):
    home, kubeconfig, _ = account
    printed = CliRunner().invoke(scraper, ["rbac", "--namespace", home, "--service-account-namespace", home, "--write-status"])
    admin.kube.apply(list(yaml.safe_load_all(printed.output)))
    path = f"/apis/{LLMD}/v1alpha2/namespaces/{home}/inferenceobjectives"
    admin.objective(home)
    async with following(kubeconfig, home, write_status=True), following(kubeconfig, home, write_status=True):
        await asyncio.to_thread(becomes, admin, home, ("False", "PoolNotFound", 1))
        await asyncio.to_thread(admin.pool, home)
        await asyncio.to_thread(becomes, admin, home, ("True", "Accepted", 1))
        await asyncio.to_thread(admin, "PATCH", f"{path}/o", {"spec": {"priority": 8}}, "application/merge-patch+json")
        await asyncio.to_thread(becomes, admin, home, ("True", "Accepted", 2))
        managers = admin("GET", f"{path}/o")["metadata"]["managedFields"]
        assert [each["manager"] for each in managers if each.get("subresource") == "status"] == ["shunter"]
        lease = admin("GET", f"/apis/coordination.k8s.io/v1/namespaces/{home}/leases/shunter-scraper")
        assert lease["spec"]["holderIdentity"]
