"""The servers that the exam can start as processes, one module for each."""

from shunter.conformance.shell.launching.recipe import Launcher
from shunter.conformance.shell.launching.recipes import lab, llamacpp, sglang, triton, vllm

__all__ = ["LAUNCHERS"]

LAUNCHERS: dict[str, Launcher] = {
    "vllm": vllm.launch,
    "sglang": sglang.launch,
    "triton": triton.launch,
    "llamacpp": llamacpp.launch,
    "lab": lab.launch,
}
"""By the name after `--launch`."""
