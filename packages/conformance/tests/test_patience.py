"""A verdict does not hang on one slow moment, the server's or the examiner's."""

import asyncio
from contextlib import asynccontextmanager

import msgspec
import pytest

from shunter.conformance.core.case import Bound
from shunter.conformance.core.exchange import Exchange
from shunter.conformance.errors import Mismatch, Skip
from shunter.conformance.sections.servers import metrics, reachability, scraping
from shunter.conformance.sections.servers.profiles import find_profile

BUSY = b"# TYPE vllm:kv_cache_usage_perc gauge\nvllm:kv_cache_usage_perc 0.5\n"
IDLE = BUSY.replace(b"0.5", b"0")


class ScriptedTarget:
    """Answers each question with the next of some exchanges, which take as long as they say when `clock` is set."""

    profile = find_profile("vllm")
    model = "m"

    def __init__(self, *answers: Exchange, clock: bool = False):
        self._answers = list(answers)
        self._clock = clock

    def seconds(self, bound: Bound) -> float:
        return bound.seconds

    async def get(self, path):
        answer = self._answers.pop(0)
        if self._clock:
            await asyncio.sleep(answer.elapsed_s)
        return answer

    async def post(self, path, body):
        return await self.get(path)

    async def metrics(self):
        return await self.get("/metrics")


def answer(body: bytes = b"", elapsed_s: float = 0.0) -> Exchange:
    return Exchange(method="GET", url="http://h/", status=200, body=body, elapsed_s=elapsed_s)


async def test_two_late_answers_and_one_in_time_are_a_hiccup():
    late, in_time = answer(b"x 1\n", 1.5), answer(b"x 1\n", 0.9)
    assert await reachability.metrics(ScriptedTarget(late, late, in_time))


async def test_three_late_answers_are_late():
    with pytest.raises(Mismatch, match=r"within 1 s.* the fastest of 3 took 1\.20 s"):
        await reachability.metrics(ScriptedTarget(answer(elapsed_s=1.5), answer(elapsed_s=1.2), answer(elapsed_s=1.4)))


async def test_a_page_asked_for_in_time_may_still_be_busy(monkeypatch):
    """It says how things stood when the server wrote it, however long it was on its way."""
    monkeypatch.setattr(metrics, "IDLE_ZERO", msgspec.structs.replace(metrics.IDLE_ZERO, seconds=0.05))
    assert await metrics.kv_idle(ScriptedTarget(answer(), answer(BUSY, 0.1), answer(IDLE), clock=True))


async def test_a_page_asked_for_too_late_may_not(monkeypatch):
    monkeypatch.setattr(metrics, "IDLE_ZERO", msgspec.structs.replace(metrics.IDLE_ZERO, seconds=0.05))
    with pytest.raises(Mismatch, match="zero within"):
        await metrics.kv_idle(ScriptedTarget(answer(), answer(BUSY, 0.1), answer(BUSY), clock=True))


@pytest.fixture
def turns(monkeypatch):
    """Let loads without and with a scraper, in turns, take these seconds."""

    def take(*seconds: float) -> ScriptedTarget:
        left = list(seconds)

        async def turn_s(_) -> float:
            return left.pop(0)

        @asynccontextmanager
        async def nobody(_):
            yield []

        monkeypatch.setattr(scraping, "_turn_s", turn_s)
        monkeypatch.setattr(scraping, "_scraping", nobody)
        return ScriptedTarget()

    return take


async def test_a_scraper_that_costs_little_three_times_costs_little(turns):
    assert "1.05, 1.05, 1.05" in await scraping.costs_little(turns(1.0, 1.05, 1.0, 1.05, 1.0, 1.05))


async def test_one_that_always_costs_much_costs_much(turns):
    with pytest.raises(Mismatch, match="less than 10%"):
        await scraping.costs_little(turns(*[1.0, 1.2] * scraping.PAIRS))


async def test_one_that_sometimes_does_decides_nothing(turns):
    with pytest.raises(Skip, match="less busy"):
        await scraping.costs_little(turns(*[1.0, 1.2] * 4, *[1.0, 0.8] * 2))
