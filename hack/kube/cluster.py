"""A one-node Kubernetes cluster whose pods really run: kubelet, containerd and kube-proxy on a network and mounts of their own.

Everything is real but the size: pods get addresses, Services are routed, images come from archives. The node is one tree of
processes in a process namespace of its own; killing its first one ends every container, and its mounts go with it. Root only.
"""

import contextlib
import json
import os
import secrets
import subprocess
import tempfile
from collections.abc import Generator, Iterable
from pathlib import Path

import trustme
from hack.kube import programs
from hack.kube.image import write_image

from shunter.envoyconf.errors import KubernetesRefusedError
from shunter.envoyconf.testing_kube import RunningKube, find_tool, running_process

__all__ = ["running_cluster"]

# All of these are in the network namespace of the caller alone, where the ports are free and the addresses nobody's.
NODE_IP = "10.210.0.2"
PORT = 6443
POD_NETWORK = "10.244.0.0/24"
SERVICE_NETWORK = "10.96.0.0/16"
API_SERVICE_IP = "10.96.0.1"

# A bridge without ports is an interface with an address that every kernel can make.
NETWORK = (
    "ip link add node0 type bridge",
    f"ip address add {NODE_IP}/24 dev node0",
    "ip link set node0 up",
    "ip route add default dev node0",
    "sysctl -qw net.ipv4.ip_forward=1",
)

# For pods; nobody outside the cluster is asked.
COREFILE = f"""
.:53 {{
    bind {NODE_IP}
    errors
    kubernetes cluster.local {{
        kubeconfig admin.kubeconfig
    }}
}}
"""

# Left in `bin` beside the kubeconfig; those who drive the cluster find kubectl there.
PROGRAMS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl")

PAUSE = "shunter.test/pause:1"

USERS = {  # name in our files: user, group
    "admin": ("admin", "system:masters"),
    "manager": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "proxy": ("system:kube-proxy", ""),
    "node": ("system:node:node1", "system:nodes"),
}

# What the kubelet would set for the whole machine unless it is so already; the node is shown files that say it is.
TUNABLES = {"vm/overcommit_memory": 1, "kernel/panic": 10, "kernel/panic_on_oops": 1}

# The process that the node's namespaces end with; a shell, since it also has to bury what containers leave behind.
NODE = """
set -eu
mount -t tmpfs tmpfs /run/netns 2>/dev/null || { mkdir -p /run/netns; mount -t tmpfs tmpfs /run/netns; }
for tunable in "$1"/tunables/*; do mount --bind "$tunable" "/proc/sys/$(basename "$tunable" | tr : /)"; done
containerd --config "$1/containerd.toml" >"$1/containerd.log" 2>&1 &
until [ -S "$1/containerd.sock" ]; do sleep 0.1; done  # the kubelet ends if there is nobody
"$1/bin/kubelet" "--config=$1/kubelet.json" "--kubeconfig=$1/node.kubeconfig" "--root-dir=$1/kubelet" \\
    "--cert-dir=$1/kubelet/pki" --hostname-override=node1 "--node-ip=$2" >"$1/kubelet.log" 2>&1 &
"$1/bin/kube-proxy" "--kubeconfig=$1/proxy.kubeconfig" --proxy-mode=nftables --hostname-override=node1 \\
    --conntrack-max-per-core=0 --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0 \\
    >"$1/kube-proxy.log" 2>&1 &
wait
"""


