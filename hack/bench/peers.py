"""What a user could run instead, from PyPI, each in an environment of its own; they need no Envoy."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
from hack.bench.cases import CLOSED, STREAMED, Case, Load
from hack.bench.engines import Engines
from hack.bench.processes import Children, Unavailable
from hack.bench.streams import MODEL
from hack.bench.subjects import Picker, Start, native, shunter

from shunter.conformance.shell.ports import free_ports
from shunter.envoyconf.shell.envoy import tools_dir

__all__ = ["PEERS", "PEER_CASES", "PEER_VERSIONS"]

REQUIREMENTS = {
    "sglang-router": "sglang-router==0.3.2",
    "vllm-router": "vllm-router==0.1.17",
    "litellm": "litellm[proxy]==1.106.2",
}
PEER_VERSIONS = {name: requirement.partition("==")[2] for name, requirement in REQUIREMENTS.items()}
INSTALL_S = 1800

# What the load generator sends as its key.
KEY = "sk-abcdefghijklmnopqrstuvwxyz"


def installed(name: str) -> Path:
    """Return the directory of a peer's programs; install it if it is not there yet."""
    home = tools_dir() / "peers" / name
    stamp = home / "installed"
    if stamp.exists() and stamp.read_text() == REQUIREMENTS[name]:
        return home / "bin"
    try:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True, capture_output=True)
        command = [str(home / "bin" / "pip"), "install", "--quiet", "--no-input", REQUIREMENTS[name]]
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_S)
    except (OSError, subprocess.SubprocessError) as error:
        words = str(getattr(error, "stderr", None) or error).strip().splitlines()
        raise Unavailable(
            f"pip cannot install {REQUIREMENTS[name]}: {words[-1][:200] if words else 'no reason given'}"
        ) from None
    stamp.write_text(REQUIREMENTS[name])
    return home / "bin"


def router(name: str, policy: str, *verbs: str) -> Start:
    """The two routers in Rust have one ancestor and the same options."""

    def start(children: Children, case: Case, engines: Engines) -> Picker:
        del case
        port, prometheus = free_ports(2)
        urls = [f"http://{authority}" for authority in engines.authorities]
        command = [installed(name) / name, *verbs, "--host", "127.0.0.1", "--port", port, "--policy", policy]
        command += ["--prometheus-port", prometheus, "--worker-urls", *urls]
        pid = children.start(name, command)
        children.await_page(f"http://127.0.0.1:{port}/health")
        return Picker(roots=(pid,), front=port)

    return start


def litellm(children: Children, case: Case, engines: Engines) -> Picker:
    """LiteLLM's proxy with one worker and a key, without a database."""
    del case
    models = [
        {
            "model_name": MODEL,
            "litellm_params": {"model": f"openai/{MODEL}", "api_base": f"http://{each}/v1", "api_key": "none"},
        }
        for each in engines.authorities
    ]
    path = children.directory / "litellm.yaml"
    path.write_text(json.dumps({"model_list": models, "general_settings": {"master_key": KEY}}))
    [port] = free_ports(1)
    command = [installed("litellm") / "litellm", "--config", path, "--host", "127.0.0.1", "--port", port, "--num_workers", 1]
    pid = children.start("litellm", command, {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"})
    children.await_page(f"http://127.0.0.1:{port}/health/liveliness")
    return Picker(roots=(pid,), front=port)


PEERS: dict[str, Start] = {
    "shunter, lean": shunter("native", "lean"),
    "shunter, full": shunter("native", "full"),
    "shunter, native": native(),
    "shunter, native, no key": native(body=[]),
    "sglang-router": router("sglang-router", "cache_aware", "launch"),
    "vllm-router": router("vllm-router", "cache_aware"),
    "vllm-router, power of two": router("vllm-router", "power_of_two"),
    "litellm": litellm,
}

EVERYBODY = ("none", *PEERS)
PEER_CASES = tuple(
    Case(load=load, subjects=EVERYBODY, everything=True, quick=True)
    for load in (
        Load(name="1 KB, 200/s", rate=200, at_once=64, users=True),
        msgspec.structs.replace(CLOSED, users=True),
        msgspec.structs.replace(STREAMED, users=True),
    )
)
