"""The chart in a cluster with model servers and an Envoy, all of them changed and killed under load: no request is lost.

In a cluster of one node of its own, or in the one whose kubeconfig $SHUNTER_CLUSTER names (kind, with the images loaded).
"""

import contextlib
import json
import os
import subprocess

import pytest
from click.testing import CliRunner
from hack.kube import images
from hack.kube.stage import CHART

from shunter.conformance.cli import main as conformance
from shunter.envoyconf.core.intent import Intent, Picker, PickerTls, Pool, Profile
from shunter.envoyconf.core.intent import Kubernetes as Place
from shunter.envoyconf.core.kube.install import installation
from shunter.envoyconf.errors import KubernetesRefusedError
from shunter.envoyconf.testing_kube import find_tool
from shunter.stack.cli import doctor

pytestmark = pytest.mark.skipif("SHUNTER_EVERY_CLUSTER" not in os.environ, reason="needs its time: make test-kube")

SPACE = "under-load"
WITHIN_S = 180
# Whoever is asked must have been so often while something was done, and afterwards.
ENOUGH = 40

# What one node of two cores has room for.
SMALL = {"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "512Mi"}}
VALUES = {
    "pool": {"selector": {"app": "vllm"}},
    "picker": {"resources": SMALL, "drainSeconds": 10},
    "scraper": {"resources": SMALL},
    "gateway": {"enabled": True, "resources": SMALL, "intent": {"observability": {"servedHeader": True}}},
}

# Four clients that never stop. Each second a line says how many requests there were; each that failed has a line of its own.
LOAD = """
import asyncio, collections, json, aiohttp
URL = "http://llama-gateway/v1/chat/completions"
BODY = {"model": "lab/llama-3-8b", "messages": [{"role": "user", "content": "How are you?"}], "max_tokens": 4}
sent, served = 0, collections.Counter()
async def ask(session):
    global sent
    while True:
        try:
            async with session.post(URL, json=BODY) as answer:
                text = await answer.text()
                wrong = None if answer.status == 200 and "choices" in text else f"{answer.status} {text[:200]}"
                served[answer.headers.get("x-gateway-destination-endpoint-served", "nobody")] += 1
        except (aiohttp.ClientError, TimeoutError) as error:
            wrong = repr(error)
        sent += 1
        if wrong:
            print(json.dumps({"failed": wrong}), flush=True)
        await asyncio.sleep(0.05)
async def tell():
    while True:
        await asyncio.sleep(1)
        print(json.dumps({"sent": sent, "served": served}), flush=True)
        served.clear()
async def main():
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        await asyncio.gather(tell(), *(ask(session) for _ in range(4)))
asyncio.run(main())
"""


def confined(pod):
    pod["securityContext"] = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
    pod["containers"][0]["securityContext"] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return pod


class Cluster:
    """What a test does with a cluster, in our namespace."""

    def __init__(self, kube):
        self.kube = kube
        self.seen = 0

    def kubectl(self, *arguments, stdin=""):
        return self.kube.kubectl("--namespace", SPACE, *arguments, stdin=stdin)

    def helm(self, *arguments, values=None):
        command = [find_tool("helm"), "--kubeconfig", self.kube.kubeconfig, "--namespace", SPACE, *arguments]
        done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)
        assert not done.returncode, done.stderr
        return done.stdout

    def upgrade(self, **over):
        merged = VALUES | {key: VALUES.get(key, {}) | value for key, value in over.items()}
        self.helm("upgrade", "--install", "llama", CHART, "--values=-", "--wait", f"--timeout={WITHIN_S}s", values=merged)

    def settled(self, what):
        self.kubectl("rollout", "status", what, f"--timeout={WITHIN_S}s")

    def pods(self, selector="app.kubernetes.io/instance=llama-picker"):
        items = json.loads(self.kubectl("get", "pods", f"--selector={selector}", "--output=json"))["items"]
        return [each["metadata"]["name"] for each in items if "deletionTimestamp" not in each["metadata"]]

    def page(self, pod, path, port=9090):
        return self.kubectl("get", "--raw", f"/api/v1/namespaces/{SPACE}/pods/{pod}:{port}/proxy{path}")

    def told(self):
        """Return what the clients have said: how many requests, who served lately, what failed."""
        lines = [json.loads(line) for line in self.kubectl("logs", "load").splitlines()]
        counts = [line for line in lines if "sent" in line]
        failed = [line["failed"] for line in lines if "failed" in line]
        return (counts[-1]["sent"] if counts else 0), (counts[-1]["served"] if counts else {}), failed


