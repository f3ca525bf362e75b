"""The lab's server, which needs no engine: `shunter lab serve`, with a queue that is seen with few requests."""

from itertools import pairwise

from shunter.conformance.sections.servers.profiles import find_profile
from shunter.conformance.sections.servers.target import Adapter, Means
from shunter.conformance.shell.launching.readiness import GRACE_S
from shunter.conformance.shell.launching.recipe import HOST, Recipe, Site

__all__ = ["launch"]

# A token takes 25 ms at this speed, as on a real engine on a CPU.
OPTIONS = {"--host": HOST, "--max-num-seqs": "4", "--max-loras": "2", "--speed": "1", "--shutdown-timeout": f"{GRACE_S:.0f}"}
FLAGS = ("--enable-lora", "--enable-prompt-tokens-details")

ADAPTERS = tuple(Adapter(name, f"/{name}") for name in ("lora-a", "lora-b", "lora-c", "lora-d"))

# Dialects that are not called as the profile of those who speak them is.
PROFILE_OF = {"llamacpp": "llama.cpp"}


def launch(site: Site) -> Recipe:
    """Serve a model that only the lab knows; of the arguments, `--dialect NAME` says what kind of server it is to be."""
    port, metrics, events, replay = site.port(), site.port(), site.port(), site.port()
    command = site.command("shunter-lab", "shunter.lab")
    ports = {"--port": port, "--metrics-port": metrics, "--kv-events-port": events, "--kv-replay-port": replay}
    words = [word for option in {**ports, **OPTIONS}.items() for word in map(str, option)]
    given = [part for word in site.arguments for part in word.split("=", 1)]
    dialect = next((value for name, value in pairwise(given) if name == "--dialect"), "lab")
    profile = find_profile(PROFILE_OF.get(dialect, dialect))
    return Recipe(
        command=(*command, "serve", *words, *FLAGS, *site.arguments),
        url=f"http://{HOST}:{port}",
        metrics_url=f"http://{HOST}:{metrics}{profile.metrics_path}" if profile.metrics_port else "",
        profile=profile.name,
        version="" if len(command) == 1 else site.installed("shunter-lab"),
        means=Means(adapters=ADAPTERS, kv_events=f"tcp://{HOST}:{events}", kv_replay=f"tcp://{HOST}:{replay}"),
    )
