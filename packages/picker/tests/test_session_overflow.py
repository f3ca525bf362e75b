"""Where the gateway has an overflow, what is refused is sent there, and nothing is lost or booked by it."""

import pytest

from shunter.picker.core.answers import OVERFLOW, read_overflow
from shunter.picker.core.events import BodyMode
from shunter.picker.core.judgement import DropReason, Refusal
from shunter.picker.testing import FakeEnvoy, StubJudge

BODY = b'{"model": "m", "prompt": "hello"}'
FULL = Refusal(429, "ResourceExhausted", "the pool is full", DropReason.SATURATED)
WRONG = Refusal(400, "BadRequest", "no model")
TOLD = "overflow/llama 429 503"


def begin(mode, judge, told=TOLD, response=BodyMode.NONE):
    envoy = FakeEnvoy.before(judge, mode, response)
    envoy.session.overflow = read_overflow(told)
    envoy.request(pieces=[BODY[:9], BODY[9:]])
    return envoy


@pytest.mark.parametrize("parked", [False, True])
@pytest.mark.parametrize("mode", [BodyMode.BUFFERED, BodyMode.FULL_DUPLEX_STREAMED, BodyMode.STREAMED])
def test_what_is_refused_goes_on_whole_with_the_cluster_in_a_header(mode, parked):
    judge = StubJudge(verdict=FULL, park_s=60.0 if parked else None)
    envoy = begin(mode, judge)
    if parked:
        judge.open()
        envoy.resume(judge)
    assert envoy.immediate is None
    assert dict(envoy.upstream_headers)[OVERFLOW] == "overflow/llama"
    assert envoy.upstream_body == BODY
    assert not envoy.metadata
    assert not envoy.session.ended


@pytest.mark.parametrize("response", [BodyMode.NONE, BodyMode.STREAMED, BodyMode.FULL_DUPLEX_STREAMED])
def test_its_answer_passes_and_nothing_is_released(response):
    judge = StubJudge(verdict=FULL)
    envoy = begin(BodyMode.FULL_DUPLEX_STREAMED, judge, response=response)
    if response is not BodyMode.NONE:
        envoy.respond(pieces=[b"from", b"afar"], served="10.0.0.2:8000")
        assert envoy.client_body == b"fromafar"
    envoy.close()
    assert judge.released == []


def test_a_picker_that_goes_lets_it_be():
    envoy = begin(BodyMode.BUFFERED, StubJudge(verdict=FULL))
    assert envoy.session.drain(0.0) == []


@pytest.mark.parametrize(
    ("verdict", "told"), [(WRONG, TOLD), (FULL, "overflow/llama 503"), (FULL, ""), (FULL, "overflow/llama"), (FULL, "a 4x9")]
)
def test_other_refusals_are_the_clients(verdict, told):
    envoy = begin(BodyMode.BUFFERED, StubJudge(verdict=verdict), told)
    assert envoy.immediate.status == verdict.status
    assert envoy.session.ended
