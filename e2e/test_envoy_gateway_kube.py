"""The real Envoy Gateway on a real Kubernetes API: Services and slices instead of addresses, statuses, weights, sessions."""

import asyncio
import base64
import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections import Counter

import aiohttp
import pytest
import trustme

from shunter.envoyconf import load_intent
from shunter.envoyconf.core.generate import generate
from shunter.envoyconf.core.targets import Target
from shunter.envoyconf.errors import ToolMissingError
from shunter.envoyconf.testing_gateway_kube import running_kube_gateway
from shunter.envoyconf.testing_kube import find_crds, running_kube
from shunter.stack.shell.top import ALL, fetch_decisions

pytestmark = pytest.mark.envoy

# Services' endpoints must not be loopback addresses; these are the loopback device's too, in a network of its own.
ENGINES = {"10.9.0.1": "one", "10.9.0.2": "two"}
PICKER = "10.9.0.3"
ADMIN = f"{PICKER}:9090"
ADDRESS = "10.9.0.9"
URL = "http://127.0.0.1:10080"  # Envoy Gateway has its Envoys listen 10,000 higher up than their Service

KEY = "the-key-of-alice"

INTENT = {
    "listeners": [{"port": 80}, {"name": "https", "port": 443, "hosts": ["secure.test"], "tls": {"secret": "shown"}}],
    "security": {
        "apiKeys": [{"client": "alice", "key": KEY}],
        "rateLimits": [{"requests": 3, "per": "hour", "by": "x-limited"}],
    },
    "observability": {"servedHeader": True},
    "pools": [{"name": "llama", "selector": {"app": "llama"}}, {"name": "canary", "selector": {"app": "canary"}}],
    "routes": [
        {"hosts": ["split.test"], "pools": [{"name": "llama", "weight": 3}, {"name": "canary", "weight": 1}]},
        {"hosts": ["session.test"], "pool": "llama", "profile": "native", "affinity": {"header": "x-session", "body": []}},
        {"pool": "llama"},
    ],
}


def slice_of(service, addresses, **ports):
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": service, "namespace": "default", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": name, "port": port} for name, port in ports.items()],
        "endpoints": [{"addresses": [each], "conditions": {"ready": True}} for each in addresses],
    }


def certificate(name):
    issued = trustme.CA().issue_cert(name)
    chain = b"".join(each.bytes() for each in issued.cert_chain_pems)
    data = {"tls.crt": base64.b64encode(chain).decode(), "tls.key": base64.b64encode(issued.private_key_pem.bytes()).decode()}
    metadata = {"name": "shown", "namespace": "default"}
    return {"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": metadata, "data": data}


@contextlib.contextmanager
def shunter(scratch, name, *arguments):
    with (scratch / f"{name}.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", *map(str, arguments)], stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def gateway(envoy_gateway, tmp_path_factory):
    if shutil.which("ip") is None:
        pytest.skip("no ip: install iproute2 (Services' endpoints need addresses that are not of 127.0.0.0/8)")
    scratch = tmp_path_factory.mktemp("kube")
    endpoints = [{"name": name, "address": address, "port": 8000} for address, name in ENGINES.items()]
    (scratch / "endpoints.yaml").write_text(json.dumps({"endpoints": endpoints}))
    with contextlib.ExitStack() as stack:
        for address in (*ENGINES, PICKER):
            subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
        for address, name in ENGINES.items():
            serve = ("shunter.lab", "serve", "--host", address, "--port", 8000, "--name", name, "--speed", 20)
            stack.enter_context(shunter(scratch, name, *serve))
        scrape = ("shunter.scraper", "run", "--endpoints", scratch / "endpoints.yaml", "--snapshot", scratch / "snapshot")
        stack.enter_context(shunter(scratch, "scraper", *scrape))
        places = ("--host", PICKER, "--admin-host", PICKER, "--workers", 1)
        pick = ("shunter.picker", "run", "--snapshot", scratch / "snapshot", "--runtime", scratch / "runtime", *places)
        stack.enter_context(shunter(scratch, "picker", *pick))
        try:
            kube = stack.enter_context(running_kube((*find_crds("eg_"), *find_crds("gw_"))))
        except ToolMissingError as error:
            pytest.skip(str(error))
        made = generate(load_intent(json.dumps(INTENT)), Target.ENVOY_GATEWAY)
        kube.apply(made.documents)
        slices = [slice_of("llama", ENGINES, **{"http-8000": 8000}), slice_of("canary", ["10.9.0.2"], **{"http-8000": 8000})]
        kube.apply(
            [
                certificate("secure.test"),
                *slices,
                *(slice_of(f"{each}-picker", [PICKER], grpc=9002) for each in ("llama", "canary")),
            ]
        )
        gateway = stack.enter_context(running_kube_gateway(kube, **envoy_gateway.keywords))
        gateway.seem_deployed(ADDRESS)
        yield gateway


