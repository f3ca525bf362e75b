"""One real llama.cpp HTTP server in this process, from its settings to the signal that ends it.

The wheel `xllamacpp` carries the C++ server; it runs on threads of its own, with no Python on a request's path. Seen on
version 2026.10:

* It binds before it loads; until the model is in memory every path answers 503. The tiny model is loaded in 0.1 s; the
  process then takes 105 MB, and 160 MB once prompts have filled a slot.
* Asked to stop, it waits for streams in flight, up to 30 s. Therefore a signal ends the process at once and cuts them.
* It closes a connection after 5 s without a request and after 100 requests: a proxy should give up idle ones earlier.
* `usage` is in every whole answer, and in a stream's last chunk if ``stream_options.include_usage`` asks for it.
* The model's name in a request is not looked at: an unknown one is answered with 200, under the server's own name.
* A client that goes away frees its slot within milliseconds. Requests beyond the slots wait, in any number.

As set up here, a request with ``temperature: 0``, or with a ``seed``, has one answer: whole or streamed, alone or beside
others, with or without its prompt in the cache. That holds because keys and values are float32 and flash attention is
off. With the engine's defaults 1 to 8 % of the answers changed when 12 clients shared 4 slots, even with
``cache_prompt: false``: a slot's sums depend on who shares the batch, and float16 makes the difference large.
"""

import importlib
import os
import signal
import socket
from pathlib import Path
from typing import Any

from shunter.stack.llamacpp import INSTALL_HINT

__all__ = ["LlamaCppError", "serve"]

# The tiny model never ends an answer by itself: a request without `max_tokens` would fill its slot's whole context. A
# larger `max_tokens` wins over this.
DEFAULT_ANSWER_TOKENS = 256


class LlamaCppError(Exception):
    """The server cannot run; the message says why and what to do about it."""


def serve(*, gguf: Path, model: str, host: str, port: int, slots: int, context_tokens: int) -> None:
    """Serve `gguf` under the name `model` until SIGTERM or SIGINT, then end the process with status 0.

    Each of the `slots` has room for `context_tokens` of prompt plus answer. Port 0 is any free one: when requests are
    answered, one line ``listening on URL`` goes to standard output. The engine's log goes to standard error.
    LlamaCppError if the server does not come up.
    """
    engine = _import_engine()
    params = engine.CommonParams()
    params.model.path = str(gguf)
    params.model_alias = {model}
    params.hostnames = [host]
    params.port = port
    params.endpoint_metrics = params.endpoint_slots = True
    params.n_parallel = slots
    params.n_ctx = slots * context_tokens
    params.n_predict = DEFAULT_ANSWER_TOKENS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1  # several servers share a small machine
    params.cache_type_k = params.cache_type_v = engine.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = engine.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.fit_params = False  # would load the model a first time to measure it, and may shrink the context
    params.cache_ram_mib = 0  # prompts are cached in the slots alone; the default keeps up to 8 GiB beside them
    ends = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # the engine's threads inherit it, so sigwait sees every signal
    try:
        server = engine.Server(params)
    except RuntimeError as error:  # says only that it failed
        raise LlamaCppError(_why_not(gguf, host, port)) from error
    print(f"listening on {server.listening_address}", flush=True)  # noqa: T201 - whoever started us waits for this line
    signal.sigwait(ends)
    os._exit(0)  # the orderly way would wait for streams in flight


def _import_engine() -> Any:
    try:
        return importlib.import_module("xllamacpp")  # not an import statement: the wheel has no type stubs
    except ImportError as error:
        raise LlamaCppError(f"real llama.cpp servers need the wheel xllamacpp ({error}): {INSTALL_HINT}") from error


def _why_not(gguf: Path, host: str, port: int) -> str:
    """Why a server did not start: binding its address once more tells whether that was the reason."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        return f"cannot listen on {host} port {port}: {error.strerror}; choose another with --host or --port"
    return f"llama.cpp cannot load {gguf}; the engine's log above says why"
