"""Examine the Go endpoint picker that the Gateway API Inference Extension had until v1.5, on a real Kubernetes API.

    GIE_EPP_BIN=/path/to/epp python -m hack.conformance.go_picker [--report FILE]… [--envoy PROGRAM] [--select PREFIX]…

It learns of its endpoints from the API alone: pods on addresses of this machine, which the exam makes Ready and deletes.
"""

import argparse
import json
import os
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shunter.conformance.cli.exams import Wishes, follow
from shunter.conformance.core.addresses import split_address
from shunter.conformance.sections.pickers import CASES
from shunter.conformance.shell.pickers.exam import examine
from shunter.conformance.shell.pickers.launching import Process
from shunter.conformance.shell.pickers.recipes import Site, document
from shunter.envoyconf.testing_kube import RunningKube, find_crds, running_kube

__all__ = ["GiePicker"]

HOSTS = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
LABELS = {"app": "exam"}
POOL = {
    "apiVersion": "inference.networking.k8s.io/v1",
    "kind": "InferencePool",
    "metadata": {"name": "exam", "namespace": "default"},
    "spec": {"selector": {"matchLabels": LABELS}, "endpointPickerRef": {"name": "exam", "port": {"number": 9002}}},
}


class GiePicker:
    """A recipe of the exam; `ports` are those of the pool."""

    profile = "gie-epp"

    def __init__(self, binary: str, kube: RunningKube, ports: Sequence[int]) -> None:
        self._binary, self._kube = binary, kube
        kube.apply([POOL | {"spec": {**POOL["spec"], "targetPorts": [{"number": port} for port in ports]}}])

    def document(self, site: Site) -> dict[str, Any]:
        """What it is to heed."""
        del site
        source = {
            "type": "metrics-data-source",
            "parameters": {"scheme": "http", "path": "/metrics", "insecureSkipVerify": True},
        }
        extractor = {"type": "core-metrics-extractor"}
        sources = [{"pluginRef": source["type"], "extractors": [{"pluginRef": extractor["type"]}]}]
        return document("inference.networking.x-k8s.io", source, extractor, dataLayer={"sources": sources})

    def commands(self, site: Site) -> list[list[str]]:
        """With its own defaults, TLS among them, but for who may read its metrics."""
        flags = {
            "pool-name": "exam",
            "pool-namespace": "default",
            "config-file": site.config,
            "grpc-port": site.picks,
            "grpc-health-port": site.health,
            "metrics-port": site.metrics,
            "tracing": "false",
            "metrics-endpoint-auth": "false",
        }
        return [["env", f"KUBECONFIG={self._kube.kubeconfig}", self._binary, *(f"--{name}={flags[name]}" for name in flags)]]

    def offer(self, site: Site, addresses: Sequence[str]) -> None:
        """Let there be a Ready pod for each host, with these of the pool's ports, and no other."""
        del site
        wanted: dict[str, list[str]] = {}
        for host, port in map(split_address, addresses):
            wanted.setdefault(host, []).append(str(port))
        there = {each.removeprefix("pod/") for each in self._kube.kubectl("get", "pods", "-o", "name").split()}
        names = {host: f"server-{host.rpartition('.')[2]}" for host in wanted}
        for name in there - {*names.values()}:
            self._kube.kubectl("delete", "pod", name, "--grace-period=0", "--force")
        for host, name in names.items():
            annotations = {"inference.networking.k8s.io/active-ports": ",".join(wanted[host])}
            metadata = {"name": name, "namespace": "default", "labels": LABELS, "annotations": annotations}
            containers = [{"name": "server", "image": "none"}]
            self._kube.apply([{"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": {"containers": containers}}])
            if name not in there:
                ready = {"type": "Ready", "status": "True"}
                status = {"phase": "Running", "podIP": host, "podIPs": [{"ip": host}], "conditions": [ready]}
                patch = json.dumps({"status": status})
                self._kube.kubectl("patch", "pod", name, "--subresource=status", "--type=merge", "-p", patch)


def _shared_ports() -> tuple[int, int]:
    """Numbers that are free on all hosts, since all endpoints of a pool have the same."""
    free: list[int] = []
    while len(free) < 2:
        with socket.create_server((HOSTS[0], 0)) as first:
            port = first.getsockname()[1]
            try:
                for host in HOSTS[1:]:
                    socket.create_server((host, port)).close()
                free.append(port)
            except OSError:
                continue
    return free[0], free[1]


def main() -> None:
    """Hold the exam."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--report", action="append", default=[], type=Path)
    parser.add_argument("--select", action="append", default=[])
    parser.add_argument("--implementation", action="append", default=[])
    parser.add_argument("--envoy", type=Path)
    options = parser.parse_args()
    binary = os.environ.get("GIE_EPP_BIN")
    if not binary:
        sys.exit("GIE_EPP_BIN is not set: the binary that `go build ./cmd/epp` makes of gateway-api-inference-extension v1.5.0")
    wishes = Wishes(
        tuple(options.select), "MAY", (), tuple(options.report), tuple(options.implementation), 60.0, 3, None, dry_run=False
    )
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    with running_kube(find_crds("gie_")) as kube:
        port, another = _shared_ports()
        cases = wishes.choose(CASES)
        picker = Process(GiePicker(binary, kube, (port, another)))
        servers = [*(f"{host}:{port}" for host in HOSTS), f"{HOSTS[-1]}:{another}"]
        follow(examine(picker, servers=servers, cases=cases, tls=True, envoy=options.envoy), cases, wishes)


if __name__ == "__main__":
    main()
