"""The matrix's checks of what is before the picker and behind the pool hold, and notice what is broken."""

import pytest
from hack.matrix.edges import EDGES, seen

from shunter.envoyconf.shell import envoy

pytestmark = pytest.mark.envoy


def filter_of(resource, name):
    """Return the configuration of an HTTP filter, of whichever listener has it."""
    for listener in resource["static_resources"]["listeners"]:
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        for each in manager["http_filters"]:
            if each["name"].startswith(f"envoy.filters.http.{name}"):
                return each["typed_config"]
    raise LookupError(name)


def show_keys(resource):
    filter_of(resource, "api_key_auth")["forwarding"]["hide_credentials"] = False


def forward_tokens(resource):
    filter_of(resource, "jwt_authn")["providers"]["a"]["forward"] = True


def look_on(resource):
    del filter_of(resource, "local_ratelimit")["filter_enforced"]


def tell_all(resource):
    filter_of(resource, "header_mutation")["mutations"] = {}


BROKEN = dict(zip([edge.check for edge in EDGES], (show_keys, forward_tokens, look_on, tell_all), strict=True))


@pytest.mark.parametrize("edge", EDGES, ids=lambda edge: edge.check)
async def test_a_check_passes_and_would_notice(edge, envoy_binary):
    assert await seen(edge, envoy.VERSION) == edge.seen
    assert await seen(edge, envoy.VERSION, BROKEN[edge.check]) != edge.seen
