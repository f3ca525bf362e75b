"""A real HorizontalPodAutoscaler, as docs/autoscaling.md has it, reads the picker's hint and scales by it."""

import json
import re
import ssl
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import msgspec
import pytest
import trustme

from shunter.envoyconf.errors import ToolMissingError
from shunter.envoyconf.testing_kube import find_tool, running_process
from shunter.picker.core import families
from shunter.picker.core.external import offer
from shunter.picker.core.samples import by_label

PAGE = Path(__file__).parents[1] / "docs" / "autoscaling.md"
API = "external.metrics.k8s.io"
PATIENCE_S = 120
LOOK_S = 0.5


def snippets():
    """Every YAML document of the page."""
    return [msgspec.yaml.decode(text) for text in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)]


class Adapter:
    """What the API server asks on the autoscaler's behalf: it answers as the picker's admin page does, with a certificate."""

    def __init__(self):
        self.desired = {"decode": 3, "prefill": 9}
        self.asked = []
        adapter = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                body = adapter.answer(self.path)
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                """Keep still."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("localhost").configure_cert(trust)
        self.server.socket = trust.wrap_socket(self.server.socket, server_side=True)

    def answer(self, path):
        place = urlsplit(path)
        if "/namespaces/" not in place.path:  # what there is
            return msgspec.json.encode({"kind": "APIResourceList", "groupVersion": f"{API}/v1beta1", "resources": []})
        self.asked.append(path)
        labels = dict(each.split("=") for each in dict(parse_qsl(place.query))["labelSelector"].split(","))
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        shown = [by_label(families.DESIRED_REPLICAS, self.desired)]
        return msgspec.json.encode(offer(shown, now, place.path.rpartition("/")[2], labels))


@pytest.fixture
def adapter():
    adapter = Adapter()
    thread = threading.Thread(target=adapter.server.serve_forever)
    thread.start()
    yield adapter
    adapter.server.shutdown()
    thread.join()
    adapter.server.server_close()


@pytest.fixture
def controller(admin, tmp_path, unused_tcp_port):
    """The part of Kubernetes that scales, and no other; it looks every second."""
    try:
        program = find_tool("kube-controller-manager")
    except ToolMissingError as missing:
        pytest.skip(str(missing))
    command = [
        *("kube-controller-manager", f"--kubeconfig={admin.kube.kubeconfig}", "--leader-elect=false"),
        *("--controllers=horizontal-pod-autoscaler-controller", "--horizontal-pod-autoscaler-sync-period=1s"),
        *("--bind-address=127.0.0.1", f"--secure-port={unused_tcp_port}", f"--cert-dir={tmp_path}"),
    ]
    with running_process(tmp_path / "controller.log", command, executable=program, cwd=tmp_path) as process:
        yield process


def deployment(home, replicas):
    labels = {"app": "vllm-decode"}
    pods = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "vllm", "image": "vllm"}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "vllm-decode", "namespace": home},
        "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": pods},
    }


@pytest.fixture
def reached(admin, adapter):
    """The namespace of a Service by which the API server asks the adapter; of the API there is one in a whole cluster."""
    home, port = admin.namespace("autoscaling"), adapter.server.server_port
    backend = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "adapter", "namespace": home}}
    backend["spec"] = {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]}
    api = {"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": f"v1beta1.{API}"}}
    api["spec"] = {"group": API, "version": "v1beta1", "groupPriorityMinimum": 100, "versionPriority": 100}
    api["spec"] |= {"service": {"name": "adapter", "namespace": home, "port": port}, "insecureSkipTLSVerify": True}
    admin.kube.apply([backend, api])
    yield home
    admin.kube.kubectl("delete", "apiservice", f"v1beta1.{API}")


def test_an_autoscaler_follows_the_hint_of_its_role(admin, adapter, reached, controller):
    home, kubectl = reached, admin.kube.kubectl
    (scaler,) = [each for each in snippets() if each.get("kind") == "HorizontalPodAutoscaler"]
    scaler["metadata"]["namespace"] = home
    admin.kube.apply([deployment(home, 1), scaler])
    deadline_s = time.monotonic() + PATIENCE_S
    while kubectl("get", "-n", home, "deployment/vllm-decode", "-o", "jsonpath={.spec.replicas}") != "3":
        assert controller.poll() is None, "the controller has ended"
        assert time.monotonic() < deadline_s, f"asked {adapter.asked[-3:]}; {kubectl('get', '-n', home, 'hpa', '-o', 'yaml')}"
        time.sleep(LOOK_S)
    name = families.DESIRED_REPLICAS.name
    assert adapter.asked[0] == f"/apis/{API}/v1beta1/namespaces/{home}/{name}?labelSelector=role%3Ddecode"
    (status,) = json.loads(kubectl("get", "-n", home, "hpa", "-o", "json"))["items"]
    assert {each["type"]: each["status"] for each in status["status"]["conditions"]}["ScalingActive"] == "True"
