"""The table of promises holds on a real Envoy, and what breaks it is noticed. All of it, on every Envoy: hack/matrix."""

import pytest
from hack.matrix.live import ORDER, try_way
from hack.matrix.promises import WAYS, State
from hack.matrix.rows import Rows
from hack.matrix.stage import Way

from shunter.envoyconf import FailureMode, Profile
from shunter.envoyconf.shell.envoy import VERSION

pytestmark = pytest.mark.envoy


SLOWLY_HUNG = {Profile.HEADERS, Profile.FULL}  # as strict is; each takes as long


async def failures(profile, failure, states, spoil=lambda _: None):
    """Return the checks that did not hold."""
    rows = Rows(lambda _: None)
    await try_way(rows.record, Way(VERSION, profile, failure), sizes=("1 KB", "8 MB"), states=states, spoil=spoil)
    assert len(list(rows)) >= 2
    return {row.check: row.detail for row in rows.failed}


@pytest.mark.parametrize(("profile", "failure"), WAYS)
async def test_every_promise_is_kept(profile, failure, envoy_binary):
    states = [state for state in ORDER if not (state is State.HUNG and profile in SLOWLY_HUNG)]
    assert await failures(profile, failure, states) == {}


def part_of(resource, name):
    static = resource["static_resources"]
    manager = static["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    parts = [*static["clusters"], *manager["http_filters"]]
    return next(each.get("typed_config", each) for each in parts if each["name"] == name)


def deafen(resource):
    del part_of(resource, "envoy.filters.http.ext_proc/llama")["metadata_options"]


def unlimit(resource):
    manager = resource["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    (route,) = manager["route_config"]["virtual_hosts"][0]["routes"]
    route["request_body_buffer_limit"] = 1 << 30


def blind(resource):
    del part_of(resource, "picker/llama")["health_checks"]


def linger(resource):
    asked = part_of(resource, "envoy.filters.http.ext_proc/llama")
    asked["processing_mode"] = asked["processing_mode"] | {"response_trailer_mode": "SEND"}


def give_up(resource):
    part_of(resource, "envoy.filters.http.ext_proc/llama")["failure_mode_allow"] = False


LEAN, STRICT, FULL = Profile.LEAN, Profile.STRICT, Profile.FULL
OPEN, CLOSE = FailureMode.OPEN, FailureMode.CLOSE


@pytest.mark.parametrize(
    ("profile", "failure", "spoil", "state", "noticed"),
    [
        (LEAN, OPEN, deafen, State.HEALTHY, "1 KB, unary: promised picked, got served"),
        (LEAN, OPEN, unlimit, State.HEALTHY, "8 MB, unary: promised 413, got"),
        (LEAN, OPEN, give_up, State.DEAD, "1 KB, SSE: promised served, got 503"),
        (LEAN, OPEN, give_up, State.HUNG, "1 KB, unary: promised served, got 504"),
        (LEAN, OPEN, give_up, State.KILLED, "1 KB, SSE: promised picked, got cut"),
        (STRICT, CLOSE, linger, State.KILLED, "1 KB, SSE: promised picked, got cut"),
        (FULL, OPEN, blind, State.DEAD, "1 KB, unary: promised served, got 503"),
    ],
)
async def test_what_breaks_a_promise_is_noticed(profile, failure, spoil, state, noticed, envoy_binary):
    found = await failures(profile, failure, [state], spoil)
    start = f"{failure.value}, {state.value}, {noticed}"
    assert any(f"{check}: {detail}".startswith(start) for check, detail in found.items()), found
