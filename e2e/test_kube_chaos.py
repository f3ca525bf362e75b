"""The scraper on a real Kubernetes API that is slow, refuses or storms; and Services as pools there."""

import asyncio
import json
import os
import random
from concurrent.futures import ThreadPoolExecutor

import yaml
from click.testing import CliRunner

from shunter.scraper.cli import main as scraper
from shunter.scraper.core.slices import Service
from shunter.scraper.shell.kube import registry
from shunter.stack.testing_kube import LLMD, MERGE, relayed

# As many as fit a fast run; `make test-kube` lets five hundred flap.
FLAPPING = 500 if os.environ.get("SHUNTER_EVERY_CLUSTER") else 60
FLAPS = 4
HANDS = 8  # threads that change pods


def hosts(cluster):
    return sorted(each.host for each in cluster.members)


def trouble(followed, resource):
    return {each.resource: each.trouble for each in followed.registry.following}[resource]


def rights(admin, home, *options):
    """What `shunter scraper rbac` prints for the account `shunter` of a namespace."""
    arguments = ["rbac", "--namespace", home, "--service-account-namespace", home, *options]
    return list(yaml.safe_load_all(CliRunner().invoke(scraper, arguments).output))


async def test_a_slow_server_is_followed_all_the_same(admin, following, tmp_path):
    home = admin.namespace("slow")
    admin.pool(home)
    admin.pod(home, "a", "10.0.0.1")
    kubeconfig = tmp_path / "slow"
    async with (
        relayed(admin.kube.server, admin.kube.kubeconfig, kubeconfig, delay_s=0.3),
        following(kubeconfig, home) as followed,
    ):
        await followed.until(lambda now: len(now.members) == 1)
        told = len(followed.clusters)
        for number in range(2, 6):
            await asyncio.to_thread(admin.pod, home, f"p{number}", f"10.0.0.{number}")
        await followed.until(lambda now: len(now.members) == 5)
        assert all(now.members for now in followed.clusters[told:])
        assert sum(each.relists for each in followed.registry.following) == 0


async def cut_until(condition, relay):
    """The API server believes a token that it has seen for some seconds more, and a watch that it has begun for ever."""
    async with asyncio.timeout(60):
        while not condition():
            relay.cut()
            await asyncio.sleep(1)


async def test_a_token_that_is_revoked_takes_nobody_away_and_one_in_its_place_goes_on(admin, following, heard, tmp_path):
    home = admin.namespace("revoked")
    admin.pool(home)
    admin.pod(home, "a", "10.0.0.1")
    account, kubeconfig = admin.account(home, tmp_path / "account"), tmp_path / "relayed"
    admin.kube.apply(rights(admin, home))
    async with relayed(admin.kube.server, account, kubeconfig) as relay, following(kubeconfig, home) as followed:
        await followed.until(lambda now: now.members)
        async with heard.when("HTTP 401: Unauthorized; the token or certificate does not hold"):
            await asyncio.to_thread(admin, "DELETE", f"/api/v1/namespaces/{home}/serviceaccounts/shunter")
            await cut_until(lambda: "HTTP 401" in trouble(followed, "pods"), relay)
        await asyncio.to_thread(admin.pod, home, "b", "10.0.0.2")
        assert hosts(followed.clusters[-1]) == ["10.0.0.1"]
        users = json.loads((await asyncio.to_thread(admin.account, home, tmp_path / "renewed")).read_text())["users"]
        kubeconfig.write_text(json.dumps(json.loads(kubeconfig.read_text()) | {"users": users}))
        await followed.until(lambda now: hosts(now) == ["10.0.0.1", "10.0.0.2"])


async def test_pods_that_flap_are_followed_to_where_they_end(admin, following):
    home = admin.namespace("flapping")
    admin.pool(home)
    admin.pool(home, "calm")
    for number in range(3):
        admin.pod(home, f"calm{number}", f"10.1.0.{number + 1}", app="calm")
    pods = {f"p{number}": f"10.0.{number // 200}.{number % 200 + 1}" for number in range(FLAPPING)}
    dice = random.Random(7)
    ends = {name: dice.choice(("True", "False")) for name in pods}

    def flap(name):
        for turn in range(FLAPS):
            admin.ready(home, name, pods[name], ("True", "False")[turn % 2])
        admin.ready(home, name, pods[name], ends[name])

    with ThreadPoolExecutor(HANDS) as hands:
        list(hands.map(lambda name: admin.pod(home, name, pods[name]), pods))
        async with following(admin.kube.kubeconfig, home) as followed:
            await followed.until(lambda now: len(now.members) == FLAPPING + 3)
            await asyncio.gather(*(asyncio.wrap_future(hands.submit(flap, name)) for name in pods))
            wanted = sorted([pods[name] for name, end in ends.items() if end == "True"] + [f"10.1.0.{n}" for n in (1, 2, 3)])
            await followed.until(lambda now: hosts(now) == wanted)
            calm = [sum(each.pools == (0,) for each in now.members) for now in followed.clusters[1:]]
            assert set(calm) <= {3}, "pods that nobody touched came and went"
            assert sum(each.relists for each in followed.registry.following) == 0


