"""The reference picker in Go, of either of the projects that have had it: how it is had, told apart and started.

llm-d-router's ``epp`` reads its endpoints from a file. The one that it came from, of the Gateway API Inference Extension,
learns of them from Kubernetes alone: a real API server and etcd run beside it then, from the first row that wants them to the
last of the run, with nothing to do (1 to 2 % of a core), and pods that nobody started have the model servers' addresses.
"""

import atexit
import functools
import json
import mmap
import os
import re
import shutil
import subprocess
from contextlib import ExitStack
from pathlib import Path

import msgspec
from hack.bench.cases import CASES, Case
from hack.bench.engines import FIRST, Engines
from hack.bench.processes import Children, Unavailable, until
from hack.bench.subjects import WEIGHTS, Picker, document, endpoints_file

from shunter.conformance.shell.ports import free_ports
from shunter.envoyconf.errors import EnvoyconfError
from shunter.envoyconf.shell.envoy import tools_dir
from shunter.envoyconf.testing_kube import RunningKube, find_crds, running_kube

__all__ = ["find_reference", "go_epp", "go_epp_version"]

LLM_D, EXTENSION = "github.com/llm-d/llm-d-router", "sigs.k8s.io/gateway-api-inference-extension"
WANTED = f"{LLM_D}/cmd/epp@v0.10.0"
BUILD_S = 3600  # 8 minutes of CPU

NAMED = {"name": "bench", "namespace": "default"}

# What the linker writes into every Go program; of a checkout that is no clean tag it says "(devel)".
BUILD_INFO = re.compile(rb"path\t\S+/epp\nmod\t(\S+)\t(\S*)")

# It scrapes in the process that picks. At its default of 50 ms that would swamp what requests cost, so it gets a second except
# where scraping is what is measured.
SCRAPE_MS = 1000

SOURCE = {"type": "metrics-data-source", "parameters": {"scheme": "http", "path": "/metrics", "insecureSkipVerify": True}}
EXTRACTOR = {"type": "core-metrics-extractor"}

# How many model servers it ever meets: pods say of which of these crowds they are.
CROWDS = sorted({case.load.endpoints for case in CASES if "go-epp" in case.subjects})


class Build(msgspec.Struct, frozen=True):
    """A binary, and of what it was built."""

    program: Path
    module: str
    version: str


def go_epp_version() -> str:
    """What is measured as go-epp, for the page's head; nothing is fetched for it."""
    given = _given()
    build = _read(given) if given else Build(Path(), *WANTED.split("/cmd/epp@"))
    return f"{build.module.rpartition('/')[2]} {build.version}"


def go_epp(children: Children, case: Case, engines: Engines) -> Picker:
    """The reference picker with the plugins of its chart's default and its own defaults otherwise, but without TLS."""
    build = find_reference()
    plugins = [*({"type": name} for name in WEIGHTS), SOURCE, EXTRACTOR]
    environment: dict[str, str] = {}
    if build.module == EXTENSION:
        environment["KUBECONFIG"] = str(_offer(engines))
        sources = [{"pluginRef": SOURCE["type"], "extractors": [{"pluginRef": EXTRACTOR["type"]}]}]
        made = document("inference.networking.x-k8s.io", plugins=plugins, dataLayer={"sources": sources})
    else:
        discovery = {"path": str(endpoints_file(children, engines)), "watchFile": False}
        plugins = [{"type": "file-discovery", "name": "file-disc", "parameters": discovery}, *plugins]
        made = document(plugins=plugins, dataLayer={"discovery": {"pluginRef": "file-disc"}})
    config = children.directory / "epp.yaml"
    config.write_text(json.dumps(made))
    port, health, metrics = free_ports(3)
    flags = {
        "pool-name": NAMED["name"],
        "pool-namespace": NAMED["namespace"],
        "config-file": config,
        "grpc-port": port,
        "grpc-health-port": health,
        "metrics-port": metrics,
        "zap-encoder": "json",
        "tracing": "false",
        "metrics-endpoint-auth": "false",
        "secure-serving": "false",
        "refresh-metrics-interval": f"{case.load.scrape_ms or SCRAPE_MS}ms",
    }
    picker = children.start("epp", [build.program, *(f"--{name}={value}" for name, value in flags.items())], environment)
    children.await_port(port)
    until(lambda: engines.scrapes() >= len(engines.addresses), "it does not know its endpoints", children)
    return Picker(roots=(picker,), ports=[port])


