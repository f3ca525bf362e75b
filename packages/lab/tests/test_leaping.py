"""A clock that leaps: waiting costs nothing, and everything happens in order."""

import asyncio
import time

import aiohttp
import pytest

from shunter.lab.testing import LeapingLoop, lab_server


@pytest.fixture
def leaping():
    with asyncio.Runner(loop_factory=LeapingLoop) as runner:
        yield runner.run


def test_an_hour_passes_at_once(leaping):
    async def wait():
        clock = asyncio.get_running_loop().time
        begin_s = clock()
        await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(7))
        return clock() - begin_s

    begin_s = time.monotonic()
    assert leaping(wait()) == pytest.approx(3600, abs=0.01)
    assert time.monotonic() - begin_s < 60


def test_sleepers_wake_in_order(leaping):
    woken = []

    async def sleep(seconds):
        await asyncio.sleep(seconds)
        woken.append(seconds)

    async def wait():
        await asyncio.gather(*map(sleep, (3, 1, 2)))

    leaping(wait())
    assert woken == [1, 2, 3]


def test_a_server_takes_as_long_as_its_engine_and_no_longer(leaping):
    async def ask():
        clock = asyncio.get_running_loop().time
        async with lab_server(step_s=0.5) as server, aiohttp.ClientSession() as session:
            begin_s = clock()
            body = {"model": "lab/llama-3-8b", "prompt": "x", "max_tokens": 20, "ignore_eos": True}
            async with session.post(f"{server.url}/v1/completions", json=body) as response:
                assert response.status == 200
            return clock() - begin_s

    assert leaping(ask()) == pytest.approx(10, rel=0.05)


def test_who_asks_without_a_pause_gets_on(leaping):
    async def spin():
        begin_s = asyncio.get_running_loop().time()
        for _ in range(1000):
            await asyncio.sleep(0)
        return asyncio.get_running_loop().time() - begin_s

    assert leaping(spin()) > 0.01
