"""`run --launch`: a server is started, examined and ended, however the exam ends."""

import os
import signal
import socket
import subprocess
import sys

import pytest
import yaml
from click.testing import CliRunner

from shunter.conformance.cli import main

QUICK = ("--select", "ms.reachability.health", "--select", "ms.reachability.models")


# How a script starts what is to run in the background.
DEAF_TO_CTRL_C = ("sh", "-c", 'trap "" INT; exec "$@"', "sh")


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "shunter.conformance", "run", "--launch", *words]


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def port_of(first_line: str) -> int:
    assert first_line.startswith("Target   http://127.0.0.1:"), first_line
    return int(first_line.partition(",")[0].rpartition(":")[2])


def test_a_server_is_started_examined_and_gone(tmp_path):
    report = tmp_path / "report.yaml"
    home = tmp_path / "home"
    home.mkdir()
    ran = subprocess.run(
        command("lab", *QUICK, "--report", str(report), "--", "--model", "of-ours"),
        env=os.environ | {"TMPDIR": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "model of-ours" in ran.stdout
    assert yaml.safe_load(report.read_text())["implementation"]["version"]
    assert not answers(port_of(ran.stdout.splitlines()[0]))
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(("before", "number"), [((), signal.SIGINT), (DEAF_TO_CTRL_C, signal.SIGTERM)])
def test_a_signal_leaves_a_report_and_nothing_else(tmp_path, before, number):
    report, home = tmp_path / "report.yaml", tmp_path / "home"
    home.mkdir()
    exam = subprocess.Popen(
        [*before, *command("lab", "--select", "ms.load", "--report", str(report))],
        env=os.environ | {"TMPDIR": str(home), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with exam:
        port = port_of(exam.stdout.readline())
        assert answers(port)
        exam.send_signal(number)
        output, errors = exam.communicate(timeout=60)
    assert (exam.returncode, errors) == (130, "")
    assert "interrupted" in output
    assert {case["verdict"] for case in yaml.safe_load(report.read_text())["cases"]} <= {"skipped", "passed"}
    assert not answers(port)
    assert list(home.iterdir()) == []


def test_what_does_not_come_up_exits_3_with_its_last_words_and_a_report(tmp_path):
    report, home = tmp_path / "report.yaml", tmp_path / "home"
    home.mkdir()
    ran = subprocess.run(
        command("lab", *QUICK, "--report", str(report), "--", "--max-num-seqs", "none"),
        env=os.environ | {"TMPDIR": str(home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 3
    assert ran.stdout.splitlines()[:2] == ["Target   none: it did not come up", ""]
    assert "'none' is not a valid int" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert {case["verdict"] for case in yaml.safe_load(report.read_text())["cases"]} == {"error"}
    assert [path.suffix for path in home.iterdir()] == [".log"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ([], "want one URL"),
        (["http://h:1", "http://h:2"], "one URL is examined at a time"),
        (["--launch", "lab", "http://h:1"], "has no URL yet"),
        (["http://h:1", "--python", "p"], "--launch"),
        (["http://h:1", "--lora", "a"], "want NAME=PATH"),
        (["http://h:1", "--kv-events", "h:1"], "want tcp://HOST:PORT"),
        (["http://h:1", "--kv-replay", "tcp://h"], "as a client sees it"),
        (["--launch", "vllm", "--kv-events", "udp://h:1"], "as a client sees it"),
        (["--launch", "vllm", "--prefill-url", "h:1"], "want http://HOST:PORT"),
        (["--launch", "ollama"], "'vllm', 'sglang', 'triton', 'llamacpp', 'lab'"),
    ],
)
def test_wrong_usage_is_told_before_anything_starts(words, problem):
    result = CliRunner().invoke(main, ["run", *words])
    assert result.exit_code == 2
    assert problem in result.output


def test_a_dry_run_starts_nothing(tmp_path):
    result = CliRunner().invoke(main, ["run", "--launch", "vllm", "--bin", "/no/such", "--dry-run", *QUICK])
    assert result.output.splitlines() == ["MUST    ms.reachability.health", "MUST    ms.reachability.models"]


def test_what_is_given_leaves_the_rest_as_the_launcher_knows_it():
    """A prefiller from elsewhere, and adapters of the launched server's own."""
    words = command("lab", "--prefill-url", "http://127.0.0.1:9", "--select", "ms.pd.handed-over", "--select", "ms.lora.listed")
    ran = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert "FAIL   ms.pd.handed-over" in ran.stdout, ran.stdout + ran.stderr
    assert "pass   ms.lora.listed" in ran.stdout


@pytest.mark.llamacpp
def test_a_real_engine_is_started_with_a_model_of_ours(tmp_path):
    pytest.importorskip("xllamacpp", reason="pip install xllamacpp")
    ran = subprocess.run(
        command("llamacpp", *QUICK, "--select", "ms.openai.stream-framing"),
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "3 passed" in ran.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_lab_server_is_taken_for_what_it_speaks_like(tmp_path):
    ran = subprocess.run(
        command("lab", *QUICK, "--select", "ms.reachability.metrics", "--", "--dialect=jetstream"),
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Profile  jetstream" in ran.stdout
    assert "2 passed, 1 not-supported" in ran.stdout
