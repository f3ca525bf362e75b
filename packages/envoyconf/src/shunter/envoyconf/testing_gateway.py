"""A real Envoy Gateway for tests: fed with manifests as files, it runs an Envoy on this machine, without Kubernetes.

Its ports are fixed (8081, 18000, 18002, 19000, 19001, 19003), so it wants a network of its own: see ``own_network``. What it
cannot be given this way: Services, a document of a kind it does not know (one fails the whole load), and, since it then dies
(1.9.1, "unsupported type: uint64"), a BackendTrafficPolicy with ConsistentHash.
"""

import contextlib
import ctypes
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import yaml

from shunter.envoyconf.core.protojson import Resource
from shunter.envoyconf.shell.envoy import VERSION, tools_dir

__all__ = [
    "CONTROLLER",
    "Condition",
    "RunningGateway",
    "conditions_of",
    "find_envoy_gateway",
    "own_network",
    "running_gateway",
]

# It takes 3 s on an idle machine.
START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 10
POLL_S = 0.05

CONTROLLER = "gateway.envoyproxy.io/gatewayclass-controller"
# Its word for a directory, and ours.
HOMES = {"configHome": "config", "dataHome": "data", "stateHome": "state", "runtimeDir": "run"}

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 1

STATUS = re.compile(r"Got new status for (\w+)\n(.*?)\n\t\{.*?\"key\": \"([^\"]*)\"", re.DOTALL)


class Condition(msgspec.Struct, frozen=True, order=True):
    """What the controller says of an object."""

    kind: str
    key: str  # namespace/name
    type: str
    status: str
    reason: str
    message: str


class RunningGateway(msgspec.Struct, frozen=True):
    """A controller whose Envoy listens."""

    directory: Path
    process: "subprocess.Popen[Any]"

    def log(self) -> str:
        """Return what the controller has written so far."""
        return (self.directory / "log").read_text(errors="replace")

    def conditions(self) -> list[Condition]:
        """Return what it says of each object now."""
        latest = {(kind, key): yaml.safe_load(text) for kind, text, key in STATUS.findall(self.log())}
        return sorted(
            Condition(kind, key, *(str(each[field]) for field in ("type", "status", "reason", "message")))
            for (kind, key), status in latest.items()
            for each in conditions_of(status)
        )

    @property
    def envoy_admin(self) -> str:
        """host:port of its Envoy's admin interface."""
        return next((self.directory / "run").glob("*/admin-address.txt")).read_text()


def find_envoy_gateway() -> Path | None:
    """Return the controller's binary: ``bin/envoy-gateway`` in the tools directory, else the one on PATH, else None."""
    kept = tools_dir() / "bin" / "envoy-gateway"
    found = str(kept) if os.access(kept, os.X_OK) else shutil.which("envoy-gateway")
    return Path(found) if found else None


@contextlib.contextmanager
def own_network() -> Generator[None]:
    """Give this thread, and the processes and sockets it makes meanwhile, a network with nothing in it but loopback.

    PermissionError without CAP_SYS_ADMIN. A socket stays in the network in which it was made, and threads in that of the
    thread that started them: do not mix with libraries that keep threads which connect (gRPC).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check(libc.unshare(CLONE_NEWNET))
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
                fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", IFF_UP))
            yield
        finally:
            _check(libc.setns(before, CLONE_NEWNET))
    finally:
        os.close(before)


@contextlib.contextmanager
def running_gateway(
    documents: Iterable[Resource], controller: Path, envoy: Path, *, flags: Iterable[str] = ()
) -> Generator[RunningGateway]:
    """Run the controller with manifests until its Envoy listens on every port of every Gateway among them.

    ``flags`` are runtime flags that are off by default, such as XDSNameSchemeV2. The manifests are told that Envoy is a
    process here rather than a Deployment. AssertionError with the controller's last words if it ends before, or nothing
    listens in time.
    """
    manifests = [_on_this_machine(each) for each in documents]
    ports = {each["port"] for gateway in manifests if gateway["kind"] == "Gateway" for each in gateway["spec"]["listeners"]}
    with tempfile.TemporaryDirectory(prefix="shunter-eg-") as name:
        directory = Path(name)
        _furnish(directory, manifests, envoy, flags)
        certificates = (str(controller), "certgen", "--local", "--config-home", f"{name}/config")
        server = (str(controller), "server", "--config-path", f"{name}/gateway.json")
        with (directory / "log").open("wb") as log:
            settings: Any = {"env": os.environ | {"HOME": name}, "stdin": subprocess.DEVNULL, "stdout": log, "stderr": log}
            # The caller's own binary on files of ours.
            subprocess.run(certificates, check=True, timeout=START_TIMEOUT_S, **settings)  # noqa: S603 # as above
            # A group of its own, since its Envoys do not end with it if it is killed.
            process: subprocess.Popen[Any] = subprocess.Popen(server, start_new_session=True, **settings)  # noqa: S603 # as above
            running = RunningGateway(directory, process)
            try:
                _await_listening(running, ports)
                yield running
            finally:
                _stop(process)


def _check(result: int) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def conditions_of(status: Any) -> Iterator[dict[str, Any]]:
    """Yield every condition anywhere in a status: of the object, its listeners, parents and ancestors."""
    if isinstance(status, dict):
        fields = cast("dict[str, Any]", status)
        yield from fields.get("conditions", ())
        yield from conditions_of([value for key, value in fields.items() if key != "conditions"])
    elif isinstance(status, list):
        for each in cast("list[Any]", status):
            yield from conditions_of(each)


def _on_this_machine(document: Resource) -> Resource:
    if document["kind"] != "EnvoyProxy":
        return document
    provider = {"type": "Host", "host": {"envoyVersion": VERSION}}
    return document | {"spec": document["spec"] | {"provider": provider}}


def _furnish(directory: Path, manifests: list[Resource], envoy: Path, flags: Iterable[str]) -> None:
    # Where it would otherwise put an Envoy that it fetches.
    binary = directory / "data" / "envoy-versions" / VERSION / "bin" / "envoy"
    for each in (binary.parent, directory / "manifests", directory / "config"):
        each.mkdir(parents=True)
    binary.symlink_to(envoy)
    (directory / "manifests" / "all.yaml").write_text("\n---\n".join(map(json.dumps, manifests)))
    homes = {home: str(directory / place) for home, place in HOMES.items()}
    configuration = {
        "apiVersion": "gateway.envoyproxy.io/v1alpha1",
        "kind": "EnvoyGateway",
        "gateway": {"controllerName": CONTROLLER},
        "provider": {
            "type": "Custom",
            "custom": {
                "resource": {"type": "File", "file": {"paths": [str(directory / "manifests")]}},
                "infrastructure": {"type": "Host", "host": homes},
            },
        },
        "extensionApis": {"enableBackend": True, "enableEnvoyPatchPolicy": True},
        "runtimeFlags": {"enabled": list(flags)},
    }
    (directory / "gateway.json").write_text(json.dumps(configuration))


def _await_listening(running: RunningGateway, ports: Iterable[int]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    for port in ports:
        while not _listens(port):
            last_words = running.log()[-5000:]
            if running.process.poll() is not None:
                raise AssertionError(f"the controller ended:\n{last_words}")
            if time.monotonic() > deadline:
                raise AssertionError(f"nothing listens on port {port} after {START_TIMEOUT_S} s:\n{last_words}")
            time.sleep(POLL_S)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _stop(process: "subprocess.Popen[Any]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(STOP_TIMEOUT_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
