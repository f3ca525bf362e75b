"""Ports: told of before somebody listens there, and kept while nobody does."""

import errno
import socket
from pathlib import Path

import pytest

from shunter.conformance.shell.gateways.relay import Relay
from shunter.conformance.shell.gateways.server import ServerDouble
from shunter.conformance.shell.ports import free_ports, hold

HOST = "127.0.0.1"


def refuses(port):
    with socket.socket() as client:
        return client.connect_ex((HOST, port)) == errno.ECONNREFUSED


def is_ours(port):
    """Whether another program cannot have it."""
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind((HOST, port))
    return True


def test_free_ports_are_different_ones_that_no_client_is_given():
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports = free_ports(7)
    assert len({*ports}) == 7
    assert max(ports) < low


def test_a_held_port_refuses_and_nobody_else_gets_it():
    [port] = free_ports(1)
    with hold(HOST, port):
        assert refuses(port)
        assert is_ours(port)


def test_a_held_port_is_given_back():
    [port] = free_ports(1)
    hold(HOST, port).close()
    with socket.socket() as other:
        other.bind((HOST, port))


def test_what_somebody_has_cannot_be_held():
    with socket.create_server((HOST, 0)) as taken, pytest.raises(OSError, match="in use"):
        hold(HOST, taken.getsockname()[1])


async def test_a_picker_that_died_keeps_its_address_until_it_lives_again():
    [port, inside] = free_ports(2)
    relay = Relay(f"{HOST}:{port}", inside)
    try:
        for _ in range(2):
            await relay.restore()
            assert not refuses(port)
            await relay.cut()
            assert refuses(port)
            assert is_ours(port)
    finally:
        await relay.close()


async def test_a_model_server_that_is_down_keeps_its_address():
    [port] = free_ports(1)
    server = ServerDouble(f"{HOST}:{port}", {})
    await server.start()
    try:
        async with server.down():
            assert refuses(port)
            assert is_ours(port)
        assert not refuses(port)
    finally:
        await server.stop()
    with socket.create_server((HOST, port)):
        pass
