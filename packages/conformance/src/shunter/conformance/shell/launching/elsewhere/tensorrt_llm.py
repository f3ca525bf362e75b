"""A stand-in for the TensorRT-LLM engine inside Triton, where there is no GPU: its inputs, its output and its metrics.

It takes a batch of a few requests, gives each a word in every step, holds KV blocks for them, and tells all that by the metric
families of NVIDIA's backend, which Triton puts on its own page. HTTP, health, errors, cancellation and shutdown are Triton's.
"""

import hashlib
import importlib
import threading
import time
from typing import Any

import numpy as np

__all__ = ["TritonPythonModel"]

# The module exists only inside Triton's python backend.
triton: Any = importlib.import_module("triton_python_backend_utils")

SEATS = 4
STEP_S = 0.025
BLOCKS, BLOCK_TOKENS = 256, 32

WORDS = "amber birch cedar delta ember fjord grove harbour island juniper kettle lantern meadow north orchard pebble".split()  # noqa: SIM905 – prose

# Families of the backend: their label, and what it says.
FAMILIES = {
    "nv_trt_llm_request_metrics": ("request_type", ("active", "max", "scheduled", "context", "waiting")),
    "nv_trt_llm_kv_cache_block_metrics": ("kv_cache_block_type", ("max", "free", "used", "tokens_per", "reused", "fraction")),
    "nv_trt_llm_runtime_memory_metrics": ("memory_type", ("cpu", "gpu", "pinned")),
    "nv_trt_llm_general_metrics": ("general_type", ("timestamp", "iteration_counter")),
}


class Asked:
    """One request from its arrival to its last word."""

    def __init__(self, request: Any) -> None:
        self.sender = request.get_response_sender()
        self.prompt: str = _value(request, "text_input", b"").decode(errors="replace")
        self.most = int(_value(request, "max_tokens", 16))
        self.streams = bool(_value(request, "stream", False))
        self.words: list[str] = []

    @property
    def tokens(self) -> int:
        """Of its prompt and its answer, by spaces."""
        return len(self.prompt.split()) + len(self.words)

    def step(self) -> bool:
        """Say one more word; True when that was the last."""
        seed = hashlib.blake2b(" ".join([self.prompt, *self.words]).encode()).digest()[0]
        self.words.append(WORDS[seed % len(WORDS)])
        last = len(self.words) >= self.most
        if last or self.streams:
            text = " ".join(self.words[-1:] if self.streams else self.words)
            output = triton.Tensor("text_output", np.array([text.encode()], dtype=object))
            flags = triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0
            self.sender.send(triton.InferenceResponse(output_tensors=[output]), flags=flags)
        return last


class TritonPythonModel:
    """What Triton's python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Register the metrics, and begin to step."""
        labels = {"model": args["model_name"], "version": args["model_version"]}
        self._families = {
            name: triton.MetricFamily(name=name, description=f"TRT LLM {label}", kind=triton.MetricFamily.GAUGE)
            for name, (label, _) in FAMILIES.items()
        }
        self._metrics: dict[str, Any] = {
            value: self._families[name].Metric(labels={**labels, label: value})
            for name, (label, values) in FAMILIES.items()
            for value in values
        }
        self._lock = threading.Condition()
        self._waiting: list[Asked] = []
        self._running: list[Asked] = []
        self._steps = 0
        self._ending = False
        self._thread = threading.Thread(target=self._step)
        self._tell()
        self._thread.start()

    def execute(self, requests: list[Any]) -> None:
        """Take requests; they are answered by the thread."""
        with self._lock:
            for request in requests:
                try:
                    asked = Asked(request)
                except (ValueError, TypeError) as error:
                    request.get_response_sender().send(
                        triton.InferenceResponse(error=triton.TritonError(str(error))),
                        flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL,
                    )
                    continue
                self._waiting.append(asked)
            self._lock.notify()

    def finalize(self) -> None:
        """End the thread; Triton calls this when no request is left."""
        with self._lock:
            self._ending = True
            self._lock.notify()
        self._thread.join()

    def _step(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._waiting or self._running or self._ending)
                if self._ending and not self._waiting and not self._running:
                    return
                self._leave()
                while self._waiting and len(self._running) < SEATS:
                    self._running.append(self._waiting.pop(0))
            self._tell()
            time.sleep(STEP_S)
            for asked in list(self._running):
                if asked.step():
                    self._running.remove(asked)
            self._steps += 1
            self._tell()

    def _leave(self) -> None:
        """Drop those whose clients have hung up."""
        for queue in (self._waiting, self._running):
            for asked in [each for each in queue if each.sender.is_cancelled()]:
                asked.sender.send(flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
                queue.remove(asked)

    def _tell(self) -> None:
        used = sum(-(-asked.tokens // BLOCK_TOKENS) for asked in self._running)
        running, waiting = len(self._running), len(self._waiting)
        told = {"active": running + waiting, "max": SEATS, "scheduled": running, "waiting": waiting}
        told |= {"used": used, "free": BLOCKS - used, "tokens_per": BLOCK_TOKENS, "fraction": used / BLOCKS}
        for name, value in told.items():
            self._metrics[name].set(value)
        self._metrics["iteration_counter"].set(self._steps)


def _value(request: Any, name: str, absent: Any) -> Any:
    """The only element of an input."""
    tensor = triton.get_input_tensor_by_name(request, name)
    return absent if tensor is None else tensor.as_numpy().reshape(-1)[0]