@contextlib.contextmanager
def running_cluster(images: Iterable[Path], *, dns: bool = False) -> Generator[RunningKube]:
    """Run a cluster in the network namespace of the caller, which must be its own (`own_network`), with these images.

    Names of Services resolve if there is ``dns``, which takes CoreDNS (`hack/kube/fetch-tools`).

    Raises programs.Missing, ToolMissingError or PermissionError if it cannot be; KubernetesRefusedError if it does not come up.
    """
    for name in ("containerd", "runc", "nft"):
        programs.find(name)
    kube = find_tool("kubelet")
    names = find_tool("coredns") if dns else None
    with tempfile.TemporaryDirectory(prefix="shk-", ignore_cleanup_errors=True) as name, contextlib.ExitStack() as stack:
        directory = Path(name)  # short: the path of a unix socket has 107 characters at most
        (directory / "bin").mkdir()
        for program in PROGRAMS:
            (directory / "bin" / program).symlink_to(kube)
        for command in NETWORK:
            subprocess.run(command.split(), check=True, capture_output=True)
        _furnish(directory)
        write_image(directory / "pause.tar", PAUSE, tools=[("sleep", Path("/bin/sleep"))], command=("sleep", "infinity"))
        if names:
            (directory / "bin" / "coredns").symlink_to(names)
        running = RunningKube(f"https://127.0.0.1:{PORT}", directory / "admin.kubeconfig")
        try:
            _start(stack, directory, running, [directory / "pause.tar", *images])
        except KubernetesRefusedError as error:
            words = "\n".join(f"{log.name}: {log.read_text(errors='replace')[-1000:]}" for log in directory.glob("*.log"))
            raise KubernetesRefusedError(f"{error}:\n{words}") from None
        yield running


def _start(stack: contextlib.ExitStack, directory: Path, running: RunningKube, images: Iterable[Path]) -> None:
    def start(program: str, *arguments: str) -> None:
        command = [f"{directory}/bin/{program}", *arguments]
        stack.enter_context(running_process(directory / f"{program}.log", command, cwd=directory))

    stack.callback(_remove_cgroups)
    start("etcd", "--data-dir=etcd", "--unsafe-no-fsync", "--log-level=warn")
    start(
        "kube-apiserver",
        *("--etcd-servers=http://127.0.0.1:2379", f"--secure-port={PORT}", f"--advertise-address={NODE_IP}"),
        *("--tls-cert-file=server.pem", "--tls-private-key-file=server.key", "--token-auth-file=tokens.csv"),
        *("--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=server.key"),
        *("--service-account-signing-key-file=server.key", f"--service-cluster-ip-range={SERVICE_NETWORK}"),
        *("--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--profiling=false"),
        "--kubelet-preferred-address-types=InternalIP",
    )
    _await(lambda: running.kubectl("get", "--raw", "/readyz") == "ok", "the API server is not ready")
    start(
        "kube-controller-manager",
        *("--kubeconfig=manager.kubeconfig", "--use-service-account-credentials", "--leader-elect=false"),
        *("--service-account-private-key-file=server.key", "--root-ca-file=ca.pem", "--bind-address=127.0.0.1"),
    )
    if (directory / "bin" / "coredns").exists():
        start("coredns", "-conf=Corefile")
    start("kube-scheduler", "--kubeconfig=scheduler.kubeconfig", "--leader-elect=false", "--bind-address=127.0.0.1")
    isolated = ("unshare", "--mount", "--propagation=private", "--pid", "--fork", "--kill-child", "--mount-proc")
    command = [*isolated, "sh", "-c", NODE, "node", str(directory), NODE_IP]
    node = stack.enter_context(running_process(directory / "node.log", command, env=programs.environment()))
    stack.callback(node.kill)  # unshare ignores SIGTERM while it waits
    _await(lambda: bool(_ctr(directory, "version")), "containerd does not answer")
    for image in images:
        _ctr(directory, "images", "import", str(image))
    _await(
        lambda: running.kubectl("wait", "--for=condition=Ready", "node/node1", "--timeout=5s") != "", "the node is not ready"
    )
    _await(lambda: bool(running.kubectl("get", "serviceaccount", "default")), "there is no service account")


