"""A supervisor has its directory and its ports to itself; who comes second is told so."""

import os
import signal
import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.errors import ConfigError
from shunter.picker.shell import claim
from shunter.picker.shell.claim import Ports, await_seats, claim_directory, count_upward

HOLDER = """
import sys, time
from pathlib import Path
from shunter.picker.shell.claim import claim_directory
with claim_directory(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def ports():
    ports = Ports()
    yield ports
    ports.close()


@pytest.fixture
def squatter():
    """Listens at a port."""
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        yield squatter


def test_a_directory_is_one_supervisors_until_it_ends_however_it_ends(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=rf"another picker .process {holder.pid}. runs in .*--runtime"):
            claim_directory(tmp_path).__enter__()
        holder.send_signal(signal.SIGKILL)
    with claim_directory(tmp_path):
        assert (tmp_path / "supervisor.lock").read_text() == str(os.getpid())


def test_a_directory_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="--runtime"), claim_directory(tmp_path / "file" / "below"):
        pass


async def test_seats_of_the_dead_are_free_and_those_of_the_living_are_not(tmp_path, monkeypatch):
    import fcntl

    def nobody(taken):
        return not taken

    assert await await_seats(tmp_path, nobody) == set()
    (tmp_path / "seat-0.lock").touch()
    assert await await_seats(tmp_path, nobody) == set()
    monkeypatch.setattr(claim, "SEATS_FREE_S", 0.05)
    with (tmp_path / "seat-0.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match=r"seat-0\.lock names one"):
            await await_seats(tmp_path, nobody)
        assert await await_seats(tmp_path, lambda taken: len(taken) < 2) == {0}
    assert await await_seats(tmp_path, nobody) == set()


@given(st.integers(1, 65535), st.integers(1, 64), st.sets(st.integers(1, 65535), max_size=4))
def test_ports_are_counted_upward_without_those_that_are_taken(first, count, avoid):
    try:
        ports = count_upward(first, count, avoid)
    except ConfigError:
        assert len(set(range(first, 65536)) - avoid) < count
    else:
        expected = [port for port in range(first, 65536) if port not in avoid][:count]
        assert ports == expected


@pytest.mark.parametrize("shares", [False, True])
def test_a_taken_port_is_refused_even_if_who_has_it_would_share(ports, shares):
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, int(shares))
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}.*--port"):
            ports.claim("127.0.0.1", port, "--port")


def test_a_claimed_port_is_for_those_who_share_and_gets_no_connections(ports):
    port = ports.claim("127.0.0.1", 0, "--port")
    with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind(("127.0.0.1", port))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    with socket.socket() as worker, socket.socket() as successor:
        for each in (worker, successor):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            each.bind(("127.0.0.1", port))
            each.listen()
        socket.create_connection(("127.0.0.1", port)).close()
    ports.close()
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", port))


def test_no_two_claims_are_the_same_port(ports):
    claimed = {ports.claim("127.0.0.1", 0, "--port") for _ in range(20)}
    assert len(claimed) == 20


def test_who_claims_one_port_for_two_things_is_told_which_has_it(ports):
    port = ports.claim("127.0.0.1", 0, "--port")
    with pytest.raises(ConfigError, match="--port has it already; choose another with --health-port"):
        ports.claim("127.0.0.1", port, "--health-port")
