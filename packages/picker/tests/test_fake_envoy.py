"""FakeEnvoy rejects what the real one rejects: each check is seen failing on a session that is wrong in just that way."""

import pytest

from shunter.picker.core.events import BodyMode, BodyReply, HeadersReply, Immediate, Mutation, Side, TrailersReply
from shunter.picker.testing import EnvoyRejects, FakeEnvoy

REQUEST = Side.REQUEST


class Scripted:
    """A session that gives fixed replies to the first events, then none."""

    parked = None

    def __init__(self, *answers):
        self._answers = list(answers)

    def feed(self, event, now_s):
        return self._answers.pop(0) if self._answers else []


def envoy(mode, *answers):
    return FakeEnvoy(Scripted(*answers), mode)


@pytest.mark.parametrize(
    ("mode", "answers", "why"),
    [
        (BodyMode.BUFFERED, [], "no answer to headers"),
        (BodyMode.BUFFERED, [[HeadersReply(REQUEST)]], "no answer to body"),
        (BodyMode.BUFFERED, [[HeadersReply(REQUEST)], [BodyReply(REQUEST, streamed=b"{}")]], "streamed_response is for"),
        (BodyMode.BUFFERED, [[HeadersReply(REQUEST)] * 2], "spurious answer to headers; nothing waits"),
        (BodyMode.BUFFERED, [[HeadersReply(REQUEST)], [HeadersReply(REQUEST)]], "spurious answer to headers; body wait"),
        (BodyMode.BUFFERED, [[BodyReply(REQUEST)]], "spurious answer to body"),
        (BodyMode.BUFFERED, [[TrailersReply(REQUEST)]], "spurious answer to trailers"),
        (
            BodyMode.BUFFERED,
            [[HeadersReply(REQUEST)], [BodyReply(REQUEST, Mutation((("content-length", "9"),)), replaced=b"new")]],
            "content-length 9, but 3 bytes",
        ),
        (BodyMode.STREAMED, [[HeadersReply(REQUEST)], [BodyReply(REQUEST, Mutation())]], "headers are gone"),
        (BodyMode.FULL_DUPLEX_STREAMED, [], "no answer to headers"),
        (BodyMode.FULL_DUPLEX_STREAMED, [[HeadersReply(REQUEST)]], "never ends"),
        (BodyMode.FULL_DUPLEX_STREAMED, [[BodyReply(REQUEST, streamed=b"")]], "before the headers"),
        (BodyMode.FULL_DUPLEX_STREAMED, [[HeadersReply(REQUEST), BodyReply(REQUEST)]], "must be a streamed_response"),
        (
            BodyMode.FULL_DUPLEX_STREAMED,
            [[HeadersReply(REQUEST), *[BodyReply(REQUEST, streamed=b"", end_of_stream=True)] * 2]],
            "after the end of the stream",
        ),
        (BodyMode.NONE, [[Immediate(503), HeadersReply(REQUEST)]], "after an immediate response"),
    ],
)
def test_a_wrong_form_is_rejected(mode, answers, why):
    with pytest.raises(EnvoyRejects, match=why):
        envoy(mode, *answers).request(body=b"{}")


def test_header_and_metadata_must_name_the_same_endpoint():
    name = "x-gateway-destination-endpoint"
    fake = envoy(BodyMode.NONE, [HeadersReply(REQUEST, Mutation(((name, "a"),)), {"envoy.lb": {name: "b"}})])
    fake.request(body=b"{}")
    with pytest.raises(EnvoyRejects, match="the header names a, the metadata b"):
        _ = fake.endpoints