def _ctr(directory: Path, *arguments: str) -> str:
    command = [programs.find("ctr"), "--address", f"{directory}/containerd.sock", "--namespace", "k8s.io", *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise KubernetesRefusedError(done.stderr.strip())
    return done.stdout


def _await(condition: programs.Condition, otherwise: str) -> None:
    """Wait until it is so; refusals until then mean that it is not."""

    def asked() -> bool:
        with contextlib.suppress(KubernetesRefusedError):
            return condition()
        return False

    try:
        programs.await_that(asked, otherwise)
    except AssertionError as error:
        raise KubernetesRefusedError(str(error)) from None


def _furnish(directory: Path) -> None:
    """Write certificates, tokens, and what each program reads."""
    authority = trustme.CA()
    names = ("127.0.0.1", NODE_IP, API_SERVICE_IP, "localhost", "kubernetes.default.svc")
    certificate = authority.issue_cert(*names)
    authority.cert_pem.write_to_path(directory / "ca.pem")
    files = {
        "server.pem": b"".join(each.bytes() for each in certificate.cert_chain_pems).decode(),
        "server.key": certificate.private_key_pem.bytes().decode(),
        "containerd.toml": _containerd(directory),
        "kubelet.json": json.dumps(_kubelet(directory)),
        "resolv.conf": "",
        "Corefile": COREFILE,
    }
    tokens: list[str] = []
    for name, (user, group) in USERS.items():
        token = secrets.token_hex()
        tokens.append(f"{token},{user},{user}" + (f",{group}" if group else ""))
        files[f"{name}.kubeconfig"] = json.dumps(_kubeconfig(directory, token))
    files["tokens.csv"] = "\n".join(tokens) + "\n"
    for name, text in files.items():
        path = directory / name
        path.touch(0o600)
        path.write_text(text)
    for folder in ("cni", "tunables", "pod-logs"):
        (directory / folder).mkdir()
    for tunable, value in TUNABLES.items():
        (directory / "tunables" / tunable.replace("/", ":")).write_text(f"{value}\n")
    (directory / "cni" / "10-pods.conflist").write_text(json.dumps(_pod_network(directory)))


def _kubeconfig(directory: Path, token: str) -> dict[str, object]:
    cluster = {"server": f"https://127.0.0.1:{PORT}", "certificate-authority": f"{directory}/ca.pem"}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "one-node",
        "clusters": [{"name": "one-node", "cluster": cluster}],
        "users": [{"name": "one-node", "user": {"token": token}}],
        "contexts": [{"name": "one-node", "context": {"cluster": "one-node", "user": "one-node"}}],
    }


def _containerd(directory: Path) -> str:
    # Without CAP_SYS_RESOURCE nobody may lower a container's oom_score_adj below our own.
    plugins = os.environ.get("CNI_PATH") or programs.find("containerd").parents[1] / "lib" / "cni"
    return f"""version = 2
root = "{directory}/containerd/root"
state = "{directory}/containerd/state"
[grpc]
address = "{directory}/containerd.sock"
[ttrpc]
address = "{directory}/containerd.ttrpc"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{directory}/cni"
"""


def _pod_network(directory: Path) -> dict[str, object]:
    addresses = {"type": "host-local", "dataDir": f"{directory}/cni/addresses", "ranges": [[{"subnet": POD_NETWORK}]]}
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "hairpinMode": True}
    routed = addresses | {"routes": [{"dst": "0.0.0.0/0"}]}
    return {"cniVersion": "1.0.0", "name": "pods", "plugins": [bridge | {"ipam": routed}]}


def _kubelet(directory: Path) -> dict[str, object]:
    nothing = {"memory.available": "50Mi", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%"}
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{directory}/containerd.sock",
        # Only the caller's namespace can reach it.
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        # Machines of test runs have cgroup v1, swap, and no systemd to ask.
        "failCgroupV1": False,
        "failSwapOn": False,
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": False,
        "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": False,
        "oomScoreAdj": 0,
        "evictionHard": nothing,
        "resolvConf": f"{directory}/resolv.conf",
        "podLogsDir": f"{directory}/pod-logs",
        "volumePluginDir": f"{directory}/kubelet/plugins",
        "serializeImagePulls": False,
        "clusterDNS": [NODE_IP],
        "clusterDomain": "cluster.local",
    }


def _remove_cgroups() -> None:
    """Remove what containers leave behind: empty groups, unless another cluster has its own in them."""
    for root in Path("/sys/fs/cgroup").glob("*/k8s.io"):
        for group in sorted(root.rglob("*"), reverse=True):
            if group.is_dir():
                with contextlib.suppress(OSError):
                    group.rmdir()
        with contextlib.suppress(OSError):
            root.rmdir()
