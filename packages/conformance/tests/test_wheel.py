"""The exam needs its wheel and what that names, and neither this repository nor anything else that is installed here."""

import importlib.metadata
import os
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1]


def needed(name: str, found: dict[str, importlib.metadata.Distribution]) -> None:
    """Find what a package needs, without its extras, as far as it is here: the rest is for other platforms."""
    name = re.sub(r"[-_.]+", "-", name).lower()
    if name in found:
        return
    try:
        found[name] = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return
    for need in found[name].requires or ():
        if "extra ==" not in need:
            needed(re.match(r"[\w.-]+", need)[0], found)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Run a program of an environment that has the wheel and its dependencies alone, elsewhere."""
    home = tmp_path_factory.mktemp("elsewhere")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(home / "dist")]
    subprocess.run(build, cwd=PACKAGE, check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home / "env")], check=True)
    (site,) = (home / "env").glob("lib/python*/site-packages")
    (wheel,) = (home / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    distributions: dict[str, importlib.metadata.Distribution] = {}
    needed("shunter-conformance", distributions)
    here = Path(sysconfig.get_path("purelib"))
    del distributions["shunter-conformance"]
    for each in distributions.values():
        for top in {file.parts[0] for file in each.files or ()} - {"..", "__pycache__"}:
            (site / top).symlink_to(here / top)

    def run(*words, code=0):
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV"))}
        command = [home / "env/bin/python", "-m", "shunter.conformance", *words]
        done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    return run


def test_all_cases_are_listed(installed):
    listed = installed("list")
    for first in ("ms.reachability.health", "ep.", "gw."):
        assert f"  {first}" in listed


def test_a_case_is_explained(installed):
    assert "ms.metrics.kv-idle" in installed("explain", "ms.metrics.kv-idle")


def test_a_job_is_printed(installed):
    assert "kind: Job" in installed("manifests", "--image", "exam:1", "--", "http://vllm.models:8000")


def test_what_an_extra_brings_is_asked_for_by_its_name(installed):
    assert "shunter-conformance[containers]" in installed("run", "--container", "vllm/vllm-openai", code=2)


def test_a_server_is_examined(installed):
    """One that this interpreter starts, where the lab is."""
    said = installed("run", "--launch", "lab", "--python", sys.executable, "--profile", "gie", "--select", "ms.metrics")
    assert "pass   ms.metrics.load-present" in said
