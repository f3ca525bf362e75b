"""``python -m hack.conformance.gateways``: examine gateways that envoyconf configured, and keep the reports.

Each Envoy in each profile, and the real Envoy Gateway: told what `shunter conformance gateway --explain-setup` says, by way of
`shunter envoyconf generate`. Reports go to packages/conformance/reports/gateways, the table into
docs/conformance/gateways.md. What was not run is said.
"""

import argparse
import contextlib
import json
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import yaml
from hack.conformance import gateways_page

from shunter.conformance.shell.ports import free_ports
from shunter.envoyconf.shell import envoy
from shunter.envoyconf.testing_gateway import find_envoy_gateway, own_network, running_gateway

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "conformance" / "gateways"
REPORTS = ROOT / "packages" / "conformance" / "reports" / "gateways"

PROFILES = ("lean", "usage", "strict", "headers", "full")
GATEWAY_PORT = 10080
# What docs/gateway/envoy-gateway.md is about; a binary that `go install` made does not know its own.
GATEWAY_VERSION = "1.9.1"
START_S = 30
POLL_S = 0.05


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", action="append", choices=PROFILES, help="only this one; repeat for more")
    parser.add_argument("--envoy-version", action="append", choices=[*envoy.WHEELS], help="only this one; repeat for more")
    parser.add_argument("--quick", action="store_true", help="only the newest Envoy, in lean and full")
    wanted = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    versions = wanted.envoy_version or ([envoy.VERSION] if wanted.quick else sorted(envoy.WHEELS))
    profiles = wanted.profile or (("lean", "full") if wanted.quick else PROFILES)
    missed = []
    for version in versions:
        for profile in profiles:
            missed += examine_envoy(profile, version)
    if not (wanted.quick or wanted.envoy_version):
        for profile in ("lean", "full"):
            missed += examine_envoy_gateway(profile)
    gateways_page.main()
    print("\n".join(["", *missed]))
    return any("exit code" in each for each in missed)


def examine_envoy(profile, version):
    """Yield what went wrong with an Envoy in a profile, or why it was not run."""
    name = f"envoy-{profile}"
    binary = envoy.ensure(version)
    port = free_ports(1)[0]
    exam = ["gateway", f"http://127.0.0.1:{port}", "--profile", f"shunter-{profile}", *addresses()]
    intent = shunter("conformance", *exam, "--explain-setup")
    try:
        bootstrap = shunter("envoyconf", "generate", "--envoy-version", version, given=intent)
    except subprocess.CalledProcessError as error:
        yield f"{name} {version}: {error.stderr.strip().removeprefix('Error: ')}"
        return
    file = BUILD / f"{name}-{version}.yaml"
    file.write_text(bootstrap)
    command = [binary, "-c", file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    with subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL) as process:
        try:
            await_listening(port, process)
            about = {"organization": "envoyproxy", "project": f"Envoy, as `envoyconf` makes it in the profile {profile}"}
            yield from examine(name, version, exam, about)
        finally:
            process.terminate()


def examine_envoy_gateway(profile):
    """Yield what went wrong with Envoy Gateway in a profile, or why it was not run."""
    name, controller = f"envoy-gateway-{profile}", find_envoy_gateway()
    if controller is None:
        yield f"{name}: no Envoy Gateway; put envoy-gateway 1.9 into $SHUNTER_TOOLS_DIR/bin, or on PATH"
        return
    exam = ["gateway", f"http://127.0.0.1:{GATEWAY_PORT}", "--profile", name]
    intent = shunter("conformance", *exam, "--explain-setup")
    documents = yaml.safe_load_all(shunter("envoyconf", "generate", "--target", "envoy-gateway", given=intent))
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(own_network())
        except PermissionError:
            yield f"{name}: Envoy Gateway has fixed ports, and only root can give it a network of its own"
            return
        stack.enter_context(running_gateway(list(documents), controller, envoy.ensure()))
        about = {
            "organization": "envoyproxy",
            "project": f"Envoy Gateway, with the manifests of `envoyconf` in the profile {profile}",
        }
        yield from examine(name, GATEWAY_VERSION, exam, about)


def examine(name, version, exam, about):
    """Hold an exam and keep its report; yield what went wrong."""
    files = [BUILD / f"{name}-{version}{suffix}" for suffix in (".report.yaml", ".html", ".ndjson")]
    command = [sys.executable, "-m", "shunter.conformance", *exam]
    command += [word for file in files for word in ("--report", str(file))]
    command += [word for key, value in {**about, "version": version}.items() for word in ("--implementation", f"{key}={value}")]
    print(f"\n{name} {version}", flush=True)
    code = subprocess.run(command, check=False).returncode
    if code in {0, 1}:
        home = REPORTS / name
        home.mkdir(parents=True, exist_ok=True)
        shutil.copy(files[0], home / f"{version}-report.yaml")
    if code:
        yield f"{name} {version}: exit code {code}"


def addresses():
    """Options with addresses that are free now."""
    at = [f"127.0.0.1:{port}" for port in free_ports(7)]
    servers = {"open": at[2:5], "close": at[5:]}
    return [
        word
        for pool, picker in zip(servers, at, strict=False)
        for word in (f"--{pool}-picker", picker, f"--{pool}-servers", ",".join(servers[pool]))
    ]


def shunter(package, *arguments, given=None):
    """Run a command, and return what it prints."""
    command = [sys.executable, "-m", f"shunter.{package}", *arguments]
    return subprocess.run(command, input=given, check=True, capture_output=True, text=True).stdout


def await_listening(port, process):
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(POLL_S)
    raise SystemExit(f"Envoy does not listen (exit code {process.returncode}): {json.dumps(process.args)}")


if __name__ == "__main__":
    sys.exit(main())
