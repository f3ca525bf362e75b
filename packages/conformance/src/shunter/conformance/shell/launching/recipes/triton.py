"""Triton with a stand-in for the TensorRT-LLM engine: the real server and its python backend need no GPU, the engine does.

The server is `tritonserver` where PATH has it, else the one that the wheel `nvidia-pytriton` carries.
"""

import shutil
from pathlib import Path

from shunter.conformance.shell.launching.elsewhere import program
from shunter.conformance.shell.launching.recipe import HOST, Recipe, Site

__all__ = ["launch"]

MODEL = "tensorrt_llm"

# The inputs of NVIDIA's model that requests of the exam have. Decoupled: a request may get many answers, as streams do.
CONFIG = """\
name: "tensorrt_llm"
backend: "python"
max_batch_size: 0
model_transaction_policy { decoupled: true }
input [
  { name: "text_input" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "max_tokens" data_type: TYPE_INT32 dims: [ 1 ] },
  { name: "end_id" data_type: TYPE_INT32 dims: [ 1 ] optional: true },
  { name: "stream" data_type: TYPE_BOOL dims: [ 1 ] optional: true }
]
output [ { name: "text_output" data_type: TYPE_STRING dims: [ 1 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""

# Asked of an interpreter: where its packages are, its own library, and its version as Triton names the stubs for it.
WHERE = """\
import sys, sysconfig
print(sysconfig.get_path("purelib"), sysconfig.get_config_var("LIBDIR"), "%d.%d" % sys.version_info[:2], sep="\\n")
"""

# How long Triton waits for requests in flight; by itself it would wait as long.
GRACE_S = 30


def launch(site: Site) -> Recipe:
    """Serve the stand-in under the name that NVIDIA gives the engine's model."""
    version = site.directory / "models" / MODEL / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text(CONFIG)
    shutil.copy(program("tensorrt_llm"), version / "model.py")
    native = site.found("tritonserver")
    command, environment = ((native,), dict[str, str]()) if native else _wheel(site)
    port, metrics = site.port(), site.port()
    options = {
        "--model-repository": str(version.parents[1]),
        "--http-address": HOST,
        "--http-port": str(port),
        "--grpc-address": HOST,
        "--grpc-port": str(site.port()),
        "--metrics-address": HOST,
        "--metrics-port": str(metrics),
        "--exit-timeout-secs": str(GRACE_S),
    }
    words = [f"{name}={value}" for name, value in options.items()]
    return Recipe(
        command=(*command, *words, "--allow-gpu-metrics=false", *site.arguments),
        environment=environment,
        url=f"http://{HOST}:{port}",
        metrics_url=f"http://{HOST}:{metrics}/metrics",
        profile="triton-tensorrt-llm",
        model=MODEL,
        grace_s=GRACE_S,
        engine="triton_python_backend_stub",
        version_at=("/v2", "version"),
    )


def _wheel(site: Site) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return how the wheel's server is started; its backend is copied, to put the stub for this interpreter beside it."""
    site.installed("nvidia-pytriton")
    packages, libraries, version = site.ask(WHERE)
    home = Path(packages) / "pytriton" / "tritonserver"
    stub = home / "python_backend_stubs" / version / "triton_python_backend_stub"
    backends = site.directory / "backends"
    shutil.copytree(home / "backends", backends)
    shutil.copy(stub, backends / "python")
    environment = site.path((site.python,)) | {
        "PYTHONPATH": packages,
        "LD_LIBRARY_PATH": f"{packages}/nvidia_pytriton.libs:{libraries}",
    }
    return (
        str(home / "bin" / "tritonserver"),
        f"--backend-directory={backends}",
        f"--cache-directory={home / 'caches'}",
    ), environment
