"""What is installed beside a gateway's objects works: its own command lines are run, on its own files, and Envoy is served."""

import asyncio
import contextlib
import copy
import os
import subprocess
import sys
from pathlib import Path

import aiohttp
import grpc
import pytest
import yaml
from aiohttp import web
from aiohttp.test_utils import TestServer
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shunter.envoyconf import IntentError, bootstrap
from shunter.envoyconf.core.intent import Intent, Limits, Listener, Picker, PickerTls, Pool, Profile, Rewrite, Route
from shunter.envoyconf.core.kube.install import installation, picker_config
from shunter.envoyconf.core.names import DESTINATION, pool_cluster_name
from shunter.envoyconf.errors import KubernetesRefusedError
from shunter.envoyconf.testing import free_ports, running_envoy
from shunter.scraper.shell.files import Files

METRICS = """\
vllm:num_requests_running{model_name="m"} 0
vllm:num_requests_waiting{model_name="m"} 0
vllm:kv_cache_usage_perc{model_name="m"} 0
"""
NAME = "llama-picker.default.svc"


def intent(*, tls=None, collector=None, **fields):
    picker = Picker(tls=tls, collector=collector)
    pool = {"name": "llama", "selector": {"app": "vllm"}, "picker": picker}
    return Intent(pools=(Pool(**(pool | fields)),), profile=Profile.FULL)


def objects(intent, **options):
    return [document for artefact in installation(intent, **options) for document in artefact.documents]


def one(kind, documents):
    (found,) = [each for each in documents if each["kind"] == kind and each["metadata"]["name"].endswith("picker")]
    return found


VARIANTS = {
    "plain": (intent(), {}),
    "a gateway that speaks TLS": (intent(), {"always_tls": True}),
    "a certificate that is verified": (intent(tls=PickerTls(ca_file="/ca.crt", server_name=NAME)), {}),
    "records": (intent(collector="llama-picker.default.svc:24224"), {}),
    "ranks in HTTP/2": (intent(target_ports=(8000, 8001), http2=True), {}),
}


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def documents(request):
    intended, options = request.param
    return objects(intended, **options)


def test_the_real_api_accepts_every_object(kube, documents):
    kube.apply(documents, dry_run=True)


def test_the_pods_keep_the_restricted_standard(kube, documents):
    space = "restricted"
    enforce = {"pod-security.kubernetes.io/enforce": "restricted", "pod-security.kubernetes.io/enforce-version": "v1.36"}
    kube.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": space, "labels": enforce}}])
    template = one("Deployment", documents)["spec"]["template"]
    pod = {"apiVersion": "v1", "kind": "Pod", **copy.deepcopy(template)}
    pod["metadata"] |= {"name": "picker", "namespace": space}
    kube.apply([pod], dry_run=True)
    del pod["spec"]["initContainers"][-1]["securityContext"]["capabilities"]
    with pytest.raises(KubernetesRefusedError, match="restricted"):
        kube.apply([pod], dry_run=True)


def test_ports_and_selectors_meet(documents):
    deployment, service = one("Deployment", documents), one("Service", documents)
    budget = one("PodDisruptionBudget", documents)
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"] == labels
    assert budget["spec"]["selector"]["matchLabels"] == labels
    (picker,) = deployment["spec"]["template"]["spec"]["containers"]
    served = {port["containerPort"]: port["name"] for port in picker["ports"]}
    assert served == {port["port"]: port["name"] for port in service["spec"]["ports"]}
    for flag in ("--port=9002", "--health-port=9003", "--admin-port=9090"):
        assert flag in picker["command"]
        assert int(flag.rpartition("=")[2]) in served


def test_a_picker_that_has_an_address_is_not_installed_again():
    assert [each["kind"] for each in objects(intent(picker=Picker(addresses=("elsewhere.default.svc:9002",))))] == ["Service"]


def test_the_native_profile_installs_no_picker():
    pool = Pool(name="llama", selector={"app": "vllm"})
    assert [each["kind"] for each in objects(Intent(pools=(pool,), profile=Profile.NATIVE))] == ["Service"]


