"""A real Kubernetes API for tests: etcd and kube-apiserver on loopback, with every CRD that is here, gone afterwards.

There are no nodes and no controllers: objects are checked, defaulted and kept exactly as in a cluster, and nothing comes of
them. That is what a controller under test and ``kubectl apply --dry-run=server`` need.

Programs are looked for in ``bin`` of the tools directory (``$SHUNTER_TOOLS_DIR``, see `shunter.envoyconf.shell.envoy`), by
their own names or as the program ``kube`` which is all of them in one, then on ``PATH``; CRDs in ``crds`` of the tools
directory.
"""

import contextlib
import json
import os
import secrets
import shutil
import ssl
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import msgspec
import trustme

from shunter.envoyconf.errors import KubernetesRefusedError, ToolMissingError
from shunter.envoyconf.shell.envoy import tools_dir
from shunter.envoyconf.testing import free_ports

__all__ = ["RunningKube", "find_crds", "find_tool", "running_kube", "running_process"]

# Four seconds on an idle machine; two minutes are for one with a test on every core.
START_TIMEOUT_S = 120
STOP_TIMEOUT_S = 20
POLL_S = 0.05

# All CRDs in one call take ten seconds on an idle machine.
KUBECTL_TIMEOUT_S = 180

# What a `kube` is, if it is called so.
IN_KUBE = frozenset({"etcd", "kube-apiserver", "kube-controller-manager", "kube-proxy", "kube-scheduler", "kubectl", "kubelet"})

# What a Service would get an address of; nothing routes it.
SERVICE_NETWORK = "10.96.0.0/16"


def find_tool(name: str) -> Path:
    """Return the program of that name; raise ToolMissingError with what helps. It must be started under its name."""
    binaries = tools_dir() / "bin"
    kube = shutil.which("kube", path=binaries) if name in IN_KUBE else None
    found = shutil.which(name, path=binaries) or kube or shutil.which(name)
    if found is None:
        raise ToolMissingError(
            f"no {name}: put it into {binaries}, or on PATH; envtest's archive has etcd, kube-apiserver and kubectl"
        )
    return Path(found)


def find_crds(prefix: str = "") -> tuple[Path, ...]:
    """Return the files with CRDs whose names begin so; raise ToolMissingError if there are none."""
    files = tuple(sorted((tools_dir() / "crds").glob(f"{prefix}*.yaml")))
    if not files:
        raise ToolMissingError(
            f"no CRDs: put {prefix}*.yaml of Gateway API, GIE and the gateways' projects into {tools_dir() / 'crds'}"
        )
    return files


def _nothing() -> None:
    """There is no server of ours."""


