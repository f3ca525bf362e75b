"""A real Envoy Gateway on a real Kubernetes API for tests: it watches objects, writes statuses, and one Envoy runs as it says.

There is no kubelet, so nobody runs the Deployment that the controller makes; its container's arguments are read, and Envoy is
started with them on this machine. Nobody gives Services endpoints either: the test writes EndpointSlices, which must not hold
loopback addresses.
"""

import base64
import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import msgspec
import yaml

from shunter.envoyconf.testing_gateway import CONTROLLER, Condition, conditions_of
from shunter.envoyconf.testing_kube import RunningKube, running_process

__all__ = ["KubeGateway", "running_kube_gateway"]

# Its Envoys first get a configuration after 15 s, when they give up on the endpoints of their own cluster.
START_TIMEOUT_S = 180
POLL_S = 0.2

SYSTEM = "envoy-gateway-system"

# Where controller and Envoy look for certificates, and Envoy for what tells it where they are.
CERTIFICATES = "/certs"
SECRETS = "/sds"

# The controller has the ports that Envoy is told for itself.
ADMIN_PORTS = {19000: 19900, 19001: 19901, 19002: 19902, 19003: 19903}


class KubeGateway(msgspec.Struct, frozen=True):
    """A controller and the API it watches."""

    kube: RunningKube
    directory: Path

    def conditions(self) -> list[Condition]:
        """Return what is said of each object that has a status."""
        policies = "envoyextensionpolicy,backendtrafficpolicy,clienttrafficpolicy,securitypolicy,envoypatchpolicy"
        kinds = f"gatewayclass,gateway,httproute,{policies},backend"
        found = json.loads(self.kube.kubectl("get", kinds, "--all-namespaces", "--output=json"))["items"]
        return sorted(
            Condition(each["kind"], key, *(str(stated[field]) for field in ("type", "status", "reason", "message")))
            for each in found
            for key in [f"{each['metadata'].get('namespace', '')}/{each['metadata']['name']}"]
            for stated in conditions_of(each.get("status", {}))
        )

    def seem_deployed(self, address: str) -> None:
        """Let the Envoys' Deployment have a replica and their Service an address, as in a cluster; a Gateway wants both."""
        replica = {"replicas": 1, "readyReplicas": 1, "availableReplicas": 1, "updatedReplicas": 1}
        for kind, status in (("service", {"loadBalancer": {"ingress": [{"ip": address}]}}), ("deployment", replica)):
            name = self.kube.kubectl("get", kind, "--namespace", SYSTEM, "--output=name").split()[0]
            patch = json.dumps({"status": status})
            self.kube.kubectl("patch", name, "--namespace", SYSTEM, "--subresource=status", "--type=merge", f"--patch={patch}")

    def log(self) -> str:
        """Return what the controller and Envoy have written so far."""
        return "\n".join(path.read_text(errors="replace")[-5000:] for path in sorted(self.directory.glob("*.log")))


@contextlib.contextmanager
def running_kube_gateway(
    kube: RunningKube, controller: Path, envoy: Path, *, flags: Iterable[str] = ()
) -> Generator[KubeGateway]:
    """Run the controller and, as soon as it wants one, the Envoy of the first Gateway that is applied before.

    ``flags`` are runtime flags that are off by default. Needs the network and mounts of root's (`own_network`): its ports are
    fixed, and the controller reads /certs.
    """
    with tempfile.TemporaryDirectory(prefix="shunter-eg-kube-") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        running = KubeGateway(kube, directory)
        environment = os.environ | {"KUBECONFIG": str(kube.kubeconfig), "HOME": name}
        configuration = {
            "apiVersion": "gateway.envoyproxy.io/v1alpha1",
            "kind": "EnvoyGateway",
            "gateway": {"controllerName": CONTROLLER},
            "provider": {"type": "Kubernetes", "kubernetes": {"leaderElection": {"disable": True}}},
            "extensionApis": {"enableBackend": True, "enableEnvoyPatchPolicy": True},
            "runtimeFlags": {"enabled": list(flags)},
        }
        (directory / "gateway.json").write_text(json.dumps(configuration))
        kube.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SYSTEM}}])
        certgen = [str(controller), "certgen", "--disable-topology-injector"]
        # The caller's own binaries on files of ours, here and below.
        subprocess.run(certgen, env=environment, check=True, capture_output=True, timeout=START_TIMEOUT_S)  # noqa: S603 # as above
        _write_certificates(kube, "envoy-gateway", directory / "controller")
        mounted = f"mkdir -p {CERTIFICATES} && mount --bind {directory}/controller {CERTIFICATES} && exec {controller} server"
        command = ["unshare", "--mount", "sh", "-c", f"{mounted} --config-path {directory}/gateway.json"]
        stack.callback(_remove, Path(CERTIFICATES))
        stack.enter_context(running_process(directory / "controller.log", command, env=environment))
        command = [str(envoy), *_await_arguments(running)]
        stack.enter_context(running_process(directory / "envoy.log", command, env=environment))
        yield running


