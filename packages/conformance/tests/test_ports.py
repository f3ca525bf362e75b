"""Ports: told of before somebody listens there, and kept while nobody does."""

import errno
import socket
from pathlib import Path

import pytest

from shunter.conformance.shell import ports
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
    given = free_ports(7)
    assert len({*given}) == 7
    assert max(given) < low


def test_a_held_port_refuses_and_nobody_else_gets_it():
    [port] = free_ports(1)
    with hold(HOST, port):
        assert refuses(port)
        assert is_ours(port)


def test_a_held_port_is_no_free_one(monkeypatch):
    [port] = free_ports(1)
    monkeypatch.setattr(ports, "UNASSIGNED", (port, port + 1))
    with hold(HOST, port), pytest.raises(OSError, match="no 1 ports in a row are free"):
        free_ports(1)
    assert free_ports(1) == [port]


def test_no_file_descriptor_is_no_taken_port(monkeypatch):
    def socket_of(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socket", socket_of)
    with pytest.raises(OSError, match="Too many open files"):
        free_ports(1)


def test_a_family_that_the_kernel_has_not_is_left_out(monkeypatch):
    [port] = free_ports(1)
    places = [
        (socket.AF_INET6, socket.SOCK_STREAM, 0, "", ("::1", port, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 0, "", (HOST, port)),
    ]
    made = socket.socket

    def socket_of(family, *more):
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return made(family, *more)

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: places)
    monkeypatch.setattr(socket, "socket", socket_of)
    with hold("localhost", port):
        monkeypatch.undo()
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
