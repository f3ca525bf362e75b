"""Ports are claimed all or none."""

import socket

import pytest

from shunter.stack.errors import StackError
from shunter.stack.shell.ports import claim


def test_free_ports_are_different_ones():
    claimed = claim({"--a": 0, "--b": 0})
    assert len(set(claimed.values())) == 2


def test_every_taken_port_is_named_with_its_option():
    with socket.socket() as one, socket.socket() as two:
        for each in (one, two):
            each.bind(("127.0.0.1", 0))
            each.listen()
        ports = [each.getsockname()[1] for each in (one, two)]
        with pytest.raises(StackError, match=f"port {ports[0]} .--a.: .*port {ports[1]} .--b.: .*--any-port"):
            claim({"--a": ports[0], "--free": 0, "--b": ports[1]})


def test_one_that_shares_its_port_is_found_too():
    with socket.socket() as envoy:
        envoy.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        envoy.bind(("127.0.0.1", 0))
        envoy.listen()
        with pytest.raises(StackError):
            claim({"--port": envoy.getsockname()[1]})


def test_one_port_for_two_is_refused():
    (port,) = claim({"--a": 0}).values()
    with pytest.raises(StackError, match=f"port {port} .--b.: wanted twice"):
        claim({"--a": port, "--b": port})


def test_there_is_no_port_behind_the_last():
    with pytest.raises(StackError, match=r"port 65536 .--engine-port \+ 1.: the last port is 65535"):
        claim({"--engine-port + 1": 65536})