@functools.cache
def find_reference() -> Build:
    """Return ``$EPP_BIN``, else what Go builds; raise Unavailable, which says how to get it."""
    if os.environ.get("EPP_BIN"):
        given = _given()
        if given is None:
            raise Unavailable(f"EPP_BIN={os.environ['EPP_BIN']} is not an executable file")
        build = _read(given)
        if build.module not in {LLM_D, EXTENSION}:
            raise Unavailable(f"EPP_BIN={given} is of {build.module}; wanted is cmd/epp of {LLM_D} or {EXTENSION}")
        return build
    program = tools_dir() / "bench" / "epp"
    if program.exists():
        return _read(program)
    how = f"build {WANTED} with CGO_ENABLED=0 (a checkout of that tag will do: go build ./cmd/epp) and set EPP_BIN"
    if shutil.which("go") is None:
        raise Unavailable(f"no Go here; {how}")
    environment = {**os.environ, "CGO_ENABLED": "0", "GOBIN": str(program.parent)}
    try:
        done = subprocess.run(
            ["go", "install", WANTED], capture_output=True, text=True, check=False, timeout=BUILD_S, env=environment
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"go install takes more than {BUILD_S} s; {how}") from None
    if done.returncode or not program.exists():
        raise Unavailable(f"the module proxy used here does not serve it; {how}")
    return _read(program)


def _read(program: Path) -> Build:
    """Read in the binary itself what it is; ``$EPP_VERSION`` says what a checkout without its tag does not."""
    with program.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        found = BUILD_INFO.search(content)
        module, version = [each.decode() for each in found.groups()] if found else ("something else", "")
    known = version.strip("()") not in {"", "devel"}
    return Build(program, module, version if known else os.environ.get("EPP_VERSION", "of a checkout without a tag"))


def _given() -> Path | None:
    """``$EPP_BIN``, if that is a program."""
    path = Path(os.environ.get("EPP_BIN", ""))
    return path if path.is_file() and os.access(path, os.X_OK) else None


def _offer(engines: Engines) -> Path:
    """Make the pool these model servers; return the kubeconfig."""
    kube = _kube()
    reference = {"name": "bench", "port": {"number": 9002}}
    selector = {"matchLabels": {f"of-{len(engines.addresses)}": "yes"}}
    spec = {"selector": selector, "targetPorts": [{"number": engines.port}], "endpointPickerRef": reference}
    head = {"apiVersion": "inference.networking.k8s.io/v1", "kind": "InferencePool", "metadata": NAMED}
    kube.apply([{**head, "spec": spec}])
    return kube.kubeconfig


@functools.cache
def _kube() -> RunningKube:
    """A Kubernetes API that lasts as long as this process, with a Ready pod for every address that model servers ever have."""
    with ExitStack() as stack:
        try:
            kube = stack.enter_context(running_kube(find_crds("gie_")))
        except EnvoyconfError as error:
            raise Unavailable(f"it wants a Kubernetes API, as hack/kube/fetch brings it (SHUNTER_TOOLS_DIR): {error}") from None
        pods = [_pod(at) for at in range(CROWDS[-1])]
        kube.apply([{**pod, "spec": {"containers": [{"name": "server", "image": "none"}]}} for pod in pods])
        ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        hosts = [str(FIRST + at) for at in range(CROWDS[-1])]
        told = [
            {**pod, "status": {**ready, "podIP": host, "podIPs": [{"ip": host}]}} for pod, host in zip(pods, hosts, strict=True)
        ]
        words = ("apply", "--server-side", "--subresource=status", "-f", "-")
        kube.kubectl(*words, stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": told}))
        atexit.register(stack.pop_all().close)
    return kube


def _pod(at: int) -> dict[str, object]:
    labels = {f"of-{count}": "yes" for count in CROWDS if at < count}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": f"pod-{at}", "namespace": "default", "labels": labels}}