@pytest.mark.parametrize("name", ["l" * 57, "llama.3"])
def test_a_name_that_no_service_can_have_is_refused(kube, name):
    with pytest.raises(IntentError, match=r"pools\[0\].name '.*' must have no dots and at most 56"):
        installation(intent(name=name))
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": f"{name}-picker", "namespace": "default"}}
    with pytest.raises(KubernetesRefusedError, match=r"metadata\.name"):
        kube.apply([service | {"spec": {"ports": [{"port": 1}]}}], dry_run=True)
    kube.apply(objects(intent(name="l" * 56)), dry_run=True)


def test_a_name_that_no_service_is_to_have_may_be_long():
    elsewhere = intent(name="l" * 63, picker=Picker(addresses=("p:9002",)))
    assert [each["metadata"]["name"] for each in objects(elsewhere)] == ["l" * 63]
    assert objects(intent(name="llama.3", picker=Picker(addresses=("p:9002",))), by_name=False) == []


def test_the_configuration_is_the_pickers_default():
    printed = subprocess.run([shunter(), "picker", "builtins", "default"], capture_output=True, text=True, check=True).stdout
    assert yaml.safe_load(printed) == picker_config()


def test_the_picker_is_told_the_names_of_its_own_pools_models_only(tmp_path):
    routes = tuple(
        Route(
            pool=pool, models=(f"{pool}-chat",), rewrites=(Rewrite(model=f"{pool}-v1", weight=9), Rewrite(model=f"{pool}-v2"))
        )
        for pool in ("llama", "qwen")
    )
    pools = tuple(Pool(name=name, selector={"app": name}) for name in ("llama", "qwen"))
    told = [each for each in objects(Intent(pools=pools, routes=routes, profile=Profile.FULL)) if each["kind"] == "ConfigMap"]
    for (name, other), config in zip((("llama", "qwen"), ("qwen", "llama")), told, strict=True):
        assert f"modelRewrite: {name}-v1" in config["data"]["endpoints.yaml"]
        assert other not in config["data"]["endpoints.yaml"]
        (tmp_path / f"{name}.yaml").write_text(config["data"]["endpoints.yaml"])
        (rewrite,) = Files(tmp_path / f"{name}.yaml").load().rewrites
        assert (rewrite.pool, rewrite.rules[0].models) == (name, (f"{name}-chat",))


def test_larger_bodies_get_more_memory():
    large = objects(Intent(pools=intent().pools, profile=Profile.FULL, limits=Limits(body_bytes=1 << 30)))
    (picker,) = one("Deployment", large)["spec"]["template"]["spec"]["containers"]
    assert f"--body-bytes={1 << 30}" in picker["command"]
    assert f"--buffered-bytes={4 << 30}" in picker["command"]
    assert picker["resources"]["limits"]["memory"] == f"{(4 << 10) + 768}Mi"


def shunter():
    return str(Path(sys.executable).parent / "shunter")


class LocalPod:
    """A Pod's containers as processes of this machine: same commands, same files, other places and ports."""

    def __init__(self, directory, documents):
        self.spec = one("Deployment", documents)["spec"]["template"]["spec"]
        self.files = one("ConfigMap", documents)["data"]
        self.directory = directory
        self.grpc, self.health, self.admin, self.records = free_ports(4)
        for place in ("etc/shunter", "etc/shunter-tls", "run/shunter"):
            (directory / place).mkdir(parents=True)

    @contextlib.asynccontextmanager
    async def running(self, replace):
        for name, text in self.files.items():
            (self.directory / "etc/shunter" / name).write_text(replace(text))
        async with contextlib.AsyncExitStack() as stack:
            for container in (*self.spec["initContainers"], *self.spec["containers"]):
                process = await self.start(container)
                if container in self.spec["initContainers"] and container.get("restartPolicy") != "Always":
                    assert await process.wait() == 0, self.log(container["name"])
                else:
                    stack.push_async_callback(self.stop, process)
            yield self

    async def start(self, container):
        here = {"/etc/": f"{self.directory}/etc/", "/run/": f"{self.directory}/run/", "$(POD_IP)": "127.0.0.1"}
        here |= {"--port=9002": f"--port={self.grpc}", "--health-port=9003": f"--health-port={self.health}"}
        here |= {"--admin-port=9090": f"--admin-port={self.admin}", "0.0.0.0": "127.0.0.1"}
        here |= {"--collector-port=24224": f"--collector-port={self.records}"}
        command = container["command"]
        for there, place in here.items():
            command = [word.replace(there, place) for word in command]
        with (self.directory / f"{container['name']}.log").open("wb") as log:
            path = f"{Path(shunter()).parent}{os.pathsep}{os.environ['PATH']}"
            return await asyncio.create_subprocess_exec(*command, stdout=log, stderr=log, env={"PATH": path})

    async def stop(self, process):
        process.terminate()
        await asyncio.wait_for(process.wait(), 20)

    def log(self, name):
        return (self.directory / f"{name}.log").read_text()