@pytest.fixture(scope="module")
def cluster(stage):
    """A cluster where the chart is installed, and clients that never stop."""
    running = Cluster(stage)
    restricted = {"pod-security.kubernetes.io/enforce": "restricted"}
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SPACE, "labels": restricted}}
    running.kube.apply([space])
    try:
        running.kubectl("apply", "-f", str(images.ROOT / "deploy" / "examples" / "servers.yaml"))
        running.upgrade()
        running.settled("deployment/servers")
        container = {"name": "load", "image": images.image_name("lab"), "command": ["/opt/shunter/bin/python", "-c", LOAD]}
        pod = confined({"containers": [container], "restartPolicy": "Never"})
        running.kube.apply([{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "load", "namespace": SPACE}, "spec": pod}])
        running.kubectl("wait", "--for=condition=Ready", "pod/load", f"--timeout={WITHIN_S}s")
        yield running
    finally:
        running.kube.kubectl("delete", "namespace", SPACE)


@pytest.fixture
def load(cluster, eventually):
    """Wait for further requests: ``await load()``; those since the test began must all have been answered."""

    async def more():
        before, _, _ = cluster.told()
        await eventually(lambda: cluster.told()[0] >= before + ENOUGH, WITHIN_S)
        _, served, failed = cluster.told()
        assert not failed
        return served

    return more


def settings(cluster, pod):
    with contextlib.suppress(KubernetesRefusedError):  # a picker that has just gone
        return cluster.page(pod, "/debug/config")
    return ""


def touch(cluster):
    """Let the kubelet look at ConfigMaps now; by itself it does within a minute or so."""
    for pod in cluster.pods():
        cluster.kubectl("annotate", "pod", pod, "--overwrite", f"looked-at={cluster.seen}")
    cluster.seen += 1


async def test_every_server_serves_and_the_picker_chose_it(cluster, load, eventually):
    await load()
    (pod, *_) = cluster.pods()
    fleet = json.loads(cluster.page(pod, "/debug/fleet"))
    assert "servers-" in json.dumps(fleet)
    assert await eventually(lambda: any(json.loads(cluster.page(pod, "/debug/decisions?last=1")) for pod in cluster.pods()))
    assert cluster.page(pod, "/readyz", port=9091)


def test_the_doctor_reaches_the_parts_through_the_api_and_finds_them_well(cluster):
    arguments = ["--kubeconfig", str(cluster.kube.kubeconfig), "-n", SPACE, "--json"]
    result = CliRunner().invoke(doctor, arguments)
    verdicts = {each["id"]: each["verdict"] for each in json.loads(result.output)}
    parts = ("scraper", "reads", "objects", "picker", "ready", "snapshot", "endpoints", "profile", "versions", "clock")
    installed = ("api", "rights", "pools", "selectors", "ports", "picker-service")
    assert {verdicts[each] for each in (*installed, *parts)} == {"ok"}, result.output


async def test_more_servers_are_used_and_fewer_are_not_missed(cluster, load, eventually):
    cluster.kubectl("scale", "deployment/servers", "--replicas=5")
    cluster.settled("deployment/servers")
    await load()
    await eventually(lambda: len(cluster.told()[1]) == 5, WITHIN_S)
    cluster.kubectl("scale", "deployment/servers", "--replicas=3")
    await eventually(lambda: len(cluster.told()[1]) == 3, WITHIN_S)
    await load()


async def test_servers_may_be_rolled(cluster, load):
    cluster.kubectl("rollout", "restart", "deployment/servers")
    cluster.settled("deployment/servers")
    await load()


async def test_a_picker_may_be_drained_and_another_killed(cluster, load):
    (first, *_) = cluster.pods()
    cluster.kubectl("delete", "pod", first)
    cluster.settled("deployment/llama-picker")
    await load()
    (first, *_) = cluster.pods()
    cluster.kubectl("delete", "pod", first, "--force", "--grace-period=0")
    await load()
    cluster.settled("deployment/llama-picker")


async def test_an_upgrade_may_be_rolled_back(cluster, load):
    cluster.upgrade(log={"level": "debug"}, picker={"resources": SMALL, "drainSeconds": 10, "replicas": 3})
    assert len(cluster.pods()) == 3
    await load()
    cluster.helm("rollback", "llama", "--wait", f"--timeout={WITHIN_S}s")
    assert len(cluster.pods()) == 2
    await load()


async def test_a_new_configuration_is_taken_up_and_a_wrong_one_is_not(cluster, load, eventually):
    plugins = [{"type": "queue-scorer"}, {"type": "max-score-picker"}]
    profile = {"name": "default", "plugins": [{"pluginRef": each["type"]} for each in plugins]}
    wanted = {"apiVersion": "llm-d.ai/v1alpha1", "kind": "EndpointPickerConfig", "plugins": plugins}
    before = set(cluster.pods())

    def all_have(what):
        touch(cluster)
        return all(what in settings(cluster, pod) for pod in cluster.pods())

    def rejected():
        touch(cluster)
        return not any('config_reloads_total{result="rejected"} 0' in cluster.page(pod, "/metrics") for pod in cluster.pods())

    cluster.upgrade(picker=VALUES["picker"] | {"config": wanted | {"schedulingProfiles": [profile]}})
    await eventually(lambda: all_have("queue-scorer"), WITHIN_S)
    await load()
    cluster.upgrade(picker=VALUES["picker"] | {"config": wanted | {"schedulingProfile": [profile]}})
    await eventually(rejected, WITHIN_S)
    assert all_have("queue-scorer")
    assert "schedulingProfile" in cluster.kubectl("logs", cluster.pods()[0], "--container=picker")
    cluster.upgrade()
    await eventually(lambda: all_have("expected-delay-scorer"), WITHIN_S)
    await load()
    assert set(cluster.pods()) == before


