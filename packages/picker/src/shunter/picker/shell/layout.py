"""What a supervisor is to run, and which of its processes listens where."""

import logging
from pathlib import Path

import msgspec

from shunter.picker.errors import ConfigError
from shunter.picker.shell.claim import Ports, count_upward
from shunter.picker.shell.collector import Settings as CollectorSettings
from shunter.picker.shell.metrics import Names
from shunter.picker.shell.sharer import Settings as SharerSettings
from shunter.picker.shell.worker import Settings as WorkerSettings
from shunter.picker.transport.server import refuse_name, refuse_taken
from shunter.snapshot.stderr import Form, Level

__all__ = ["UNIX", "Settings", "address", "lay_out", "lay_out_collector"]

UNIX = "unix:"

log = logging.getLogger(__name__)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What to run; ``collector`` and ``sharer`` if there are to be such, and the files that are read at every reload.

    ``worker`` holds for each but its port, which is one of ``ports``, or counted upward from a single one.
    """

    worker: WorkerSettings
    ports: tuple[int, ...] = (9002,)
    workers: int
    runtime: Path
    collector: CollectorSettings | None = None
    sharer: SharerSettings | None = None
    config_file: Path | None = None
    levels_file: Path | None = None
    admin_host: str = "127.0.0.1"
    admin_port: int = 9090
    one_port: bool = False
    watch_config: bool = False
    reload_max_change: float | None = None  # of the picks, 0 to 1: what would change more is not taken
    metric_names: Names = "current"
    log_level: Level = "info"
    log_format: Form = "text"


def lay_out(settings: Settings, ports: Ports, *, orphaned: bool) -> list[WorkerSettings]:
    """Claim what the workers listen at, and return each one's settings; raise ConfigError naming what cannot be had.

    If there are orphans, what they listen at is not taken: it is about to be theirs who relieve them.
    """
    by_name = settings.worker.host.startswith(UNIX)
    return _by_name(settings, orphaned=orphaned) if by_name else _by_port(settings, ports)


def lay_out_collector(settings: CollectorSettings, ports: Ports) -> CollectorSettings:
    """Claim what the collector listens at."""
    return msgspec.structs.replace(settings, port=ports.claim(settings.host, settings.port, "--collector-port"))


def address(host: str, port: int) -> str:
    """Write an address as a gateway's configuration has it."""
    if host.startswith(UNIX):
        return host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _by_name(settings: Settings, *, orphaned: bool) -> list[WorkerSettings]:
    count, worker = settings.workers, settings.worker
    if settings.one_port and count > 1:
        raise ConfigError("--one-port is for TCP: each worker has a socket by name of its own")
    hosts = [worker.host if count == 1 else f"{worker.host}.{number}" for number in range(count)]
    for path in (host.removeprefix(UNIX) for host in hosts):
        refuse_name(path)
        if not orphaned:
            refuse_taken(path)
    return [msgspec.structs.replace(worker, host=host, shared_ports=True) for host in hosts]


def _by_port(settings: Settings, ports: Ports) -> list[WorkerSettings]:
    count, worker = settings.workers, settings.worker
    first, *more = settings.ports
    if more and settings.one_port:
        raise ConfigError(f"{len(settings.ports)} ports with --one-port: give --port once")
    if more and len(settings.ports) != count:
        raise ConfigError(f"{len(settings.ports)} ports for {count} workers: give --port once, or once for each")
    health_port = ports.claim(worker.host, worker.health_port, "--health-port")
    log.info("health on port %d", health_port)
    if settings.one_port:
        claimed = [ports.claim(worker.host, first, "--port")] * count
    else:
        wanted = settings.ports
        if len(wanted) < count:
            others = {worker.health_port, settings.admin_port, settings.collector.port if settings.collector else 0}
            wanted = count_upward(first, count, others) if first else [0] * count
        claimed = [ports.claim(worker.host, port, "--port") for port in wanted]
    return [msgspec.structs.replace(worker, port=port, health_port=health_port, shared_ports=True) for port in claimed]
