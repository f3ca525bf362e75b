"""What the real Envoy Gateway makes of our manifests: the end-to-end tests about it, one row a case.

They run the controller from files and on a Kubernetes API, with a real Envoy, pickers and model servers.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

import click
from hack.matrix.rows import Record

from shunter.envoyconf.core.intent import Profile
from shunter.envoyconf.core.targets import Target
from shunter.envoyconf.shell.envoy import VERSION

__all__ = ["suite"]

ROOT = Path(__file__).parents[2]

# What the tests of a file are about, where the manifests come from, and the profile unless they name another.
TARGETS = {
    "test_envoy_gateway": (Target.ENVOY_GATEWAY, "from files", Profile.LEAN),
    "test_envoy_gateway_kube": (Target.ENVOY_GATEWAY, "from a Kubernetes API", Profile.LEAN),
    "test_envoy_gateway_tokens": (Target.ENVOY_GATEWAY, "from files", Profile.NATIVE),
    "test_envoy_gateway_patch": (Target.ENVOY_GATEWAY_PATCH, "from files", Profile.LEAN),
    "test_envoy_gateway_patch_kube": (Target.ENVOY_GATEWAY_PATCH, "from a Kubernetes API", Profile.LEAN),
}
TIMEOUT_S = 900


def suite(record: Record, versions: tuple[str, ...]) -> None:
    """Record a row for each case; its Envoy is the default one, so nothing is recorded if others are asked for."""
    if VERSION not in versions:
        return
    for file, words, parameters, problem in _cases():
        target, where, usual = TARGETS[file]
        stated = (each.value for each in Profile if each.value in parameters or f"profile {each.value}" in words)
        profile = next(stated, usual.value)
        rest = ", ".join([*(each for each in parameters if each != profile), where])
        check = f"{words} ({rest})"
        record(target=target.value, envoy_version=VERSION, profile=profile, check=check, ok=not problem, detail=problem)


def _cases() -> Iterator[tuple[str, str, list[str], str]]:
    """Run the tests; yield file, name, parameters, and what was wrong."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.xml"
        files = [str(ROOT / "e2e" / f"{name}.py") for name in TARGETS]
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", f"--junitxml={report}", *files]
        environment = os.environ | {"SHUNTER_EVERY_GATEWAY": "1"}
        subprocess.run(command, cwd=ROOT, env=environment, check=False, timeout=TIMEOUT_S, stdout=subprocess.DEVNULL)
        for case in ET.parse(report).iter("testcase"):
            if (skipped := case.find("skipped")) is not None:
                click.echo(f"not here: {skipped.get('message')}", err=True)
                continue
            words, _, parameters = case.get("name", "").removeprefix("test_").removesuffix("]").partition("[")
            file = case.get("classname", "").rpartition(".")[2]
            trouble = next((found for kind in ("failure", "error") for found in case.iter(kind)), None)
            problem = "" if trouble is None else (trouble.get("message") or "failed").splitlines()[0]
            yield file, words.replace("_", " "), parameters.split("-") if parameters else [], problem
