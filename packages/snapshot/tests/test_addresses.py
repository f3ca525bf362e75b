"""Two colons are every address that there is, and a refusal has words."""

import errno
import os
import socket

import pytest

from shunter.snapshot.addresses import addresses_of, why_not


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


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EADDRINUSE, "error while attempting to bind on address"), os.strerror(errno.EADDRINUSE)),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
        (OSError("could not bind on any address out of []"), "could not bind on any address out of []"),
    ],
)
def test_why_nobody_can_listen_is_said_in_words(error, words):
    assert why_not(error) == words