class RunningKube(msgspec.Struct, frozen=True):
    """An API server whose administrator one is. ``kill_apiserver`` and ``start_apiserver`` leave etcd as it is."""

    server: str  # https://127.0.0.1:port
    kubeconfig: Path
    etcd: str = ""  # http://127.0.0.1:port
    kill_apiserver: Callable[[], None] = _nothing
    start_apiserver: Callable[[], None] = _nothing

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Return what kubectl prints; raise KubernetesRefusedError with its words if it fails."""
        done = subprocess.run(  # noqa: S603 # our own arguments to the tool that was looked for
            ["kubectl", "--kubeconfig", str(self.kubeconfig), *arguments],  # noqa: S607 # a name: the executable is below
            executable=find_tool("kubectl"),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=KUBECTL_TIMEOUT_S,
            check=False,
            env=os.environ | {"HOME": str(self.kubeconfig.parent)},  # where it keeps what it discovered
        )
        if done.returncode:
            raise KubernetesRefusedError(done.stderr.strip())
        return done.stdout

    def apply(self, documents: Iterable[dict[str, Any]], *, dry_run: bool = False) -> str:
        """Create or change objects, or only have them checked; raise KubernetesRefusedError if any is refused."""
        objects = {"apiVersion": "v1", "kind": "List", "items": list(documents)}
        flags = ["--dry-run=server"] if dry_run else []
        return self.kubectl("apply", "--server-side", "--force-conflicts", *flags, "-f", "-", stdin=json.dumps(objects))


@contextlib.contextmanager
def running_kube(crds: Iterable[Path] | None = None) -> Generator[RunningKube]:
    """Run an API server that knows the CRDs of these files, or of all that are here.

    Raises ToolMissingError if a program or the CRDs are missing, KubernetesRefusedError if the server does not get ready.
    """
    crds = find_crds() if crds is None else crds
    etcd, apiserver = find_tool("etcd"), find_tool("kube-apiserver")
    with tempfile.TemporaryDirectory(prefix="shunter-kube-") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        authority, token = _write_secrets(directory)
        ports = free_ports(3)
        client, peer = (f"http://127.0.0.1:{port}" for port in ports[:2])
        started = stack.enter_context(
            _program(
                directory,
                etcd,
                ("etcd", "--data-dir=etcd-data", "--unsafe-no-fsync", "--log-level=warn", "--name=default"),
                (f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
                (f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
                (f"--initial-cluster=default={peer}",),
            )
        )
        server = _Apiserver(
            directory,
            apiserver,
            ("kube-apiserver", f"--etcd-servers={client}", f"--secure-port={ports[2]}", "--bind-address=127.0.0.1"),
            ("--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none", "--profiling=false"),
            ("--tls-cert-file=server.pem", "--tls-private-key-file=server.key", "--token-auth-file=tokens.csv"),
            ("--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=server.key"),
            ("--service-account-signing-key-file=server.key", f"--service-cluster-ip-range={SERVICE_NETWORK}"),
            ("--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount"),
        )
        stack.callback(server.stop)
        trust = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
        url = f"https://127.0.0.1:{ports[2]}"

        def start() -> None:
            process = server.start()
            try:
                _await(lambda: _is_ready(url, trust, (started, process)), "the API server is not ready")
            except KubernetesRefusedError as error:
                words = "\n".join(path.read_text(errors="replace")[-1000:] for path in sorted(directory.glob("*.log")))
                raise KubernetesRefusedError(f"{error}:\n{words}") from None

        start()
        kubeconfig = _write_kubeconfig(directory, ports[2], authority, token)
        kube = RunningKube(url, kubeconfig, client, server.kill, start)
        if files := [flag for path in crds for flag in ("-f", str(path))]:
            kube.kubectl("create", *files)  # apply would keep a copy in an annotation, which is too large for some
            _await(lambda: _all_established(kube), "the CRDs are not established")
        yield kube


class _Apiserver:
    """The program kube-apiserver, which may be killed and started again."""

    def __init__(self, directory: Path, program: Path, *arguments: tuple[str, ...]) -> None:
        self._program = directory, program, *arguments
        self._running = contextlib.ExitStack()
        self._process: subprocess.Popen[Any] | None = None

    def start(self) -> "subprocess.Popen[Any]":
        self._process = self._running.enter_context(_program(*self._program))
        return self._process

    def kill(self) -> None:
        """End it as a machine that loses its power does."""
        if self._process:
            self._process.kill()
        self.stop()

    def stop(self) -> None:
        self._running.close()


def _write_secrets(directory: Path) -> tuple[trustme.CA, str]:
    """Write a certificate for the server, whose key signs service accounts' tokens too, and a token of an administrator."""
    authority, token = trustme.CA(), secrets.token_hex()
    certificate = authority.issue_cert("127.0.0.1", "localhost", "kubernetes.default.svc")
    (directory / "server.pem").write_bytes(b"".join(each.bytes() for each in certificate.cert_chain_pems))
    key = directory / "server.key"
    key.touch(0o600)
    key.write_bytes(certificate.private_key_pem.bytes())
    tokens = directory / "tokens.csv"
    tokens.touch(0o600)
    tokens.write_text(f"{token},admin,admin,system:masters\n")
    return authority, token


def _write_kubeconfig(directory: Path, port: int, authority: trustme.CA, token: str) -> Path:
    authority.cert_pem.write_to_path(directory / "ca.pem")
    path = directory / "kubeconfig"
    path.touch(0o600)
    cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority": str(directory / "ca.pem")}
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "clusters": [{"name": "test", "cluster": cluster}],
                "users": [{"name": "admin", "user": {"token": token}}],
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
            }
        )
    )
    return path


def _program(
    directory: Path, program: Path, *arguments: tuple[str, ...]
) -> contextlib.AbstractContextManager["subprocess.Popen[Any]"]:
    command = [argument for some in arguments for argument in some]
    return running_process(directory / f"{command[0]}.log", command, executable=program, cwd=directory)


@contextlib.contextmanager
def running_process(log: Path, command: Iterable[str], **settings: Any) -> Generator["subprocess.Popen[Any]"]:
    """Run a program, which writes to a file and reads nothing; at the end it is asked to end, and killed if it does not."""
    with log.open("wb") as sink:
        process = subprocess.Popen(  # noqa: S603 # the caller's own
            [*command], stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, **settings
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(condition: Callable[[], bool], otherwise: str) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not condition():
        if time.monotonic() > deadline:
            raise KubernetesRefusedError(f"{otherwise} after {START_TIMEOUT_S} s")
        time.sleep(POLL_S)


def _is_ready(server: str, trust: ssl.SSLContext, processes: tuple["subprocess.Popen[Any]", ...]) -> bool:
    if codes := [process.returncode for process in processes if process.poll() is not None]:
        raise KubernetesRefusedError(f"the API server is not ready, but ended with exit code {codes[0]}")
    with (
        contextlib.suppress(OSError),  # not yet listening, or not yet ready (500)
        urllib.request.urlopen(f"{server}/readyz", context=trust, timeout=5),  # noqa: S310 # https to our own child
    ):
        return True
    return False


def _all_established(kube: RunningKube) -> bool:
    """Ask once for all of them: ``kubectl wait`` takes five seconds to look at forty. Conditions are null at first."""
    definitions = json.loads(kube.kubectl("get", "crd", "-o", "json"))["items"]
    stated: list[list[dict[str, str]]] = [one.get("status", {}).get("conditions") or [] for one in definitions]
    return all(any(each["type"] == "Established" and each["status"] == "True" for each in one) for one in stated)
