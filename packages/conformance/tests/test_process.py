"""A server that is started as a process: it comes up, obeys, and nothing of it is left."""

import sys
from pathlib import Path

import msgspec
import pytest

from shunter.conformance.core.events import CaseFinished, Started
from shunter.conformance.core.verdict import Verdict
from shunter.conformance.errors import LaunchError, Skip, UsageError
from shunter.conformance.sections.servers import CASES
from shunter.conformance.shell.launching.exam import examine_launched
from shunter.conformance.shell.launching.process import Process
from shunter.conformance.shell.launching.recipe import HOST, Recipe, Site
from shunter.conformance.shell.launching.sessions import members

# It answers everything with 200, and has a child in a process group of its own that does not listen to SIGTERM.
SERVER = """
import http.server, os, signal, subprocess, sys
child = subprocess.Popen(
    [sys.executable, "-c", "import mmap, signal; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); signal.pause()",
     "the-engine"],
    process_group=0, stdout=subprocess.PIPE)
child.stdout.readline()
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"version": "1.2.3"}'
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
print("it says hello", flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Whoever does not end by himself is killed soon."""
    monkeypatch.setattr("shunter.conformance.shell.launching.process.END_WITHIN_S", 0.2)


def serve(site):
    port = site.port()
    command = (site.python, "-c", SERVER, str(port), *site.arguments)
    return Recipe(command=command, url=f"http://{HOST}:{port}", profile="generic", engine="the-engine", grace_s=1.5)


def found(path) -> bool:
    """Whether a file is there, and then not any more."""
    there = Path(path).exists()
    Path(path).unlink(missing_ok=True)
    return there


def running(code):
    """A launcher of a command that is no server."""
    return lambda site: Recipe(command=(site.python, "-c", code), url=f"http://{HOST}:{site.port()}", profile="generic")


async def test_it_comes_up_with_its_version_and_says_what_it_says():
    async with Process("toy", serve) as served:
        assert served.version == "1.2.3"
        assert served.profile == "generic"
    process = Process("toy", serve)
    async with process:
        assert process.grace_s == 1.5
        assert process.log() == "it says hello\n"
    assert process.log() == "it says hello\n"


async def test_nothing_of_it_is_left_not_even_a_child_that_does_not_listen():
    process = Process("toy", serve)
    async with process:
        leader, home = process._leader.pid, process._home.name
        assert len(list(members(leader))) == 2
    assert list(members(leader)) == []
    assert not found(home)


async def test_it_obeys():
    process = Process("toy", serve)
    async with process:
        first = process._leader.pid
        await process.terminate()
        assert not await process.ended(0.3)  # the child stays
        await process.kill_engine()
        assert await process.ended(30)
        with pytest.raises(Skip, match="one process"):
            await process.kill_engine()
        await process.restart()
        assert process._leader.pid != first
        assert process._recipe.url in " ".join(f"http://{HOST}:{word}" for word in process._recipe.command)
    assert list(members(first)) == []


@pytest.mark.parametrize(
    ("launch", "told"),
    [
        (running("print('no room'); raise SystemExit(3)"), "ended with exit code 3\n  no room"),
        (running("import signal; signal.pause()"), "not ready within 0.5 s"),
        (lambda site: Recipe(command=("/no/such/engine",), url="http://h", profile=""), "cannot run /no/such/engine"),
    ],
    ids=["ends", "hangs", "is-not-there"],
)
async def test_what_does_not_come_up_says_why_and_keeps_its_log(launch, told):
    process = Process("toy", launch, ready_within_s=0.5 if "0.5" in told else 30)
    with pytest.raises(LaunchError) as error:
        async with process:
            pass
    assert told in str(error.value)
    _, kept, path = str(error.value).partition("all of it: ")
    assert bool(kept) == ("cannot run" not in told)
    assert not kept or found(path)


async def test_shared_memory_of_who_is_killed_is_removed():
    share = "from multiprocessing.shared_memory import SharedMemory; s = SharedMemory(create=True, size=4096); print(s.name)\n"

    def serve_sharing(site):
        recipe = serve(site)
        python, option, code, *words = recipe.command
        return msgspec.structs.replace(recipe, command=(python, option, share + code, *words))

    process = Process("toy", serve_sharing)
    async with process:
        pass
    name = process.log().splitlines()[0]
    assert name.startswith("psm_")
    assert not found(f"/dev/shm/{name}")


async def test_an_exam_of_what_does_not_come_up_says_so_for_each_case():
    exam = examine_launched(Process("toy", running("raise SystemExit(3)")), cases=CASES[:2])
    events = []
    with pytest.raises(LaunchError, match="all of it: ") as error:
        async for event in exam:
            events.append(event)  # noqa: PERF401 – the error must not lose those before it
    assert found(str(error.value).partition("all of it: ")[2])
    assert isinstance(events[0], Started)
    findings = [event for event in events if isinstance(event, CaseFinished)]
    assert [finding.id for finding in findings] == [case.id for case in CASES[:2]]
    assert {finding.verdict for finding in findings} == {Verdict.ERROR}
    assert "exit code 3" in findings[0].reason


async def test_what_is_wrong_is_found_before_anything_is_started():
    with pytest.raises(UsageError, match="did you mean vllm"):
        examine_launched(Process("toy", serve), profile="vlm")


async def test_what_it_was_is_in_the_first_event():
    events = [event async for event in examine_launched(Process("toy", serve), cases=CASES[:1])]
    assert (events[0].version, events[0].profile) == ("1.2.3", "generic")


def test_the_interpreter_of_the_examiner_is_his_choice(tmp_path):
    assert Site(tmp_path).command("no-such-program", "some.module") == (sys.executable, "-m", "some.module")
    assert Site(tmp_path, python="/p").command("sh", "some.module") == ("/p", "-m", "some.module")
    assert Site(tmp_path, program="/b").command("sh", "some.module") == ("/b",)
    assert Site(tmp_path, python="env/bin/python").python == str(Path.cwd() / "env/bin/python"), "named from here"
    assert Site(tmp_path, program="python3").found("sh") == "python3"
    with pytest.raises(LaunchError, match=r"no no-such-distribution for .*pip install"):
        Site(tmp_path).installed("no-such-distribution")
