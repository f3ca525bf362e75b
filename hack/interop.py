"""The picker's transports with peers of other people's making: Envoy in several versions, and grpc-go.

Envoys are fetched once (``shunter envoyconf fetch-envoy``); each is then the Envoy of the tests that play every body mode, TLS
and the ageing of connections. grpc-go is a small program in ``hack/interop``, built where ``go`` is. What is not there is
skipped with a line that says so.
"""

import argparse
import asyncio
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import trustme

from shunter.envoyconf.errors import EnvoyMissingError
from shunter.envoyconf.shell import envoy
from shunter.picker.core.limits import Budget, Limits
from shunter.picker.core.session import Session
from shunter.picker.testing import StubJudge
from shunter.picker.transport import native
from shunter.picker.transport.grpcio import GrpcServer
from shunter.picker.transport.health import Health
from shunter.picker.transport.native import NativeServer
from shunter.picker.transport.tls import Tls

ROOT = Path(__file__).resolve().parents[1]
CLIENT = ROOT / "hack" / "interop"

NAME = "picker.example"
AGE_S = 0.5


def ask_with_envoy(version: str) -> str:
    """Run the tests with this Envoy; return the verdict."""
    try:
        binary = envoy.find(version) or envoy.fetch(version)
    except EnvoyMissingError as error:
        return f"skipped: {str(error).splitlines()[0]}"
    number = tuple(map(int, version.split(".")))
    # selected_host_key, which the profile full and the bootstrap of the body modes stand on, came with 1.38.
    tests = ["e2e/test_picker_wire.py", *(["packages/picker/tests/test_envoy.py"] if number >= (1, 38) else ["-k", "not FULL"])]
    command = [sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"ENVOY_PATH": str(binary)}, capture_output=True, text=True, check=False
    )
    summary = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else done.stderr[-500:]
    if done.returncode:
        print(done.stdout[-6000:])
    return ("ok: " if not done.returncode else "FAILED: ") + summary


def build_client(directory: Path) -> Path | str:
    """Build the client of grpc-go; return it, or why there is none."""
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if go is None:
        return "skipped: go is not on PATH"
    program = directory / "client"
    done = subprocess.run([go, "build", "-o", program, "."], cwd=CLIENT, capture_output=True, text=True, check=False)
    return program if done.returncode == 0 else f"skipped: go build: {done.stderr.strip()[-300:]}"


async def ask_with_grpc_go(client: Path, transport: type, files: Path | None) -> str:
    """Run the client against a server that lets connections grow old; return the verdict."""
    limits, judge, health = Limits(), StubJudge(), Health()
    budget = Budget(limits.buffered_bytes)
    tls = files and Tls(files / "tls.crt", files / "tls.key", files / "ca.crt")
    server = transport(lambda: Session(judge, limits, budget), health, limits, tls=tls, max_age_s=AGE_S)
    health.set_ready(True)
    port = await server.start("127.0.0.1", 0)
    shown = ["-ca", files / "ca.crt", "-name", NAME, "-cert", files / "tls.crt", "-key", files / "tls.key"] if files else []
    process = await asyncio.create_subprocess_exec(
        client, "-address", f"127.0.0.1:{port}", *shown, stdout=asyncio.subprocess.PIPE
    )
    said = (await process.communicate())[0].decode().splitlines()
    for _ in range(100):
        if len(judge.released) == len(judge.picked):
            break
        await asyncio.sleep(0.05)
    await server.stop()
    if process.returncode:
        return said[-1] if said else f"FAILED: exit code {process.returncode}"
    if len(judge.released) != len(judge.picked):
        return f"FAILED {len(judge.picked)} picks, {len(judge.released)} released"
    return f"ok: {len(said)} promises, {len(judge.picked)} picks"


def make_files(directory: Path) -> Path:
    """Certificates with which each side proves who it is."""
    ca = trustme.CA()
    issued = ca.issue_cert(NAME)
    issued.cert_chain_pems[0].write_to_path(directory / "tls.crt")
    issued.private_key_pem.write_to_path(directory / "tls.key")
    ca.cert_pem.write_to_path(directory / "ca.crt")
    return directory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    versions = sorted(envoy.WHEELS, key=lambda version: [int(part) for part in version.split(".")])
    parser.add_argument("--envoy", nargs="*", default=versions, help=f"which of {', '.join(versions)}")
    arguments = parser.parse_args()
    native.SWEEP_S = 0.1
    logging.disable(logging.WARNING)  # of the errors that the client makes
    verdicts = []

    def report(peer: str, verdict: str) -> None:
        verdicts.append(verdict)
        print(f"{peer:<24} {verdict}", flush=True)

    with tempfile.TemporaryDirectory() as name:
        files = make_files(Path(name))
        client = build_client(files)
        for transport in (NativeServer, GrpcServer):
            for way in (None, files):
                verdict = client if isinstance(client, str) else asyncio.run(ask_with_grpc_go(client, transport, way))
                report(f"grpc-go {transport.__name__}{' TLS' if way else ''}", verdict)
    for version in arguments.envoy:
        report(f"Envoy {version}", ask_with_envoy(version))
    sys.exit(any(verdict.startswith("FAILED") for verdict in verdicts))


if __name__ == "__main__":
    main()
