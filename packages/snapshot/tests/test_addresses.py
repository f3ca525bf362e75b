"""Two colons are every address that there is."""

import socket

import pytest

from shunter.snapshot.addresses import addresses_of


@pytest.mark.parametrize(
    ("host", "has_ipv6", "addresses"),
    [
        ("::", True, ("0.0.0.0", "::")),
        ("::", False, ("0.0.0.0",)),
        ("::1", True, ("::1",)),
        ("localhost", False, ("localhost",)),
    ],
)
def test_two_colons_are_every_address_that_there_is(host, has_ipv6, addresses, monkeypatch):
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: has_ipv6)
    assert addresses_of(host) == addresses
