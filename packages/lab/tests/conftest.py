"""What several test modules need: engines that are driven to the end, and clients of a server."""

import asyncio
import lzma
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from shunter.lab.core.engine import Engine, Request, Token

# Far above what anything here takes on a busy machine; a test that waits this long has failed.
DEADLINE_S = 30.0


@pytest.fixture
def request_of():
    """Build a request of so many prompt and output tokens; equal seeds share their prompt's beginning."""

    def build(name, prompt=8, output=4, *, seed=0, **fields):
        return Request(
            id=str(name),
            prompt=tuple(range(seed * 100_000, seed * 100_000 + prompt)),
            output=tuple(range(90_000_000, 90_000_000 + output)),
            **fields,
        )

    return build


@pytest.fixture
def finish() -> Callable[[Engine], list[Token]]:
    """Run an engine until it has nothing to do."""

    def run(engine: Engine) -> list[Token]:
        tokens: list[Token] = []
        while (next_s := engine.next_event_s()) is not None:
            tokens += engine.advance(next_s)
        return tokens

    return run


@pytest.fixture
def until():
    """Wait for a condition (a function, plain or async) with a deadline."""

    async def wait(condition):
        async with asyncio.timeout(DEADLINE_S):
            while True:
                value = condition()
                if asyncio.iscoroutine(value):
                    value = await value
                if value:
                    return value
                await asyncio.sleep(0.005)

    return wait


@pytest.fixture
async def http():
    """An HTTP client with a total timeout."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=DEADLINE_S)) as session:
        yield session


@pytest.fixture
def recorded():
    """The text of a recorded page by name."""
    return lambda name: lzma.decompress((Path(__file__).parent / "data" / f"{name}.txt.xz").read_bytes()).decode()