async def test_objectives_that_may_not_be_read_hold_up_nobody_for_long(admin, following, heard, tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "GRACE_S", 0.5)
    home = admin.namespace("forbidden")
    admin.pool(home)
    admin.pod(home, "a", "10.0.0.1")
    admin.objective(home)
    account = admin.account(home, tmp_path / "account")
    role, binding = rights(admin, home)
    without = [
        rule | {"resources": [each for each in rule["resources"] if each != "inferenceobjectives"]} for rule in role["rules"]
    ]
    admin.kube.apply([role | {"rules": without}, binding])
    async with following(account, home) as followed:
        cluster = await followed.until(lambda now: now.members)
        assert cluster.objectives == ()
        assert next(each.resource for each in followed.registry.following if not each.known) == f"inferenceobjectives.{LLMD}"
        async with heard.when("inferenceobjectives: is read again"):
            await asyncio.to_thread(admin.kube.apply, [role])
        await followed.until(lambda now: now.objectives)


async def test_a_service_is_a_pool_by_its_endpointslices(admin, following, tmp_path):
    home = admin.namespace("service")
    account = admin.account(home, tmp_path / "account")
    admin.kube.apply(rights(admin, home, "--service", "vllm"))
    admin.slice(home, "vllm", "vllm-four", ("a", "10.0.0.1"), ("b", "10.0.0.2"))
    admin.slice(home, "vllm", "vllm-six", ("a", "fd00::1"), ("c", "fd00::3"), family="IPv6")
    admin.slice(home, "other", "other-1", ("z", "10.0.0.9"))
    admin.objective(home, pool="vllm")
    async with following(account, home, services=[Service("vllm", "http")]) as followed:
        cluster = await followed.until(lambda now: now.objectives)
        assert hosts(cluster) == ["10.0.0.1", "10.0.0.2", "fd00::3"]
        assert [each.name for each in cluster.members] == ["a-rank-0", "b-rank-0", "c-rank-0"]
        leaving = {"addresses": ["10.0.0.2"], "conditions": {"ready": False, "serving": True, "terminating": True}}
        path = f"/apis/discovery.k8s.io/v1/namespaces/{home}/endpointslices"
        await asyncio.to_thread(admin, "PATCH", f"{path}/vllm-four", {"endpoints": [leaving]}, MERGE)
        await followed.until(lambda now: hosts(now) == ["fd00::1", "fd00::3"])
        await asyncio.to_thread(admin, "DELETE", f"{path}/vllm-six")
        await followed.until(lambda now: not now.members)
        assert [each.reason for each in followed.registry.complaints.values()] == ["NoReadyEndpoints"]


async def test_a_pool_of_another_cluster_is_seen_and_left_alone(admin, following):
    home = admin.namespace("import")
    path = f"/apis/inference.networking.x-k8s.io/v1alpha1/namespaces/{home}/inferencepoolimports"
    body = {"apiVersion": "inference.networking.x-k8s.io/v1alpha1", "kind": "InferencePoolImport", "metadata": {"name": "pool"}}
    admin("POST", path, body)
    status = {"controllers": [{"name": "example.com/fleet", "exportingClusters": [{"name": "east"}]}]}
    written = admin("PATCH", f"{path}/pool/status", {"status": status}, MERGE)
    admin.objective(home)
    async with following(admin.kube.kubeconfig, home) as followed:
        cluster = await followed.until(lambda now: now.imports)
        assert cluster.imports == ((home, "pool", ("east",)),)
        (complaint,) = followed.registry.complaints.values()
        assert complaint.message.endswith("only one that is imported from other clusters")
    assert admin("GET", f"{path}/pool")["metadata"]["resourceVersion"] == written["metadata"]["resourceVersion"]
