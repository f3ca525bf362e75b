"""What several test modules need: engines that are driven to the end, and clients of a server."""

import asyncio
import lzma
import socket
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from shunter.lab.core.arrivals import Segment
from shunter.lab.core.engine import Engine
from shunter.lab.core.requests import Request
from shunter.lab.core.sequence import Token
from shunter.lab.core.simulation import Parked

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


@pytest.fixture
def segment():
    """Build a segment by id and length."""
    return Segment


@pytest.fixture
def bare_chooser():
    """A chooser that sends every request where `route` says, and remembers what it was told."""

    class Routed:
        def __init__(self, route):
            self.route, self.told, self.rows, self.parked = route, [], [], []

        def choose(self, arrival, index, now_s):
            self.told.append(("choose", index, now_s))
            choice = self.route(index)
            if isinstance(choice, Parked):
                self.parked.append(index)
            return choice

        def dispatch(self, now_s):
            parked, self.parked = self.parked, []
            return [(index, 0) for index in parked]

        def scraped(self, rows, now_s):
            self.rows.append((now_s, rows))

        def first_token(self, index, now_s):
            self.told.append(("first", index, now_s))

        def ended(self, index, finished, now_s):
            self.told.append(("ended", index, now_s))

    return Routed


@pytest.fixture
def unused_port():
    """A port at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
