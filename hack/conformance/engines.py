"""``python -m hack.conformance.engines``: examine real engines, and keep the reports.

Each engine is installed below .tools/engines by a recipe with versions in it, started by `run --launch`, and examined. Reports
go to packages/conformance/reports/ENGINE/VERSION-report.yaml, with a page for people in build/conformance. What was not run is
said.
"""

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import yaml
from hack.conformance import table

from shunter.conformance.errors import LaunchError
from shunter.conformance.shell.launching.process import Process
from shunter.conformance.shell.launching.recipes import LAUNCHERS
from shunter.conformance.shell.ports import free_ports

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / ".tools" / "engines"
BUILD = ROOT / "build" / "conformance"
REPORTS = ROOT / "packages" / "conformance" / "reports"


class Engine(NamedTuple):
    """A server to examine: how it is launched, and who makes it. `installed` is the environment it needs.

    Of one in another arrangement, with a larger `environment`, only the cases below `select` are asked. `prefilled`: a second
    one computes prompts for it. `beside`: a second one, with these arguments, comes up together with it.
    """

    name: str
    launch: str
    installed: str
    about: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    select: tuple[str, ...] = ()
    environment: Mapping[str, str] = {}
    prefilled: bool = False
    beside: tuple[str, ...] = ()


def made(organization, project, url):
    return f"organization={organization}", f"project={project}", f"url={url}"


def vllm(project):
    return made("vllm-project", project, "https://github.com/vllm-project/vllm")


# NIXL's transport on one machine without a GPU. Each engine has the model in a directory of its own, which vLLM takes for
# another model: it refuses the handshake ("compatibility hash mismatch") unless told not to.
NIXL = {
    "kv_connector": "NixlConnector",
    "kv_role": "kv_both",
    "kv_buffer_device": "cpu",
    "kv_connector_extra_config": {"enforce_handshake_compat": False},
}
UCX = {"UCX_TLS": "tcp,sm,self", "UCX_NET_DEVICES": "lo", "VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1"}
SIDE_CHANNEL = "VLLM_NIXL_SIDE_CHANNEL_PORT"

# Of two engines on two cores, the threads of one would wait for those of the other at every layer.
ALONE = {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}

# A server for each rank is only for models with experts, between which the CPU build cannot pass tokens (all_gatherv is not
# implemented). One that says it has some, and has none, lets the servers come up, keep step and tell of their ranks.
RANKS = ("--data-parallel-size", "2", "--data-parallel-address", "127.0.0.1", "--hf-overrides", json.dumps({"num_experts": 2}))
RANK = (*RANKS, "--data-parallel-external-lb", "--data-parallel-rank")

ENGINES = (
    Engine("vllm", "vllm", "vllm", vllm("vLLM, CPU build")),
    Engine(
        "vllm-pd",
        "vllm",
        "vllm",
        vllm("vLLM, CPU build, behind a prefiller (NIXL)"),
        ("--kv-transfer-config", json.dumps(NIXL)),
        ("ms.reachability", "ms.metrics.exposition", "ms.pd"),
        ALONE | UCX,
        prefilled=True,
    ),
    Engine(
        "vllm-dp",
        "vllm",
        "vllm",
        vllm("vLLM, CPU build, two engines behind one port"),
        # With adapters that are loaded at run time it has one API server only: "cannot be used with api_server_count > 1".
        ("--data-parallel-size", "2", "--api-server-count", "1"),
        ("ms.reachability", "ms.metrics", "ms.load.running-rises", "ms.ranks"),
        ALONE,
    ),
    Engine(
        "vllm-dp-external",
        "vllm",
        "vllm",
        vllm("vLLM, CPU build, the second of two servers with a rank each"),
        (*RANK, "1"),
        ("ms.reachability", "ms.openai", "ms.metrics", "ms.load", "ms.freshness", "ms.accounting", "ms.cancel", "ms.ranks"),
        ALONE,
        beside=(*RANK, "0"),
    ),
    Engine("sglang", "sglang", "sglang", made("sgl-project", "SGLang on a CPU", "https://github.com/sgl-project/sglang")),
    Engine(
        "triton-tensorrt-llm",
        "triton",
        "triton",
        made("NVIDIA", "Triton, a stand-in for the TensorRT-LLM engine", "https://github.com/triton-inference-server/server"),
    ),
    Engine(
        "llama.cpp", "llamacpp", "", made("ggml-org", "llama.cpp, as in xllamacpp", "https://github.com/ggml-org/llama.cpp")
    ),
    Engine("lab-tgi", "lab", "", made("shunter", "a lab server that talks like TGI", ""), ("--dialect", "tgi")),
    Engine(
        "lab-jetstream", "lab", "", made("shunter", "a lab server that talks like JetStream", ""), ("--dialect", "jetstream")
    ),
    Engine("lab", "lab", "", made("shunter", "a lab server that talks like vLLM", "")),
)

