"""A Docker daemon of our own, which touches nothing of the machine's Docker, network, mounts or firewall."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path

import msgspec
from hack.kube import programs

from shunter.envoyconf.testing_kube import running_process

__all__ = ["RunningDocker", "running_docker"]

# Only in the daemon's own network namespace.
BRIDGE = "10.213.0.1/24"


class RunningDocker(msgspec.Struct, frozen=True):
    """A daemon, and what DOCKER_HOST is to be for it."""

    host: str
    directory: Path

    def docker(self, *arguments: str | Path) -> str:
        """Return what docker prints; AssertionError with its words if it fails."""
        command = [programs.find("docker"), "--host", self.host, *arguments]
        environment = os.environ | {"DOCKER_BUILDKIT": "1"}
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
        assert not done.returncode, done.stderr
        return done.stdout


@contextlib.contextmanager
def running_docker() -> Generator[RunningDocker]:
    """Run a daemon in the network namespace of the caller, which should be its own (`own_network`); root only.

    Ports are published by Docker's proxy, not by a firewall. Raises programs.Missing if there is no dockerd.
    """
    daemon = programs.find("dockerd")
    with tempfile.TemporaryDirectory(prefix="shunter-docker-") as name:
        directory = Path(name)
        running = RunningDocker(f"unix://{directory}/docker.sock", directory)
        cgroup = f"shunter-{directory.name.rpartition('-')[2]}"
        # Mounts of containers are made in a mount namespace that ends with the daemon.
        isolated = ("unshare", "--mount", "--propagation", "private", str(daemon), "--host", running.host)
        places = (f"--data-root={name}/data", f"--exec-root={name}/exec", f"--pidfile={name}/pid")
        network = ("--iptables=false", "--ip6tables=false", "--ip-forward=false", f"--bip={BRIDGE}")
        log = directory / "dockerd.log"
        try:
            command = (*isolated, *places, *network, f"--cgroup-parent=/{cgroup}")
            with running_process(log, command, env=programs.environment()) as process:
                programs.await_that(
                    lambda: process.poll() is not None or (directory / "docker.sock").exists(), "dockerd does not listen"
                )
                assert process.poll() is None, f"dockerd ended: {log.read_text()[-2000:]}"
                running.docker("version")
                yield running
        finally:
            for empty in Path("/sys/fs/cgroup").glob(f"**/{cgroup}"):
                with contextlib.suppress(OSError):
                    empty.rmdir()
            shutil.rmtree(directory / "data", ignore_errors=True)
