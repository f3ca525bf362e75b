"""Real vLLM servers of a directory that `hack/vllm/install` has filled, which SHUNTER_VLLM names."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncGenerator
from pathlib import Path

import aiohttp

__all__ = ["VLLM", "metric", "ready", "vllm"]

VLLM = os.environ.get("SHUNTER_VLLM", "")
# vLLM imports torch and warms up: half a minute by itself, and two share the machine.
READY_S = 240
ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}


@contextlib.asynccontextmanager
async def vllm(
    model: str, port: int, log: Path, *options: str, **environment: str
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Run a server in a session of its own, so that its workers end with it; it calls its model tiny."""
    inherited = os.environ | {"PATH": f"{VLLM}/bin:{os.environ['PATH']}"}
    inherited.pop("PYTHONPATH", None)
    named = ("--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port))
    with log.open("wb") as sink:
        process = await asyncio.create_subprocess_exec(
            *(f"{VLLM}/bin/vllm", "serve", f"{VLLM}/{model}", *named, *options),
            env=inherited | ENVIRONMENT | environment, stdout=sink, stderr=sink, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


async def ready(session: aiohttp.ClientSession, port: int, process: asyncio.subprocess.Process, log: Path) -> None:
    """Wait until it answers."""
    async with asyncio.timeout(READY_S):
        while True:
            assert process.returncode is None, _end(log)
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"http://127.0.0.1:{port}/health") as answer:
                    if answer.status == 200:
                        return
            await asyncio.sleep(0.2)


def _end(log: Path) -> str:
    return log.read_text()[-3000:]


async def metric(session: aiohttp.ClientSession, port: int, name: str) -> float:
    """Return the sum of a family."""
    async with session.get(f"http://127.0.0.1:{port}/metrics") as page:
        lines = (await page.text()).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(f"{name}{{"))
