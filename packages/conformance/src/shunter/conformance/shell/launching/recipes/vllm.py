"""vLLM, on a CPU or a GPU: small batches, LoRA adapters that can be loaded, and KV events.

Seen on vLLM 0.32.0: the CPU's attention wants blocks of a multiple of 32 tokens; without `--shutdown-timeout` a SIGTERM cuts
what runs. Later arguments win over earlier ones, so whoever wants another value appends it.
"""

import json

from shunter.conformance.sections.servers.target import Means
from shunter.conformance.shell.launching.checkpoint import ADAPTER_RANK, write_adapters, write_checkpoint
from shunter.conformance.shell.launching.readiness import GRACE_S
from shunter.conformance.shell.launching.recipe import HOST, Recipe, Site
from shunter.conformance.shell.launching.weights import SMALL

__all__ = ["launch"]

# A queue is seen with few requests, and a KV cache that shows each of them.
OPTIONS = {
    "--dtype": "float32",
    "--max-num-seqs": "4",
    "--max-model-len": "2048",
    "--block-size": "32",
    "--num-gpu-blocks-override": "160",
    "--max-loras": "2",
    "--max-cpu-loras": "4",
    "--max-lora-rank": str(ADAPTER_RANK),
    "--shutdown-timeout": f"{GRACE_S:.0f}",
}
FLAGS = ("--enforce-eager", "--enable-lora", "--enable-prompt-tokens-details")

ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_NO_USAGE_STATS": "1",
}


def launch(site: Site) -> Recipe:
    """Serve the small model."""
    checkpoint, port, events, replay = write_checkpoint(site.directory, SMALL), site.port(), site.port(), site.port()
    means = Means(
        adapters=write_adapters(site.directory, SMALL), kv_events=f"tcp://{HOST}:{events}", kv_replay=f"tcp://{HOST}:{replay}"
    )
    publish = {
        "enable_kv_cache_events": True,
        "publisher": "zmq",
        "endpoint": f"tcp://*:{events}",
        "replay_endpoint": f"tcp://*:{replay}",
        "topic": f"kv@{HOST}:{port}@{SMALL.name}",
    }
    command = site.command("vllm", "vllm.entrypoints.cli.main")
    if len(command) > 1:
        site.installed("vllm")
    options = {"--host": HOST, "--port": str(port), "--served-model-name": SMALL.name, **OPTIONS}
    words = [word for option in options.items() for word in option]
    return Recipe(
        command=(
            *command,
            "serve",
            str(checkpoint),
            *words,
            *FLAGS,
            "--kv-events-config",
            json.dumps(publish),
            *site.arguments,
        ),
        environment=ENVIRONMENT | site.path(command),
        url=f"http://{HOST}:{port}",
        profile="vllm",
        model=SMALL.name,
        means=means,
        engine="VLLM::EngineCore",
    )
