"""Ports are claimed all or none, and held for whoever is told of them."""

import functools
import socket
from contextlib import ExitStack

import pytest

from shunter.stack.errors import StackError
from shunter.stack.shell import ports


@pytest.fixture
def claim():
    with ExitStack() as held:
        yield functools.partial(ports.claim, held=held)


def test_free_ports_are_different_ones(claim):
    claimed = claim({"--a": 0, "--b": 0})
    assert len(set(claimed.values())) == 2


def test_every_taken_port_is_named_with_its_option(claim):
    with socket.socket() as one, socket.socket() as two:
        for each in (one, two):
            each.bind(("127.0.0.1", 0))
            each.listen()
        taken = [each.getsockname()[1] for each in (one, two)]
        with pytest.raises(StackError, match=f"port {taken[0]} .--a.: .*port {taken[1]} .--b.: .*--any-port"):
            claim({"--a": taken[0], "--free": 0, "--b": taken[1]})


def test_one_that_shares_its_port_is_found_too(claim):
    with socket.socket() as envoy:
        envoy.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        envoy.bind(("127.0.0.1", 0))
        envoy.listen()
        with pytest.raises(StackError):
            claim({"--port": envoy.getsockname()[1]})


def test_one_port_for_two_is_refused(claim):
    (port,) = claim({"--a": 0}).values()
    with pytest.raises(StackError, match=f"port {port} .--b.: wanted twice"):
        claim({"--a": port, "--b": port})


def test_there_is_no_port_behind_the_last(claim):
    with pytest.raises(StackError, match=r"port 65536 .--engine-port \+ 1.: the last port is 65535"):
        claim({"--engine-port + 1": 65536})


def test_nobody_else_is_given_a_port_that_is_held(claim):
    held = claim({"--scraper-port": 0})["--scraper-port"]
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", held))


@pytest.mark.parametrize("option", [socket.SO_REUSEADDR, socket.SO_REUSEPORT])
def test_who_is_told_of_a_port_listens_there(claim, option):
    (held,) = claim({"--scraper-port": 0}).values()
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, option, 1)
        server.bind(("127.0.0.1", held))
        server.listen()
        socket.create_connection(("127.0.0.1", held)).close()
