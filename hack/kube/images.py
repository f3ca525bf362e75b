"""The images of the Dockerfile, built by a Docker daemon of our own on a base of Debian's packages: no registry is asked.

Built once for each state of what goes into them, and kept as archives in ``build/images``, which `docker load` and
`ctr images import` both read.
"""

import contextlib
import hashlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
from collections.abc import Generator, Sequence
from pathlib import Path

from hack.kube import programs
from hack.kube.docker import RunningDocker, running_docker

from shunter.envoyconf.testing_gateway import own_network

__all__ = ["TARGETS", "archives", "build", "image_name", "running_builder"]

ROOT = Path(__file__).parents[2]
TARGETS = ("picker", "scraper", "envoyconf", "conformance", "rollout", "lab", "all")
BASE = "shunter.test/base:1"
WHEELS = ROOT / "build" / "wheels"
INPUTS = ("Dockerfile", "LICENSE", "deploy/install", "hack/kube/base", "requirements/image.txt")


def image_name(target: str) -> str:
    """Return the name that documents and the chart give to an image."""
    name = "shunter" if target == "all" else f"shunter-{target}"
    return f"{name}:{importlib.metadata.version('shunter-stack')}"


def archives(targets: Sequence[str]) -> list[Path]:
    """Return archives of these images, as the tree is now; raises what `running_builder` raises."""
    directory = ROOT / "build" / "images" / _state()
    found = [directory / f"{target}.tar" for target in targets]
    if missing := [archive for archive in found if not archive.exists()]:
        with running_builder() as docker:
            _forget_former(directory)
            for archive in missing:
                name = build(docker, archive.stem)
                partial = archive.with_suffix(".partial")
                docker.docker("save", "--output", partial, name)
                partial.rename(archive)
    return found


@contextlib.contextmanager
def running_builder() -> Generator[RunningDocker]:
    """Run a daemon that can build them, in a network of its own; root only.

    Raises programs.Missing if there is no Docker or what is installed cannot be fetched, PermissionError if not root.
    """
    programs.find("dockerd")
    base = ROOT / "build" / f"base-{_digest([ROOT / 'hack/kube/base'])}.tar"
    fetched = WHEELS / f"for-{_digest([ROOT / 'requirements/image.txt'])}"
    if not base.exists():
        _fetch(["hack/kube/base", str(base)])
    if not fetched.exists():
        shutil.rmtree(WHEELS, ignore_errors=True)
        WHEELS.mkdir(parents=True)
        # Conditions would be those of the Python that downloads, not of the image's.
        whole = WHEELS / "whole.txt"
        whole.write_text(re.sub(r" ; [^\\]*", " ", (ROOT / "requirements/image.txt").read_text()))
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--only-binary=:all:"]
        _fetch([*pip, "--python-version=3.11", f"--requirement={whole}", f"--dest={WHEELS}"])
        fetched.touch()
    with own_network(), running_docker() as docker:
        docker.docker("import", base, BASE)
        yield docker


def build(docker: RunningDocker, target: str, *options: str) -> str:
    """Build an image without a network and return its name."""
    arguments = {"BASE": BASE, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/source/build/wheels"}
    given = [f"--build-arg={name}={value}" for name, value in arguments.items()]
    name = image_name(target)
    docker.docker("build", "--quiet", "--network=none", f"--target={target}", f"--tag={name}", *given, *options, ROOT)
    return name


def _state() -> str:
    sources = sorted(path for path in (ROOT / "packages").glob("*/src/**/*") if path.is_file() and path.suffix != ".pyc")
    return _digest([*(ROOT / name for name in INPUTS), *sorted((ROOT / "packages").glob("*/pyproject.toml")), *sources])


def _digest(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _forget_former(directory: Path) -> None:
    if not directory.exists():
        shutil.rmtree(directory.parent, ignore_errors=True)
        directory.mkdir(parents=True)


def _fetch(command: Sequence[str]) -> None:
    done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
    if done.returncode:
        raise programs.Missing(f"{command[0]} cannot fetch what images are made of: {done.stderr.strip()[-500:]}")
