"""What both transports have in common: how they are started and stopped, and how much they take on."""

import os
import socket
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from shunter.picker.core.answers import OVERFLOW, read_overflow
from shunter.picker.core.session import Session
from shunter.picker.core.tracecontext import TRACEPARENT
from shunter.picker.errors import ConfigError

__all__ = [
    "ENVELOPE_BYTES",
    "LAST_WORDS_S",
    "MAX_STREAMS",
    "POOL",
    "PROCESS",
    "SWEEP_S",
    "Server",
    "bind_name",
    "explain_taken",
    "introduce",
    "making_sockets",
    "refuse_name",
    "refuse_taken",
]

# The method that Envoy calls.
PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"

# Metadata of the call: the pool that the request is for, as envoyconf has a gateway say it.
POOL = "x-shunter-pool"

# Room in a message beside a body of the largest size: headers (Envoy's default limit is 60 KiB) are in a message of their own,
# so this is for metadata and the envelope.
ENVELOPE_BYTES = 64 * 1024

# Every live request holds a stream in most modes; as many as the generated Envoy configuration lets through its circuit
# breaker.
MAX_STREAMS = 65_536

# Between looks at what nobody tells: who has fallen silent, and whether TLS files have changed.
SWEEP_S = 5.0

# For ``sun_path`` of unix(7), which ends in a zero, and for ".new" while a socket is about to take another one's place.
LONGEST_NAME_BYTES = 103

# What a stream that is told to go at the deadline may take to say it.
LAST_WORDS_S = 0.5


class Server(Protocol):
    """An ext_proc server with its health service."""

    @property
    def streams(self) -> int:
        """How many ext_proc streams are open."""
        ...

    @property
    def certificate_expires_s(self) -> float | None:
        """When the certificate in use expires, in seconds since 1970; None without TLS."""
        ...

    async def start(self, host: str, port: int, health_port: int | None = None) -> int:
        """Listen; return the port, which matters if ``port`` is 0.

        ``health_port`` is a second door, behind which is health alone, and never TLS: Kubernetes' probes do not speak it.

        ``unix:PATH`` as host is a socket of that name; ports then mean nothing.
        """
        ...

    async def drain(self, deadline_s: float) -> None:
        """Take no new stream, let those that run end well, and after ``deadline_s`` end the rest; then the server is stopped.

        Who waits for a choice gets it if its body comes in time, else a refusal. A stream that waits for nothing ends at once.
        """
        ...

    async def stop(self) -> None:
        """Cut everything off."""
        ...


def introduce(session: Session, metadata: Mapping[str, str]) -> None:
    """Tell a session what the gateway said when it opened the stream: whose request it is, and what it belongs to."""
    session.pool = metadata.get(POOL)
    told = metadata.get(OVERFLOW)
    if told:
        session.overflow = read_overflow(told)
    session.traceparent = metadata.get(TRACEPARENT)


def refuse_name(path: str) -> None:
    """Raise ConfigError if no socket can have that name: what is there and is no socket is not ours to replace."""
    name, where = Path(path), f"cannot listen on unix:{path}"
    if len(os.fsencode(path)) > LONGEST_NAME_BYTES:
        raise ConfigError(f"{where}: the name is longer than {LONGEST_NAME_BYTES} bytes; give --host unix: a shorter one")
    if not name.parent.is_dir():
        raise ConfigError(f"{where}: there is no directory {name.parent}; make it, or give --host unix: another name")
    if name.exists() and not name.is_socket():
        raise ConfigError(f"{where}: what is there is not a socket; remove it, or give --host unix: another name")


@contextmanager
def making_sockets(mode: int) -> Generator[None]:
    """Have sockets that are bound meanwhile come with this mode: at no moment may they be asked by more than it allows."""
    before = os.umask(0o777 & ~mode)
    try:
        yield
    finally:
        os.umask(before)


def bind_name(path: str, mode: int) -> socket.socket:
    """Return a socket of that name, in place of one that a dead picker left; raises OSError. Nobody listens there yet."""
    if Path(path).is_socket():
        Path(path).unlink()
    door = socket.socket(socket.AF_UNIX)
    try:
        with making_sockets(mode):
            door.bind(path)
    except OSError:
        door.close()
        raise
    return door


def refuse_taken(path: str) -> None:
    """Raise ConfigError if somebody answers at the socket of that name; one that a dead picker left is free."""
    with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
        probe.connect(path)
        raise ConfigError(f"cannot listen on unix:{path}: somebody does already; choose another path, or stop it")


def explain_taken(host: str, port: int) -> ConfigError:
    """Say why nobody can listen there."""
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return ConfigError(
        f"cannot listen on {address}: port {port} is taken, or {host} is not an address of this machine;"
        " choose another, or stop what listens there"
    )
