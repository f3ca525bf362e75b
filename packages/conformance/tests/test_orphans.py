"""What the exam has started does not outlive it, even if it is killed and can end nobody any more."""

import os
import select
import subprocess
import sys

import pytest

# What is started says who it is, and then nothing.
EXAMINER = """
import asyncio, sys
from pathlib import Path
from shunter.conformance.shell.launching import process
from shunter.conformance.shell.launching.recipe import Recipe
from shunter.conformance.shell.pickers import envoy, launching

script = sys.argv[2]

class Picker:
    profile = "mute"
    def document(self, site): return {}
    def offer(self, site, addresses): pass
    def commands(self, site): return [[script]]

async def main():
    started = {
        "server": lambda: process.Process("mute", lambda site: Recipe(command=(script,), url="http://127.0.0.1:1", profile="")),
        "picker": lambda: launching.Process(Picker())([]),
        "envoy": lambda: envoy.Envoy(Path(script), "127.0.0.1:1", [], None),
    }[sys.argv[1]]()
    async with started:
        pass

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="no other kernel tells a process that its parent has died")
@pytest.mark.parametrize("kind", ["server", "picker", "envoy"])
def test_what_was_started_ends_when_the_examiner_is_killed(tmp_path, kind):
    said, script = tmp_path / "pid", tmp_path / "mute"
    os.mkfifo(said)
    script.write_text(f"#!/bin/sh\necho $$ >{said}\nexec sleep 300\n")
    script.chmod(0o755)
    ear = os.open(said, os.O_RDONLY | os.O_NONBLOCK)
    command = [sys.executable, "-c", EXAMINER, kind, str(script)]
    with subprocess.Popen(command, env=os.environ | {"TMPDIR": str(tmp_path)}) as examiner:
        assert select.select([ear], [], [], 30)[0]
        started = os.pidfd_open(int(os.read(ear, 20)))
        examiner.kill()
    try:
        assert select.select([started], [], [], 30)[0]
    finally:
        os.close(ear)
        os.close(started)
