"""The command line: what it prints, what it writes, and how it exits."""

import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import pytest
import yaml
from click.testing import CliRunner

from shunter.conformance import sections
from shunter.conformance.cli import main
from shunter.conformance.core.case import Level, find
from shunter.conformance.core.profile import GIE
from shunter.conformance.errors import UsageError
from shunter.conformance.sections.servers import CASES


def invoke(*words: str):
    return CliRunner().invoke(main, words)


class Handler(BaseHTTPRequestHandler):
    """Answers everything with a model list, until the server falls silent on its metrics."""

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path == "/metrics" and self.server.asked.count("/metrics") > self.server.pages:
            self.server.end.wait()
        body = b'{"data": [{"id": "m"}]}'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        with suppress(ConnectionError):
            self.wfile.write(body)

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.do_GET()

    def log_message(self, *_):
        pass


@contextmanager
def http_server(pages=1000):
    """A server in a thread, because the command has an event loop of its own; silent after so many metrics pages."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.pages, server.end = [], pages, threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.end.set()
        server.shutdown()
        thread.join()
        server.server_close()


def interrupt(server, pages: int, *words: str) -> tuple[int, str, str]:
    """Run the command, and send it Ctrl-C when it waits for a metrics page that does not come."""
    command = [sys.executable, "-m", "shunter.conformance", "run", *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline_s = time.monotonic() + 30
    while server.asked.count("/metrics") <= pages and time.monotonic() < deadline_s:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    return process.returncode, output, errors


def test_nothing_newly_broken_exits_0_and_reports_are_written(tmp_path):
    files = [tmp_path / name for name in ("r.yaml", "r.xml", "r.ndjson")]
    with http_server() as (_, url):
        words = [url, "--select=ms.reachability", "--level=MUST", "--implementation=project=x"]
        result = invoke("run", *words, *(f"--report={f}" for f in files))
    assert result.exit_code == 0, result.output
    assert result.output.count("\npass   ms.reachability.") == 3
    assert "3 cases: 3 passed" in result.output
    report = yaml.safe_load(files[0].read_text())
    assert report["implementation"] == {"project": "x"}
    assert [each["core"]["result"] for each in report["profiles"]] == ["partial", "success"]
    all_of_it = sum(case.level is Level.MUST and GIE in case.suites for case in CASES)
    assert f"Undecided (gie: 1 of {all_of_it} MUSTs met; not asked: {all_of_it - 1})" in result.output
    assert all(f.stat().st_size for f in files)


def test_a_failed_must_exits_1_and_shows_how_to_see_it():
    with http_server() as (_, url):
        result = invoke("run", url, "--select", "ms.openai.completion-fields")
    assert result.exit_code == 1
    assert "FAIL   ms.openai.completion-fields" in result.output
    for word in ("Expected", "Actual", "Reproduce  curl"):
        assert word in result.output


def test_a_target_that_is_not_there_exits_3_and_still_reports(tmp_path, unused_tcp_port):
    report = tmp_path / "r.yaml"
    result = invoke("run", f"http://127.0.0.1:{unused_tcp_port}", "--report", str(report))
    assert result.exit_code == 3
    assert f"no connection to 127.0.0.1 port {unused_tcp_port}: Connection refused" in result.output
    assert "nobody answered" in result.output
    assert result.output.count("Connection refused") == 1  # in one line, and not in those of all that cannot be asked
    assert len(yaml.safe_load(report.read_text())["cases"]) == len(CASES)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["run", "localhost"], "want http://HOST:PORT"),
        (["run", "http://h ost:1"], "want http://HOST:PORT"),
        (["run", "http://h:1", "--profile", "gie", "--select", "ms.reachability.health"], "leave one of them out"),
        (["run", "http://me:secret@h:1"], "URL of h: it has a user; say who asks with --header"),
        (["run", "http://h:1", "--profile", "vlm"], "did you mean vllm"),
        (["run", "http://h:1", "--select", "ms.metric"], "did you mean ms.metrics"),
        (["run", "http://h:1", "--metric", "queue"], "want ROLE=FAMILY"),
        (["run", "http://h:1", "--metrics-url", "h:1"], "want http://HOST:PORT"),
        (["run", "http://h:1", "--report", "r.pdf"], ".yaml, .xml, .ndjson, .html, .md"),
        (["run", "http://h:1", "--report", "no/such/dir/r.xml"], "there is no directory"),
        (["run", "http://h:1", "--implementation", "a=b"], "KEY one of organization"),
        (["run", "http://h:1", "--metric", "kv=a", "--metric", "kv=b"], "kv is a already"),
        (["run", "http://h:1", "--health-path", "ready"], "begins with /"),
        (["run", "http://h:1", "--timeout", "0"], "0"),
        (["run", "http://h:1", "--timeout", "nan"], "timeout nan s"),
        (["explain", "ms.metrics.kv-idel"], "did you mean ms.metrics.kv-idle"),
        (["list", "ms.nothing"], "no case begins with"),
    ],
)
def test_wrong_usage_exits_2_with_the_remedy(words, problem):
    result = invoke(*words)
    assert result.exit_code == 2
    assert problem in result.output
    assert "Traceback" not in result.output


def test_a_dry_run_asks_nothing():
    with http_server() as (server, url):
        result = invoke("run", url, "--dry-run", "--select", "ms.errors")
        assert server.asked == []
    assert result.exit_code == 0
    assert result.output.splitlines() == [f"{case.level:<6}  {case.id}" for case in CASES if case.id.startswith("ms.errors.")]


def test_a_dry_run_refuses_what_a_run_would():
    assert invoke("run", "http://h:1", "--dry-run", "--profile", "vlm").exit_code == 2
    assert invoke("run", "h:1", "--dry-run").exit_code == 2


def test_list_shows_every_requirement():
    result = invoke("list")
    assert result.exit_code == 0
    assert len(result.output.splitlines()) == len(sections.CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_explain_says_all(case):
    result = invoke("explain", case.id)
    assert result.exit_code == 0
    text = " ".join(result.output.split())
    for part in (case.requirement, case.why, case.source, *(bound.why for bound in case.bounds)):
        assert part in text


def test_explain_of_a_section_explains_all_its_cases():
    output = invoke("explain", "ms.freshness").output
    assert output == "\n".join(invoke("explain", case).output for case in ("ms.freshness.lag", "ms.freshness.ramp"))


def test_explain_names_who_is_excused():
    assert "known failure: " in invoke("explain", "ms.errors.unknown-model").output
    assert "not supported: " in invoke("explain", "ms.metrics.kv-idle").output


def test_ctrl_c_ends_the_exam_with_a_report_of_what_was_not_run(tmp_path):
    report = tmp_path / "r.yaml"
    with http_server(pages=1) as (server, url):
        code, output, errors = interrupt(server, 1, url, "--select=ms.reachability", "--level=MUST", "--report", str(report))
    assert (code, errors) == (130, "")
    assert "2 passed, 1 skipped" in output
    cases = {case["id"]: case for case in yaml.safe_load(report.read_text())["cases"]}
    assert cases["ms.reachability.metrics"]["reason"] == "the exam was interrupted"


def test_ctrl_c_before_the_exam_began_says_so_and_leaves_reports(tmp_path):
    report, page = tmp_path / "r.yaml", tmp_path / "r.html"
    with http_server(pages=0) as (server, url):
        code, output, errors = interrupt(server, 0, url, "--report", str(report), "--report", str(page))
    assert (code, errors) == (130, "")
    assert "interrupted before the exam began" in output
    cases = yaml.safe_load(report.read_text())["cases"]
    assert {(case["verdict"], case["reason"]) for case in cases} == {("skipped", "the exam was interrupted")}
    assert len(cases) == len(CASES)
    assert "interrupted before it began" in page.read_text()


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_signal_that_comes_while_the_exam_is_made_ready_leaves_a_report_too(tmp_path, number):
    report = tmp_path / "r.yaml"
    code = (
        "import os, signal; from shunter.conformance.cli import main; from shunter.conformance.shell.servers import exam;"
        "examine = exam.examine;"
        f"exam.examine = lambda *a, **k: os.kill(os.getpid(), signal.{number}) or examine(*a, **k); main()"
    )
    with http_server(pages=0) as (_, url):
        command = [sys.executable, "-c", code, "run", url, "--report", str(report)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (130, "")
    assert {case["verdict"] for case in yaml.safe_load(report.read_text())["cases"]} == {"skipped"}


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM"])
def test_a_signal_that_comes_when_reports_are_to_be_written_lets_them_be(tmp_path, number):
    report = tmp_path / "r.yaml"
    code = (
        "import os, signal; from shunter.conformance.cli import exams, main;"
        "write = exams.Wishes.write;"
        f"exams.Wishes.write = lambda *a: os.kill(os.getpid(), signal.{number}) or write(*a); main()"
    )
    with http_server() as (_, url):
        command = [sys.executable, "-c", code, "run", url, "--select", "ms.reachability.health", "--report", str(report)]
        subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert [case["verdict"] for case in yaml.safe_load(report.read_text())["cases"]] == ["passed"]


def test_a_report_that_cannot_be_written_takes_no_other_along(tmp_path):
    """A full disk, or a directory that has gone meanwhile: here one that has no room for files of that name."""
    long, other = tmp_path / f"{'x' * 300}.yaml", tmp_path / "r.ndjson"
    with http_server() as (_, url):
        result = invoke("run", url, "--select", "ms.reachability.health", f"--report={long}", f"--report={other}")
        assert result.exit_code == 2
        assert f"--report {long}: File name too long" in result.output
        again = invoke("report", str(other), "-o", str(long), "-o", str(tmp_path / "r.xml"))
    assert again.exit_code == 2
    assert (tmp_path / "r.xml").stat().st_size


def test_a_report_that_may_not_be_written_is_refused_before_the_exam(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    with http_server() as (server, url):
        result = invoke("run", url, "--report", str(tmp_path / "r.yaml"))
        assert server.asked == []
    assert result.exit_code == 2
    assert "it may not be written" in result.output


@pytest.mark.parametrize("code", [2, 1])
def test_what_ends_an_exam_midway_leaves_a_report(tmp_path, monkeypatch, code):
    """A wish that turns out to be impossible, and a fault of the exam itself."""
    good, bad = (find(CASES, f"ms.reachability.{name}") for name in ("health", "models"))

    async def fall(_):
        raise UsageError("no such thing") if code == 2 else KeyError("oh")

    monkeypatch.setattr("shunter.conformance.sections.servers.CASES", (good, msgspec.structs.replace(bad, run=fall)))
    report = tmp_path / "r.yaml"
    with http_server() as (_, url):
        assert invoke("run", url, "--report", str(report)).exit_code == code
    first, second = yaml.safe_load(report.read_text())["cases"]
    assert (first["verdict"], second["verdict"]) == ("passed", "skipped")
    assert second["reason"].startswith("the exam broke off: ")


def test_importing_the_command_line_loads_nothing_heavy():
    code = (
        "import sys, shunter.conformance.cli; print([m for m in ('aiohttp', 'prometheus_client', 'yaml') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