# What an engine's environment needs of another's.
NEEDS = {"sglang": ("vllm",)}

UNEXAMINED = """\
Not run, for what it needs is not here: the TensorRT-LLM engine, trtllm-serve and all engines on GPUs (a GPU); TGI and JetStream
(no package of theirs is published: a lab server that talks as their sources say stands for them, and is called that)."""


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [engine.name for engine in ENGINES]
    parser.add_argument(
        "--only", action="append", choices=names, metavar="ENGINE", help=f"one of {', '.join(names)}; repeat for more"
    )
    parser.add_argument(
        "--installed", type=Path, default=TOOLS, metavar="DIR", help="where engines are, or are to be, installed"
    )
    wanted = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    missed = []
    for engine in ENGINES:
        if wanted.only and engine.name not in wanted.only:
            missed.append(f"{engine.name}: not asked for")
            continue
        try:
            install(engine.installed, wanted.installed)
        except subprocess.CalledProcessError as error:
            missed.append(f"{engine.name}: {' '.join(map(str, error.cmd))} ended with exit code {error.returncode}")
            continue
        try:
            with patch.dict(os.environ, engine.environment):
                code = asyncio.run(examine(engine, wanted.installed))
        except LaunchError as error:
            missed.append(f"{engine.name}: {error}")
            continue
        if code:
            missed.append(f"{engine.name}: exit code {code}" + (", and no report" if code > 1 else ", with a report"))
    table.main()
    print("\n".join(["", *missed, UNEXAMINED]))


def install(name, where):
    """Install an engine unless it is there, and before it what it needs."""
    for other in NEEDS.get(name, ()):
        install(other, where)
    if name and not (where / name / "installed").exists():
        print(f"installing {name} into {where / name} …", flush=True)
        subprocess.run([ROOT / "hack" / "conformance" / "install", name, where / name], check=True)
        (where / name / "installed").touch()


@asynccontextmanager
async def accompanied(engine, python):
    """Have the second server of an engine run, if it has one; yield what the exam is to be told of it."""
    if engine.beside:
        second = Process("second", LAUNCHERS[engine.launch], python=python, arguments=engine.beside)
        coming = asyncio.ensure_future(second.__aenter__())  # it waits for the other
        try:
            yield []
        finally:
            if not coming.cancel():
                await second.__aexit__(None, None, None)
            await asyncio.gather(coming, return_exceptions=True)
        return
    if not engine.prefilled:
        yield []
        return
    mine, its = free_ports(2)  # at which each tells the other where its blocks are
    second = Process("prefiller", LAUNCHERS[engine.launch], python=python, arguments=engine.arguments)
    with patch.dict(os.environ, {SIDE_CHANNEL: str(its)}):
        async with second as served:
            os.environ[SIDE_CHANNEL] = str(mine)
            yield ["--prefill-url", served.url, "--timeout", "300"]


async def examine(engine, where):
    """Examine an engine, and keep the report of whoever has come up; return the exit code."""
    files = [BUILD / f"{engine.name}{suffix}" for suffix in (".yaml", ".html", ".ndjson")]
    python = str(where / engine.installed / "bin" / "python") if engine.installed else ""
    command = [sys.executable, "-m", "shunter.conformance", "run", "--launch", engine.launch]
    command += ["--python", python] if python else []
    command += [word for prefix in engine.select for word in ("--select", prefix)]
    command += [word for file in files for word in ("--report", str(file))]
    command += [word for about in engine.about for word in ("--implementation", about)]
    print(f"\n{engine.name}", flush=True)
    async with accompanied(engine, python) as more:
        exam = await asyncio.create_subprocess_exec(*command, *more, "--", *engine.arguments)
        code = await exam.wait()
    if code in (0, 1):
        version = yaml.safe_load(files[0].read_text())["implementation"].get("version", "unknown")
        home = REPORTS / engine.name
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(files[0], home / f"{version}-report.yaml")
    return code


if __name__ == "__main__":
    main()
