"""The cases of gateways are well-formed values, and what the gateway is told of the exam is an intent."""

import contextlib
import re

import msgspec
import pytest
import yaml

from shunter.conformance.core.exchange import Exchange
from shunter.conformance.errors import Mismatch, Unanswered, UsageError
from shunter.conformance.sections.gateways import CASES, PROFILES, failures
from shunter.conformance.sections.gateways.requests import make_body
from shunter.conformance.sections.gateways.setup import DEFAULT, Place, check_places, intent
from shunter.conformance.sections.gateways.target import Outage
from shunter.conformance.sections.gateways.trial import Pool, Reply, Trial

# The ids that reports in the world may contain. Lines are only ever added.
IDS = [
    "gw.pick.each",
    "gw.pick.bodiless",
    "gw.pick.once",
    "gw.pick.connection",
    "gw.pick.concurrent",
    "gw.pick.first-choice",
    "gw.pick.spoofed",
    "gw.pick.outside",
    "gw.pools.own-picker",
    "gw.pools.weighted",
    "gw.pools.model",
    "gw.pools.unknown-host",
    "gw.request.body",
    "gw.request.large-body",
    "gw.request.body-asked",
    "gw.request.headers-asked",
    "gw.request.headers-changed",
    "gw.request.body-changed",
    "gw.request.id",
    "gw.request.http2",
    "gw.answer.errors",
    "gw.answer.immediate",
    "gw.answer.unbuffered",
    "gw.answer.order",
    "gw.answer.large",
    "gw.answer.cut",
    "gw.answer.hang-up",
    "gw.answer.hang-up-waiting",
    "gw.answer.served-told",
    "gw.answer.headers-changed",
    "gw.answer.body-changed",
    "gw.fallback.refused",
    "gw.fallback.large-body",
    "gw.fallback.unavailable",
    "gw.fallback.exhausted",
    "gw.fallback.served-told",
    "gw.failure.recovers",
    "gw.failure.open-away",
    "gw.failure.close-away",
    "gw.failure.apart",
    "gw.failure.spoofed",
    "gw.failure.open-error",
    "gw.failure.open-hang",
    "gw.failure.open-silent",
    "gw.failure.close-error",
    "gw.failure.close-hang",
    "gw.failure.close-silent",
    "gw.failure.open-stream",
    "gw.failure.close-stream",
]


def test_ids_never_change():
    assert [case.id for case in CASES] == IDS


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_the_intent_names_both_pools_and_how_they_fail(profile):
    told = yaml.safe_load(intent(DEFAULT, profile, 8080))
    assert told["listeners"] == [{"port": 8080}]
    for pool, place in DEFAULT.items():
        (stated,) = [each for each in told["pools"] if each["name"] == pool]
        assert stated["endpoints"] == list(place.servers)
        assert stated["picker"]["addresses"] == [place.picker]
        closed = pool is Pool.CLOSE or "fail-open" in profile.lacks
        assert stated["picker"]["failureMode"] == ("FailClose" if closed else "FailOpen")
    assert profile.name.endswith(told.get("profile", "generic"))


@pytest.mark.parametrize(
    ("place", "problem"),
    [
        (Place("127.0.0.1", ("::1:1", "b:2")), "--open-picker '127.0.0.1': want HOST:PORT"),
        (Place("a:99999", ("a:1", "b:2")), "--open-picker 'a:99999'"),
        (Place("[::1:80", ("a:1", "b:2")), "want HOST:PORT"),
        (Place("a:1", ("127.0.0.1:2", "127.0.0.1:2")), "--open-servers '127.0.0.1:2': is somebody's already"),
        (Place("127.0.0.1:9111", ("[::1]:2", "[::1]:3")), "--close-servers '127.0.0.1:9111': is somebody's already"),
        (Place("a:1", ("127.0.0.1:2",)), "want 2 servers or more"),
        (Place("a:1", ("127.0.0.1:2", "http://c:3")), "want HOST:PORT"),
        (Place("a:1", ("127.0.0.1:2", "127.0.0.1:0")), "want a port"),
        (Place("a:1", ("127.0.0.1:2", "b:3")), "--open-servers 'b:3': want IP:PORT"),
    ],
)
def test_an_address_that_is_none_is_refused(place, problem):
    with pytest.raises(UsageError, match=re.escape(problem)):
        check_places({**DEFAULT, Pool.OPEN: place})


@pytest.mark.parametrize("saw", ["question", "arrival"])
def test_what_nobody_saw_is_a_mismatch(saw):
    """Also where a case that came before has seen it: gateways differ from one request to the next."""
    with pytest.raises(Mismatch, match="HTTP 0; servers reached: none; a picker was asked never"):
        getattr(Trial("trial-1", None, Reply()), saw)


class Outages:
    """A gateway that is mute while a picker is away, of which it then sees, or not, that it is back."""

    def __init__(self, *, asked_again):
        self.outage = Outage()
        self.asked_again = asked_again

    @contextlib.asynccontextmanager
    async def picker_down(self, pool):
        yield self.outage
        self.outage.asked_again = self.asked_again

    async def ask(self, pool):
        raise Unanswered("nothing came")

    def seconds(self, bound):
        return bound.seconds


async def test_a_picker_is_given_the_bound_once_to_be_asked_again():
    """What becomes of requests while it is away is not the question here."""
    assert "asked again" in await failures.recovers(Outages(asked_again=True))
    with pytest.raises(Mismatch, match="asked again within 20 s of its return"):
        await failures.recovers(Outages(asked_again=False))


def test_no_part_of_a_body_is_like_another():
    body = make_body(100_000)
    assert 90_000 < len(body) < 110_000
    assert msgspec.json.decode(body)["model"] == "exam"
    blocks = [body[at : at + 64] for at in range(200, len(body) - 200, 64)]
    assert len(set(blocks)) == len(blocks)


def test_a_body_that_no_shell_would_take_is_named_by_its_size():
    exchange = Exchange(method="POST", url="http://a/", request_body=make_body(1_000_000))
    assert exchange.curl == f"curl -sS -i -X POST --data-binary @FILE-OF-{len(exchange.request_body)}-BYTES http://a/"