async def is_serving(port, service):
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        with contextlib.suppress(grpc.aio.AioRpcError):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=5)
            return answer.status == health_pb2.HealthCheckResponse.SERVING
        return False


@contextlib.asynccontextmanager
async def model_server():
    async def serve(request):
        return web.Response(text=METRICS if request.path == "/metrics" else "{}")

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", serve)
    async with TestServer(app, host="127.0.0.1") as server:
        yield server.port


@pytest.mark.envoy
@pytest.mark.parametrize("one_choice", [False, True], ids=["a list", "one choice"])
async def test_its_command_lines_serve_a_gateway_over_tls(one_choice, tmp_path, envoy_binary, until):
    async with model_server() as first, model_server() as second:
        installed = intent(target_ports=(first, second), collector="llama-picker.default.svc:24224")
        pod = LocalPod(tmp_path, objects(installed, always_tls=True, one_choice=one_choice))
        async with pod.running(lambda text: text.replace("llama.default.svc.cluster.local", "localhost")):
            await until(lambda: is_serving(pod.health, "readiness"))
            assert await is_serving(pod.health, "liveness")

            tls = PickerTls(ca_file=f"{tmp_path}/etc/shunter-tls/tls.crt", server_name=NAME)
            asked = Picker(addresses=(f"127.0.0.1:{pod.grpc}",), tls=tls, collector=f"127.0.0.1:{pod.records}")
            places = {f"127.0.0.1:{port}" for port in (first, second)}
            pool = Pool(name="llama", endpoints=tuple(sorted(places)), picker=asked)
            resource = bootstrap(Intent(pools=(pool,), profile=Profile.FULL, listeners=(Listener(port=0),)))
            async with aiohttp.ClientSession() as client:
                async with running_envoy(resource, envoy_binary) as envoy:
                    answer = await client.post(f"{envoy.url}/v1/completions", json={"model": "m", "prompt": "Hi"})
                    assert answer.status == 200
                    await until(envoy.access_log)
                    picked = envoy.access_log()[0]["pick"].split(",")
                    assert len(picked) == (1 if one_choice else 2)
                    assert {*picked} <= places
                # A gateway that connects to whatever the picker's header says, as AI Gateway does, takes one address.
                async with running_envoy(following_the_header(resource), envoy_binary) as envoy:
                    answer = await client.post(f"{envoy.url}/v1/completions", json={"model": "m", "prompt": "Hi"})
                    assert answer.status == (200 if one_choice else 503)
                metrics = await (await client.get(f"http://127.0.0.1:{pod.admin}/metrics")).text()
                assert 'shunter_picker_picks_total{endpoint="' in metrics


def following_the_header(resource):
    changed = copy.deepcopy(resource)
    clusters = changed["static_resources"]["clusters"]
    (pool,) = [each for each in clusters if each["name"] == pool_cluster_name("llama")]
    clusters[clusters.index(pool)] = {
        "name": pool["name"],
        "type": "ORIGINAL_DST",
        "lb_policy": "CLUSTER_PROVIDED",
        "original_dst_lb_config": {"use_http_header": True, "http_header_name": DESTINATION},
    }
    return changed
