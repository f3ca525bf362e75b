"""A model server's image and how to run it, alike for a container and for a pod."""

import re
from collections.abc import Iterable

import msgspec

from shunter.conformance.errors import UsageError

__all__ = ["KILL_ENGINE", "NO_ENGINE", "SHM_BYTES", "Image", "parse_environment", "parse_volume"]

# PyTorch's processes hand each other tensors in /dev/shm, and Docker's and containerd's 64 MiB end an engine on several GPUs.
SHM_BYTES = 4 << 30

# What these processes call themselves, of which the kernel keeps 15 bytes: vLLM's core and workers, SGLang's scheduler,
# Triton's Python backend.
ENGINES = ("VLLM::Engine*", "VLLM::Worker*", "sglang::schedul*", "triton_python_*")

# How KILL_ENGINE ends when there is no process of such a name.
NO_ENGINE = 44

# No more than a POSIX shell has built in: an engine's image need not have ps, pgrep or grep.
_SCRIPT = (
    f"found={NO_ENGINE}; for each in /proc/[0-9]*; do "
    f'if read -r name 2>/dev/null <"$each/comm"; then case $name in {"|".join(ENGINES)}) '
    'kill -KILL "${each#/proc/}" && found=0;; esac; fi; done; exit $found'
)

KILL_ENGINE = ("sh", "-c", _SCRIPT)
"""A command that kills, inside a container, the processes that generate, and ends with NO_ENGINE if there are none."""


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """What to run, and what it needs: arguments take the place of the image's own, `gpus` is a number or `all`.

    `volumes` are pairs of an absolute path of this machine and where the server sees it, read-only.
    """

    name: str
    arguments: tuple[str, ...] = ()
    port: int = 8000
    environment: dict[str, str] = {}
    volumes: tuple[tuple[str, str], ...] = ()
    gpus: str = ""
    health_path: str = "/health"

    def __post_init__(self) -> None:
        if not self.name or any(letter.isspace() for letter in self.name):
            raise UsageError(f"image {self.name!r}: want a name such as vllm/vllm-openai:v0.12.0")
        if not re.fullmatch(r"|all|[1-9]\d*", self.gpus):
            raise UsageError(f"--gpus {self.gpus}: want a number above 0, or all")


def parse_environment(settings: Iterable[str]) -> dict[str, str]:
    """Read `NAME=VALUE`s; raises UsageError."""
    environment: dict[str, str] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            raise UsageError(f"--env {setting!r}: want NAME=VALUE")
        environment[name] = value
    return environment


def parse_volume(text: str) -> tuple[str, str]:
    """Read `/PATH/HERE:/PATH/THERE`; raises UsageError."""
    here, colon, there = text.partition(":")
    if not colon or not here.startswith("/") or not there.startswith("/") or ":" in there:
        raise UsageError(f"--volume {text!r}: want /PATH/HERE:/PATH/THERE, both absolute; it is mounted read-only")
    return here, there
