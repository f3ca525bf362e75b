"""SGLang on a CPU: small batches, LoRA adapters that can be loaded, and KV events.

Seen on SGLang 0.5.23: without `--enable-metrics` there is no metrics page; the native attention is the one that needs neither
a GPU nor AMX. Later arguments win over earlier ones, so whoever has a GPU appends `--device cuda` and the like.
"""

import json

from shunter.conformance.sections.servers.target import Means
from shunter.conformance.shell.launching.checkpoint import ADAPTED, ADAPTER_RANK, write_adapters, write_checkpoint
from shunter.conformance.shell.launching.recipe import HOST, Recipe, Site
from shunter.conformance.shell.launching.weights import TINY

__all__ = ["launch"]

OPTIONS = {
    "--device": "cpu",
    "--dtype": "float32",
    "--attention-backend": "torch_native",
    "--sampling-backend": "pytorch",
    "--mem-fraction-static": "0.2",
    "--page-size": "16",
    "--context-length": "2048",
    "--max-total-tokens": "8192",
    "--max-running-requests": "4",
    "--max-loras-per-batch": "2",
    "--max-loaded-loras": "4",
    "--max-lora-rank": str(ADAPTER_RANK),
    "--lora-backend": "torch_native",
}
FLAGS = ("--enable-metrics", "--enable-cache-report", "--disable-overlap-schedule", "--enable-lora")

# Of two threads one waits for the other in every operator of so small a model: 5 ms a token with one, on two cores that have
# other work as well 35 to 60 with two.
ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "SGLANG_USE_CPU_ENGINE": "1", "OMP_NUM_THREADS": "1"}


def launch(site: Site) -> Recipe:
    """Serve the tiny model: gauges that are made anew every 40 steps are then in time (`--decode-log-interval`)."""
    checkpoint, port, events, replay = write_checkpoint(site.directory, TINY), site.port(), site.port(), site.port()
    means = Means(
        adapters=write_adapters(site.directory, TINY), kv_events=f"tcp://{HOST}:{events}", kv_replay=f"tcp://{HOST}:{replay}"
    )
    publish = {
        "publisher": "zmq",
        "endpoint": f"tcp://*:{events}",
        "replay_endpoint": f"tcp://*:{replay}",
        "topic": "kv-events",
    }
    options = {
        "--host": HOST,
        "--port": str(port),
        "--model-path": str(checkpoint),
        "--served-model-name": TINY.name,
        "--kv-events-config": json.dumps(publish),
        **OPTIONS,
    }
    words = [word for option in options.items() for word in option]
    command = (site.python, "-m", "sglang.launch_server")
    return Recipe(
        command=(*command, *words, *FLAGS, "--lora-target-modules", *ADAPTED, *site.arguments),
        environment=ENVIRONMENT | site.path(command),
        url=f"http://{HOST}:{port}",
        profile="sglang",
        model=TINY.name,
        means=means,
        engine="sglang::scheduler",
        version=site.installed("sglang"),
    )
