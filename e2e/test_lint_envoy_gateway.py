"""What the linter says of an Envoy Gateway's manifests is what its Envoy then does; corrected, it does not."""

import contextlib
import http.server
import json
import socket
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from shunter.envoyconf.core.documents import Document, load_documents
from shunter.envoyconf.core.lint.correct import correct
from shunter.envoyconf.core.lint.examine import examine

pytestmark = pytest.mark.envoy

EXAMPLE = Path(__file__).parents[1] / "docs" / "gateway" / "lint" / "envoy-gateway.yaml"
GROUP = "gateway.envoyproxy.io"
DESTINATION = "x-gateway-destination-endpoint"

# What no tool can add: a policy that was not thought of.
POLICY = {
    "apiVersion": f"{GROUP}/v1alpha1",
    "kind": "ClientTrafficPolicy",
    "metadata": {"name": "inference", "namespace": "llm"},
    "spec": {
        "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": "inference"}],
        "headers": {"earlyRequestHeaders": {"remove": [DESTINATION]}},
        "connection": {"bufferLimit": "16Mi"},
    },
}
PROXY = {
    "apiVersion": f"{GROUP}/v1alpha1",
    "kind": "EnvoyProxy",
    "metadata": {"name": "inference", "namespace": "envoy-gateway-system"},
    "spec": {},
}


class Server(http.server.BaseHTTPRequestHandler):
    """Answers its own port."""

    def do_GET(self):
        body = str(self.server.server_port).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield running.server_port
        finally:
            running.shutdown()
            thread.join()


def here(manifests, ports, picker):
    """Return manifests as the file provider can take them: Backends with addresses of this machine instead of Services."""
    made = [json.loads(json.dumps(each)) for each in manifests]
    for each in made:
        if each["kind"] == "HTTPRoute":
            each["spec"]["rules"][0]["backendRefs"] = [{"group": GROUP, "kind": "Backend", "name": "llama"}]
        elif each["kind"] == "Backend":
            each["spec"]["endpoints"] = [{"ip": {"address": "127.0.0.1", "port": picker}}]
        elif each["kind"] == "GatewayClass":
            each["spec"]["parametersRef"] = {"group": GROUP, "kind": "EnvoyProxy"} | PROXY["metadata"]
    endpoints = [{"ip": {"address": "127.0.0.1", "port": port}} for port in ports]
    metadata = {"name": "llama", "namespace": "llm"}
    servers = {"apiVersion": f"{GROUP}/v1alpha1", "kind": "Backend", "metadata": metadata, "spec": {"endpoints": endpoints}}
    return [*made, PROXY, servers]


def served(destination):
    """Return who answers a client that names a destination, and how often."""
    request = urllib.request.Request("http://127.0.0.1/v1/models", headers={DESTINATION: destination})
    answers = Counter()
    deadline = time.monotonic() + 60
    while answers.total() < 12:
        assert time.monotonic() < deadline
        try:
            with urllib.request.urlopen(request) as response:
                answers[response.read().decode()] += 1
        except urllib.error.HTTPError:  # routes and endpoints arrive after the listener
            answers.clear()
            time.sleep(0.1)
    return answers


def values(config, name):
    """Yield every value of a field in a configuration."""
    for key, value in config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ():
        if key == name:
            yield value
        yield from values(value, name)


def behaviour(gateway, ports):
    with urllib.request.urlopen(f"http://{gateway.envoy_admin}/config_dump") as response:
        config = json.load(response)
    routes = [route for hosts in values(config, "virtual_hosts") for route in values(hosts, "route") if "cluster" in route]
    checks = [each for each in values(config, "health_checks") if each and "grpc_health_check" in each[0]]
    tls = [
        each["common_tls_context"] for each in values(config, "typed_config") if "sni" in each or "common_tls_context" in each
    ]
    return {
        "E65": bool(checks) and not any("h2" in each.get("alpn_protocols", ()) for each in tls),
        "W66": all("retriable-status-codes" not in each["retry_policy"]["retry_on"] for each in routes),
        "E70": set(served(f"127.0.0.1:{ports[1]}")) == {str(ports[1])},
        "E71": any(each.get("per_connection_buffer_limit_bytes") == 32768 for each in values(config, "listener")),
        "E82": all("timeout" not in each for each in routes),  # Envoy's default is 15 s
    }


def test_what_is_found_happens_and_what_is_corrected_does_not(envoy_gateway):
    text = EXAMPLE.read_text()
    bad = [document.body for document in load_documents(text, "")]
    good = [document.body for document in load_documents(correct({"": text}, examine)[0][""], "")] + [POLICY]
    with contextlib.ExitStack() as resources:
        ports = [resources.enter_context(server()) for _ in range(2)]
        with socket.create_server(("127.0.0.1", 0)) as unused:
            picker = unused.getsockname()[1]
        for manifests, expected in ((bad, True), (good, False)):
            found = {rule.code for rule, _ in examine(Document(body, "", {(): 1}) for body in manifests)}
            with envoy_gateway(here(manifests, ports, picker)) as gateway:
                harm = behaviour(gateway, ports)
            assert harm == dict.fromkeys(harm, expected)
            assert {code: code in found for code in harm} == harm


BROKEN = """\
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: lost, namespace: llm}
spec:
  parentRefs: [{name: inference}]
  hostnames: [lost.test]
  rules: [{timeouts: {request: 0s}, backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: llama}]}]
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyExtensionPolicy
metadata: {name: lost, namespace: llm}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: lost}]
  extProc: [{backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: llama-pickr}], processingMode: {request: {}}}]
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyExtensionPolicy
metadata: {name: rival, namespace: llm}
spec:
  targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: lost}]
  extProc: [{backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: llama-epp}], processingMode: {request: {}}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: pool, namespace: llm}
spec:
  parentRefs: [{name: inference}]
  hostnames: [pool.test]
  rules: [{timeouts: {request: 0s}, backendRefs: [{group: inference.networking.k8s.io, kind: InferencePool, name: llama}]}]
"""


def status(host):
    """Return what a host's requests are answered."""
    request = urllib.request.Request("http://127.0.0.1/v1/models", headers={"host": host})
    try:
        with urllib.request.urlopen(request) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def test_what_refers_to_nothing_is_answered_500_as_said(envoy_gateway):
    manifests = [document.body for document in load_documents(EXAMPLE.read_text(), "")] + [POLICY]
    manifests = here(manifests, [1], 2) + [document.body for document in load_documents(BROKEN, "")]
    found = {rule.code for rule, _ in examine(Document(body, "", {(): 1}) for body in manifests)}
    assert {"E68", "E77", "W91"} <= found
    with envoy_gateway(manifests) as gateway:
        expected = {
            ("HTTPRoute", "llm/pool", "InvalidKind"),
            ("EnvoyExtensionPolicy", "llm/lost", "Invalid"),
            ("EnvoyExtensionPolicy", "llm/rival", "Conflicted"),
        }
        deadline = time.monotonic() + 60
        # Statuses are written one after the other, and the routes arrive after the listener.
        while {status("lost.test"), status("pool.test")} != {500} or not {
            (each.kind, each.key, each.reason) for each in gateway.conditions()
        } >= expected:
            assert time.monotonic() < deadline, gateway.conditions()
            time.sleep(0.1)