def adapters_of(cluster):
    """Return what each server has loaded, by its name."""
    names = cluster.pods(selector="app=vllm")
    cards = {name: json.loads(cluster.page(name, "/v1/models", port=8000))["data"] for name in names}
    return {name: sorted(card["id"] for card in each if card.get("parent")) for name, each in cards.items()}


async def test_adapters_are_kept_loaded_and_a_rollout_moves_to_the_next(cluster, load):
    """The chart's adapters, then the Job of deploy/examples: nobody asks for them, so there is nothing to analyse."""
    listed = {"models": [{"id": "food-review-v1", "source": "/adapters/food-review-v1"}]}
    cluster.upgrade(adapters={"enabled": True, "config": {"vLLMLoRAConfig": {"ensureExist": listed}}, "resources": SMALL})
    (keeper,) = cluster.pods(selector="app.kubernetes.io/instance=llama-adapters")
    assert json.loads(cluster.page(keeper, "/status", port=8080))
    assert set(map(tuple, adapters_of(cluster).values())) == {("food-review-v1",)}, "a release is ready when they are loaded"
    cluster.upgrade()
    text = (images.ROOT / "deploy" / "examples" / "rollout.yaml").read_text()
    for said, here in (
        ("namespace: llm", f"namespace: {SPACE}"),
        ("configmap:llm", f"configmap:{SPACE}"),
        ("llm/llama", f"{SPACE}/llama"),
        ("pause: 60s", "pause: 1s"),
        ("analysis: {minRequests: 20}", "analysis: null"),
    ):
        assert said in text
        text = text.replace(said, here)
    cluster.kubectl("apply", "-f", "-", stdin=text)
    try:
        cluster.kubectl("wait", "--for=condition=Complete", "job/food-review-v2", f"--timeout={WITHIN_S}s")
        told = cluster.kubectl("logs", "job/food-review-v2")
        assert "100 % food-review-v2" in told
        assert told.splitlines()[-1].endswith("  done")
        assert set(map(tuple, adapters_of(cluster).values())) == {("food-review-v2",)}
        await load()
    finally:
        cluster.kubectl("delete", "-f", "-", "--ignore-not-found", stdin=text)
        cluster.kubectl("delete", "configmap/rollout-food-review-v2", "inferencemodelrewrite/food-review", "--ignore-not-found")


def test_an_exam_runs_as_a_job_in_the_cluster(cluster):
    words = ("--select", "ms.reachability", "--tries", "1", f"http://llama.{SPACE}:8000")
    image = images.image_name("all")
    printed = CliRunner().invoke(conformance, ["manifests", "--image", image, "--", *words]).output
    try:
        cluster.kubectl("create", "-f", "-", stdin=printed)
        cluster.kubectl("wait", "--for=condition=Complete", "job/shunter-exam", f"--timeout={WITHIN_S}s")
        assert "pass   ms.reachability" in cluster.kubectl("logs", "job/shunter-exam")
    finally:
        cluster.kubectl("delete", "-f", "-", "--ignore-not-found", stdin=printed)


def test_what_envoyconf_installs_runs(cluster):
    """It finds model servers by name instead of by the API."""
    pool = Pool(name="by-name", selector={"app": "vllm"}, picker=Picker(tls=PickerTls()))
    intent = Intent(pools=(pool,), profile=Profile.FULL, kubernetes=Place(namespace=SPACE, replicas=1))
    objects = [each for artefact in installation(intent) for each in artefact.documents]
    (deployment,) = (each for each in objects if each["kind"] == "Deployment")
    spec = deployment["spec"]["template"]["spec"]
    for container in (*spec["initContainers"], *spec["containers"]):
        container["resources"] = SMALL
    cluster.kube.apply(objects)
    try:
        cluster.settled("deployment/by-name-picker")
        (pod,) = cluster.pods(selector="app.kubernetes.io/instance=by-name-picker")
        assert len(json.loads(cluster.page(pod, "/debug/fleet"))["endpoints"]) == 3
    finally:
        cluster.kubectl("delete", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))


def test_what_is_uninstalled_leaves_nothing(cluster):
    """Of a second release, beside the first."""
    values = VALUES | {"pool": {"selector": {"app": "nobody"}}, "gateway": {"enabled": False}}
    cluster.helm("install", "other", CHART, "--values=-", values=values)
    cluster.helm("uninstall", "other", "--wait")
    kinds = "deployment,service,configmap,serviceaccount,role,rolebinding,poddisruptionbudget,inferencepool"
    left = cluster.kubectl("get", kinds, "--selector=app.kubernetes.io/instance=other-picker", "--output=name")
    assert not left