def _write_certificates(kube: RunningKube, secret: str, place: Path) -> None:
    place.mkdir()
    data = json.loads(kube.kubectl("get", "secret", secret, "--namespace", SYSTEM, "--output=json"))["data"]
    for file, text in data.items():
        (place / file).write_bytes(base64.b64decode(text))


def _arguments(running: KubeGateway) -> list[str] | None:
    """Return how Envoy is to be started here, once there is a Deployment that says so."""
    found = json.loads(running.kube.kubectl("get", "deployment,configmap", "--namespace", SYSTEM, "--output=json"))["items"]
    containers = [each["spec"]["template"]["spec"]["containers"] for each in found if each["kind"] == "Deployment"]
    if not containers:
        return None
    directory = running.directory
    _write_certificates(running.kube, "envoy", directory / "certificates")
    (directory / "sds").mkdir()
    here = {f"{CERTIFICATES}/": f"{directory}/certificates/", f"{SECRETS}/": f"{directory}/sds/"}
    for each in found:
        for file, text in each.get("data", {}).items():
            if file.endswith(".json"):
                (directory / "sds" / file).write_text(_replaced(text, here))
    (envoy,) = (each for each in containers[0] if each["name"] == "envoy")
    arguments = [each.replace("$(ENVOY_POD_NAME)", "envoy-0") for each in envoy["args"]]
    at = arguments.index("--config-yaml") + 1
    bootstrap = yaml.safe_load(_replaced(arguments[at], here | {"$(ENVOY_SERVICE_ZONE)": "zone"}))
    arguments[at] = json.dumps(_on_this_machine(bootstrap))
    return [*arguments, "--concurrency", "1", "--disable-hot-restart"]


def _on_this_machine(bootstrap: Any) -> Any:
    """Return a bootstrap whose Envoy finds the controller here, and leaves it its ports."""
    if isinstance(bootstrap, list):
        return [_on_this_machine(each) for each in bootstrap]  # pyright: ignore[reportUnknownVariableType] # any YAML
    if not isinstance(bootstrap, dict):
        return bootstrap
    changed: dict[str, Any] = {key: _on_this_machine(value) for key, value in bootstrap.items()}  # pyright: ignore[reportUnknownVariableType] # any YAML
    if str(changed.get("address", "")).startswith("envoy-gateway."):
        changed["address"] = "127.0.0.1"
    if (port := changed.get("port_value")) in ADMIN_PORTS:
        changed["port_value"] = ADMIN_PORTS[port]
    return changed


def _replaced(text: str, words: dict[str, str]) -> str:
    for word, by in words.items():
        text = text.replace(word, by)
    return text


def _await_arguments(running: KubeGateway) -> list[str]:
    deadline = time.monotonic() + START_TIMEOUT_S
    while (arguments := _arguments(running)) is None:
        if time.monotonic() > deadline:
            raise AssertionError(f"the controller wants no Envoy after {START_TIMEOUT_S} s:\n{running.log()}")
        time.sleep(POLL_S)
    return arguments


def _remove(empty: Path) -> None:
    with contextlib.suppress(OSError):  # another run has it
        empty.rmdir()
