"""A real Kubernetes API under a scraper, for tests: whoever makes and changes objects, a line that can be cut, what was told.

There are no nodes: pods are as ready as `Administrator.ready` says, and nobody but a test makes EndpointSlices.
"""

import asyncio
import contextlib
import http.client
import json
import ssl
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from shunter.envoyconf.testing_kube import RunningKube
from shunter.scraper.core.cluster import Cluster
from shunter.scraper.shell.registry import Registry

__all__ = ["GIE", "LLMD", "MERGE", "Administrator", "Followed", "Relay", "relayed"]

# For anything that comes at once on an idle machine: tests run beside others.
PATIENCE_S = 60.0
GIE, LLMD = "inference.networking.k8s.io", "llm-d.ai"
MERGE, STRATEGIC = "application/merge-patch+json", "application/strategic-merge-patch+json"


class Administrator:
    """Makes and changes objects, one request each."""

    def __init__(self, kube: RunningKube) -> None:
        self.kube = kube
        self._namespaces = 0
        config = json.loads(kube.kubeconfig.read_text())
        self._trust = ssl.create_default_context(cafile=config["clusters"][0]["cluster"]["certificate-authority"])
        self._token = config["users"][0]["user"]["token"]

    def __call__(self, method: str, path: str, body: object = None, kind: str = "application/json") -> Any:
        """Ask the API server; raises RuntimeError with its words if it refuses."""
        connection = http.client.HTTPSConnection(urlsplit(self.kube.server).netloc, context=self._trust, timeout=30)
        with contextlib.closing(connection):
            headers = {"Authorization": f"Bearer {self._token}", "Content-Type": kind}
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = connection.getresponse()
            said = json.loads(answer.read())
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {said}")
        return said

    def namespace(self, name: str) -> str:
        """Make a namespace that nobody has, and return its name."""
        self._namespaces += 1
        name = f"{name}-{self._namespaces}"
        self("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        return name

    def pool(self, namespace: str, name: str = "pool", ports: Sequence[int] = (8000,)) -> Any:
        """Make an InferencePool of the pods whose label ``app`` is its name."""
        spec = {
            "selector": {"matchLabels": {"app": name}},
            "targetPorts": [{"number": port} for port in ports],
            "endpointPickerRef": {"name": "epp", "port": {"number": 9002}},
        }
        body = {"apiVersion": f"{GIE}/v1", "kind": "InferencePool", "metadata": {"name": name}, "spec": spec}
        return self("POST", f"/apis/{GIE}/v1/namespaces/{namespace}/inferencepools", body)

    def objective(self, namespace: str, name: str = "o", pool: str = "pool", priority: int = 7) -> Any:
        """Make an InferenceObjective."""
        spec = {"poolRef": {"name": pool}, "priority": priority}
        body = {"apiVersion": f"{LLMD}/v1alpha2", "kind": "InferenceObjective", "metadata": {"name": name}, "spec": spec}
        return self("POST", f"/apis/{LLMD}/v1alpha2/namespaces/{namespace}/inferenceobjectives", body)

    def pod(self, namespace: str, name: str, ip: str, app: str = "pool") -> None:
        """Make a pod that is ready at this address."""
        meta = {"name": name, "labels": {"app": app}}
        spec = {"containers": [{"name": "c", "image": "i"}]}
        self("POST", f"/api/v1/namespaces/{namespace}/pods", {"metadata": meta, "spec": spec})
        self.ready(namespace, name, ip)

    def ready(self, namespace: str, name: str, ip: str, status: str = "True") -> None:
        """Say what a kubelet would; nobody else does here."""
        body = {"status": {"podIP": ip, "podIPs": [{"ip": ip}], "conditions": [{"type": "Ready", "status": status}]}}
        self("PATCH", f"/api/v1/namespaces/{namespace}/pods/{name}/status", body, STRATEGIC)

    def delete(self, namespace: str, name: str) -> None:
        """Delete a pod at once."""
        self("DELETE", f"/api/v1/namespaces/{namespace}/pods/{name}?gracePeriodSeconds=0")

    def slice(self, namespace: str, service: str, name: str, *pods: tuple[str, str], family: str = "IPv4") -> Any:
        """Make an EndpointSlice of a Service: pods with their addresses, ready at the port ``http``, 8000."""
        body = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "labels": {"kubernetes.io/service-name": service}},
            "addressType": family,
            "endpoints": [
                {"addresses": [ip], "conditions": {"ready": True}, "targetRef": {"kind": "Pod", "name": pod}}
                for pod, ip in pods
            ],
            "ports": [{"name": "http", "port": 8000, "protocol": "TCP"}],
        }
        return self("POST", f"/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices", body)

    def account(self, namespace: str, path: Path, name: str = "shunter") -> Path:
        """Make a service account that may do nothing yet, and write its kubeconfig to ``path``."""
        accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
        self("POST", accounts, {"metadata": {"name": name}})
        token = self("POST", f"{accounts}/{name}/token", {"spec": {"audiences": []}})
        config = json.loads(self.kube.kubeconfig.read_text())
        config["users"][0]["user"]["token"] = token["status"]["token"]
        config["contexts"][0]["context"]["namespace"] = namespace
        path.write_text(json.dumps(config))
        return path


