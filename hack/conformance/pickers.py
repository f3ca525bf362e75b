"""Examine endpoint pickers: Shunter's on both transports, and the Go ones if their binaries are here; into reports and a page.

    make conformance-pickers [ARGS="--only shunter"]

`EPP_BIN` is llm-d-router's picker (v0.10.0: `CGO_ENABLED=0 go build ./cmd/epp`); `GIE_EPP_BIN` is the one of
gateway-api-inference-extension (v1.5.0, built alike), which needs a Kubernetes API: etcd and kube-apiserver in the tools
directory. What was not run is said.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import trustme
import yaml

from shunter.conformance.core.verdict import Verdict
from shunter.conformance.testing.pickers.faults import FAULTS
from shunter.envoyconf.shell import envoy

__all__ = ["main", "page"]

ROOT = Path(__file__).resolve().parents[2]
REPORTS = ROOT / "packages" / "conformance" / "reports" / "pickers"
PAGE = ROOT / "docs" / "conformance" / "pickers.md"
MARKED = re.compile(r"(?<=<!-- (reports|defects): make conformance-pickers -->\n).*?(?=<!-- end -->)", re.DOTALL)

GIE = "https://github.com/kubernetes-sigs/gateway-api-inference-extension"
ROUTER = "https://github.com/llm-d/llm-d-router"

MET = {Verdict.PASSED, Verdict.UNEXPECTED_PASS}
NOT_MET = {Verdict.FAILED, Verdict.KNOWN_FAILURE}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["shunter", "llm-d-router", "gie-epp", "nobody"], help="nobody: only the page anew")
    wanted = parser.parse_args().only
    front = ["--envoy", str(envoy.ensure())]
    missed = []
    for transport in ("native", "grpcio"):
        if wanted in {None, "shunter"}:
            with tempfile.TemporaryDirectory() as home:
                run = ["-m", "shunter.conformance", "picker", "--launch", "shunter", "--tls", *front]
                arguments = ["--", "--transport", transport, *certificate(Path(home))]
                missed += examine("shunter", f"0.1.0-{transport}", run, ["organization=shunter"], *arguments)
    if wanted in {None, "llm-d-router"}:
        if binary := os.environ.get("EPP_BIN"):
            run = ["-m", "shunter.conformance", "picker", "--launch", "epp", "--bin", binary, *front]
            missed += examine("llm-d-router", "v0.10.0", run, ["organization=llm-d", f"url={ROUTER}"])
        else:
            missed.append("llm-d-router was not run: EPP_BIN is not set")
    if wanted in {None, "gie-epp"}:
        if os.environ.get("GIE_EPP_BIN"):
            run = ["-m", "hack.conformance.go_picker", *front]
            missed += examine("gie-epp", "v1.5.0", run, ["organization=kubernetes-sigs", f"url={GIE}"])
        else:
            missed.append("gie-epp was not run: GIE_EPP_BIN is not set")
    PAGE.write_text(page(PAGE.read_text()))
    print("\n".join(["", *missed]))
    return any("exit code" in each for each in missed)


def certificate(home):
    """Options with a certificate that nobody knows, as pickers make themselves."""
    issued = trustme.CA().issue_cert("picker.test")
    issued.private_key_pem.write_to_path(home / "key")
    issued.cert_chain_pems[0].write_to_path(home / "cert")
    return ["--tls-cert-file", str(home / "cert"), "--tls-key-file", str(home / "key")]


def examine(name, version, run, about, *arguments):
    """Hold an exam and keep its report; yield what went wrong."""
    home = REPORTS / name
    home.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, *run, "--report", str(home / f"{version}-report.yaml")]
    command += [word for each in (f"project={name}", f"version={version}", *about) for word in ("--implementation", each)]
    print(f"\n{name} {version}", flush=True)
    code = subprocess.run([*command, *arguments], check=False, cwd=ROOT).returncode
    if code:
        yield f"{name} {version}: exit code {code}"


def page(text):
    """The page with its generated parts as they are to be."""
    return MARKED.sub(lambda found: table() if found[1] == "reports" else defects(), text)


def defects():
    """What is wrong with the pickers that each fail one case."""
    rows = "".join(f"| `{fault.case}` | `{fault.name}` | {fault.breaks} |\n" for fault in FAULTS.values())
    return f"\n| case | broken picker | what is broken |\n|---|---|---|\n{rows}\n"


def table():
    """The committed reports: in each cell requirements met, of those that were judged, and below what is not met."""
    read = {file: yaml.safe_load(file.read_text()) for file in sorted(REPORTS.glob("*/*-report.yaml"))}
    sections = list(dict.fromkeys(section(case) for report in read.values() for case in report["cases"]))
    text = f"| picker | {' | '.join(sections)} |\n|{'---|' * (len(sections) + 1)}\n"
    for file, report in read.items():
        about = report["implementation"]
        cells = [cell([case for case in report["cases"] if section(case) == each]) for each in sections]
        text += f"| [{about['project']} {about['version']}](../../{file.relative_to(ROOT)}) | {' | '.join(cells)} |\n"
    for report in read.values():
        about = report["implementation"]
        for case in report["cases"]:
            if case["verdict"] in NOT_MET:
                why = case.get("reason") or case["actual"]
                text += f"\n* {about['project']} {about['version']}, `{case['id']}` ({case['level']}): {why}"
    return f"\n{text}\n\n"


def section(case):
    return case["id"].split(".")[1]


def cell(cases):
    verdicts = Counter(case["verdict"] for case in cases)
    met, unmet = (sum(verdicts[verdict] for verdict in group) for group in (MET, NOT_MET))
    return f"{met} of {met + unmet}" if met + unmet else ""


if __name__ == "__main__":
    sys.exit(main())