@pytest.fixture
async def ask(gateway, eventually):
    """Ask for a completion; returns the status and which model server answered."""
    async with aiohttp.ClientSession() as session:

        async def ask(host="any.test", url=URL, key=KEY, **headers):
            body = {"model": "lab/llama-3-8b", "prompt": "which track?", "max_tokens": 4}
            sent = {"host": host, "authorization": f"Bearer {key}", **headers}
            tls = {"ssl": False, "server_hostname": host} if url.startswith("https") else {}
            async with session.post(f"{url}/v1/completions", json=body, headers=sent, **tls) as answer:
                if answer.status != 200:
                    return answer.status, None
                server = (await answer.json())["system_fingerprint"]
                assert ENGINES[answer.headers["x-gateway-destination-endpoint-served"].partition(":")[0]] == server
                return answer.status, server

        deadline = time.monotonic() + 120
        while True:  # the first configuration takes Envoy 15 s
            with contextlib.suppress(aiohttp.ClientConnectionError):
                if (await ask())[0] == 200:
                    break
            assert time.monotonic() < deadline, gateway.log()
            await asyncio.sleep(0.1)
        yield ask


async def test_everything_is_accepted_and_the_gateway_is_programmed(gateway, ask, eventually):
    def refused():  # of its class Envoy Gateway says nothing here, though it serves it
        return [each for each in gateway.conditions() if each.status != "True" and each.kind != "GatewayClass"]

    await eventually(lambda: not refused())
    stated = {(each.kind, each.type) for each in gateway.conditions()}
    assert stated >= {
        ("Gateway", "Accepted"),
        ("Gateway", "Programmed"),
        ("HTTPRoute", "Accepted"),
        ("HTTPRoute", "ResolvedRefs"),
        ("EnvoyExtensionPolicy", "Accepted"),
        ("BackendTrafficPolicy", "Accepted"),
        ("ClientTrafficPolicy", "Accepted"),
    }


async def test_the_picker_behind_a_service_is_asked(ask):
    before = len(fetch_decisions(ADMIN, ALL).decisions)
    assert {(await ask())[0] for _ in range(3)} == {200}
    assert len(fetch_decisions(ADMIN, ALL).decisions) == before + 3


async def test_clients_come_in_by_tls(ask):
    assert (await ask("secure.test", "https://127.0.0.1:10443"))[0] == 200


async def test_nobody_comes_in_without_a_key(ask):
    assert (await ask(key="another"))[0] == 401


async def test_a_limit_holds_for_each_value_and_before_a_picker_is_asked(ask):
    asked = [(await ask(**{"x-limited": "a"}))[0] for _ in range(3)]
    before = len(fetch_decisions(ADMIN, ALL).decisions)
    beyond = (await ask(**{"x-limited": "a"}))[0]
    assert (asked, beyond, len(fetch_decisions(ADMIN, ALL).decisions)) == ([200] * 3, 429, before)
    assert (await ask(**{"x-limited": "b"}))[0] == 200


async def test_in_the_profile_native_a_session_stays_on_its_model_server(ask):
    served = {n: {(await ask("session.test", **{"x-session": f"session {n}"}))[1] for _ in range(3)} for n in range(12)}
    assert {len(each) for each in served.values()} == {1}
    assert set.union(*served.values()) == {*ENGINES.values()}


async def test_requests_are_divided_by_weight_whatever_id_they_bring(gateway, ask):
    """The canary has one model server only; the other pool both, but its picks say which."""
    told = Counter()
    for n in range(60):
        before = {each.ticket for each in fetch_decisions(ADMIN, ALL).decisions}
        _, server = await ask("split.test", **{"x-request-id": f"fff{n}"})
        (decision,) = (each for each in fetch_decisions(ADMIN, ALL).decisions if each.ticket not in before)
        told[decision.request_id[:3] < "c00"] += 1
        assert server == "two" or decision.request_id[:3] < "c00"
    assert 30 < told[True] < 58