class Followed:
    """A registry that is followed while the context lasts, and every cluster that it ever told."""

    def __init__(self, registry: Registry) -> None:
        self.clusters: list[Cluster] = []
        self.registry = registry
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.ensure_future(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def until(self, condition: Callable[[Cluster], object]) -> Cluster:
        """Wait for a cluster such as this."""
        async with asyncio.timeout(PATIENCE_S):
            while not (self.clusters and condition(self.clusters[-1])):
                await self._news.wait()
                self._news.clear()
        return self.clusters[-1]

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.registry.run())
            while True:
                self.clusters.append(await self.registry.changed())
                self._news.set()


class Relay:
    """A TCP relay that can be cut, be shut for a while, and be slow: each piece on its way back takes ``delay_s`` more."""

    def __init__(self, host: str, port: int, *, delay_s: float = 0.0) -> None:
        self.port = 0
        self._to = host, port
        self._delay_s = delay_s
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None] | None] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._open.set()
        self.cut()
        self._server.close()
        await asyncio.gather(*filter(None, self._serving))

    def cut(self) -> None:
        """End every connection."""
        for writer in self._writers:
            writer.close()

    def shut(self) -> None:
        """End every connection, and hold new ones until `reopen`."""
        self._open.clear()
        self.cut()

    def reopen(self) -> None:
        """Let connections through again."""
        self._open.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self._serving.add(task := asyncio.current_task())
        with contextlib.suppress(OSError):
            await self._open.wait()
            back, forth = await asyncio.open_connection(*self._to)
            self._writers.add(forth)
            await asyncio.gather(self._copy(reader, forth, 0.0), self._copy(back, writer, self._delay_s))
        self._writers.discard(writer)
        self._serving.discard(task)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float) -> None:
        with contextlib.suppress(OSError):
            while piece := await reader.read(1 << 16):
                await asyncio.sleep(delay_s)
                writer.write(piece)
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def relayed(server: str, kubeconfig: Path, path: Path, *, delay_s: float = 0.0) -> AsyncGenerator[Relay]:
    """Put a relay before an API server, and write to ``path`` the kubeconfig with it in the server's place."""
    parts = urlsplit(server)
    async with Relay(parts.hostname or "", parts.port or 0, delay_s=delay_s) as relay:
        _lead_through(relay.port, kubeconfig, path)
        yield relay


def _lead_through(port: int, kubeconfig: Path, path: Path) -> None:
    config = json.loads(kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{port}"
    path.write_text(json.dumps(config))
