"""Whatever a server answers, each case ends in a finding: it never crashes the exam."""

import asyncio
from contextlib import asynccontextmanager
from itertools import cycle
from unittest.mock import patch

import msgspec
from hypothesis import given, note, settings
from hypothesis import strategies as st

from shunter.conformance.core.case import Bound
from shunter.conformance.core.exchange import Exchange
from shunter.conformance.errors import Mismatch, Skip, Unanswered
from shunter.conformance.sections.servers import CASES, scraping
from shunter.conformance.sections.servers.profiles import find_profile
from shunter.conformance.sections.servers.target import Means

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | st.sampled_from(["", "stop", "text_completion", "a"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["id", "object", "choices", "usage", "data", "error", "model", "index", "text", "delta", "message"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)
PAGE = st.lists(
    st.sampled_from(
        [
            "# TYPE vllm:num_requests_running gauge",
            "# TYPE vllm:num_requests_waiting gauge",
            'vllm:num_requests_running{engine="0",model_name="m"} 0',
            'vllm:num_requests_waiting{engine="0",model_name="m"} NaN',
            'vllm:num_requests_waiting{engine="1"} -1',
            'vllm:kv_cache_usage_perc{engine="0"} +Inf',
            "vllm:kv_cache_usage_perc 0",
            "process_start_time_seconds NaN",
            "process_resident_memory_bytes +Inf",
            "nonsense",
        ]
    ),
    max_size=6,
).map(lambda lines: "".join(line + "\n" for line in lines).encode())
STREAM = st.lists(JSON.map(msgspec.json.encode) | st.just(b"[DONE]"), max_size=4).map(
    lambda events: b"".join(b"data: " + event + b"\n\n" for event in events)
)
BODY = st.binary(max_size=40) | JSON.map(msgspec.json.encode) | PAGE | STREAM
ANSWER = st.builds(
    Exchange,
    method=st.just("GET"),
    url=st.just("http://fuzz/"),
    status=st.sampled_from([200, 200, 200, 400, 404, 500]),
    headers=st.sampled_from([{}, {"content-type": "text/event-stream; charset=utf-8"}]),
    body=BODY,
)


class FuzzedTarget:
    """Answers each request with the next of some drawn answers, or with none."""

    profile = find_profile("vllm")
    model = "m"
    served = ("m",)
    step_s = 1e-6
    capacity = None
    patience = 1
    means = Means()

    def __init__(self, first_page, answers):
        self._first_page = first_page
        self._answers = cycle(answers)

    async def adapt(self):
        pass

    def seconds(self, bound: Bound) -> float:
        return 0.0

    async def get(self, path, headers=None):
        await asyncio.sleep(0)
        answer = next(self._answers)
        if answer is None:
            raise Unanswered("nothing")
        return answer

    async def post(self, path, body, headers=None):
        return await self.get(path)

    @asynccontextmanager
    async def line(self):
        yield self

    connections = 1

    @property
    def control(self):
        raise Skip("nobody may end it")

    async def prefill(self, path, body):
        return await self.get(path)

    @asynccontextmanager
    async def kv_events(self):
        raise Skip("nobody publishes any")
        yield

    async def kv_replay(self, start, within_s):
        return ()

    async def abandon(self, path, body, promised_bytes):
        await self.get(path)

    def first_metrics(self):
        if self._first_page is None:
            raise Skip("no page")
        return self._first_page

    async def metrics(self, method="GET", headers=None):
        return await self.get("/metrics")

    def plot(self, name, points):
        pass


@settings(max_examples=100)
@given(st.none() | ANSWER, st.lists(st.none() | ANSWER, min_size=1, max_size=4))
def test_any_answers_end_in_a_finding(first_page, answers):
    async def run(case):
        note(case.id)
        try:
            assert await case.run(FuzzedTarget(first_page, answers))
        except Mismatch as mismatch:
            assert mismatch.expected and mismatch.actual  # noqa: PT017, PT018 – a finding is allowed, not required
        except (Unanswered, Skip) as finding:
            assert str(finding)  # noqa: PT017 – as above

    # Only one case takes its time whatever it is answered: it measures throughput.
    with asyncio.Runner() as runner, patch.object(scraping, "TURN_S", 1e-4):
        for case in CASES:
            runner.run(run(case))
