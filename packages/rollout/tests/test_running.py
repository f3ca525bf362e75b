"""Rollouts as processes, on real model servers."""

import asyncio
import signal
import sys

import msgspec
import pytest

from shunter.lab.errors import ApiError
from shunter.rollout.core.machine import Phase, Wish
from shunter.rollout.core.spec import read_rollout
from shunter.rollout.errors import ServerError
from shunter.rollout.shell.running import Runner
from shunter.rollout.shell.servers import Access, open_session
from shunter.rollout.shell.store import FileStore
from shunter.rollout.shell.traffic import RewriteFile


@pytest.fixture
def file(fake_picker, tmp_path):
    """A rollout's file that needs no patience."""
    path = tmp_path / "rollout.yaml"
    path.write_text(f"""
kind: Rollout
name: review-v2
model: review
from: {{model: review-v1, source: /a/v1}}
to: {{model: review-v2, source: /a/v2}}
pool: engines
traffic: {{rewriteFile: {fake_picker.path}}}
pickers: ["{fake_picker.url}"]
steps: [10, 100]
pause: 0s
""")
    return path


@pytest.fixture
async def rollout(tmp_path):
    """Start ``shunter rollout`` with some arguments."""
    started = []

    async def rollout(verb, *arguments):
        arguments = [verb, *map(str, arguments), "--state", str(tmp_path / "state")]
        if verb not in ("status", "pause"):
            arguments += ["--interval", "0.1"]
        command = [sys.executable, "-m", "shunter.rollout", *arguments]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        started.append(process)
        return process

    yield rollout
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
def ended(rollout):
    """Run it to its end; return the code and what it printed."""

    async def ended(*arguments):
        process = await rollout(*arguments)
        output, _ = await process.communicate()
        return process.returncode, output.decode()

    return ended


def adapters(fake_picker):
    return [set(server.models.adapters) for server in fake_picker.servers]


async def test_a_version_takes_over(fake_picker, file, ended):
    code, output = await ended("start", "-f", file)
    assert code == 0, output
    assert output.splitlines()[-1].endswith("  done")
    assert adapters(fake_picker) == [{"review-v2"}] * 2
    (rule,) = msgspec.yaml.decode(fake_picker.path.read_bytes())["spec"]["rules"]
    assert rule["targets"] == [{"modelRewrite": "review-v2", "weight": 100}]
    code, output = await ended("status")
    assert output.startswith("review-v2: done: review-v2 has all traffic")


async def test_who_is_killed_after_every_step_comes_to_the_end_all_the_same(fake_picker, file, rollout, tmp_path):
    """Each process is killed as soon as it has told one thing; the next one goes on, and nothing is told twice."""
    told, code = [], None
    for _ in range(40):
        process = await rollout("start", "-f", file)
        async for line in process.stdout:
            happened = line.decode()[10:].strip()
            if line[0:1].isdigit() and happened not in told:
                told.append(happened)
                if happened != "done":
                    process.send_signal(signal.SIGKILL)
                break
        await process.communicate()
        if (code := process.returncode) == 0:
            break
    assert code == 0, told
    assert told[0] == "review-v1 → review-v2"
    assert [each for each in told if each.endswith("% review-v2")] == ["10 % review-v2", "100 % review-v2"]
    assert adapters(fake_picker) == [{"review-v2"}] * 2


async def test_errors_of_the_new_version_bring_everybody_back(fake_picker, file, ended):
    fake_picker.errors["review-v2"] = 0

    class Failing(dict):
        def __getitem__(self, model):
            return fake_picker.requests[model] // 2 if model == "review-v2" else 0

    fake_picker.errors = Failing(fake_picker.errors)
    code, output = await ended("start", "-f", file)
    assert code == 1
    assert "rolled back: review-v2 is worse at 10 %" in output
    assert adapters(fake_picker) == [{"review-v1"}] * 2


async def test_a_rollout_waits_while_it_is_paused_and_goes_back_when_it_is_told_to(
    fake_picker, file, rollout, ended, tmp_path, eventually
):
    store = FileStore(tmp_path / "state", "review-v2")
    store.want(Wish.PAUSE)
    running = await rollout("start", "-f", file)
    await eventually(lambda: (record := store.load()) and "resume" in record.state.waiting)
    code, output = await ended("status", "review-v2")
    assert "review-v2: loading" in output
    assert "paused; to go on: shunter rollout resume review-v2" in output
    code, output = await ended("start", "-f", file)
    assert (code, "another process is at review-v2" in output) == (2, True)
    code, output = await ended("rollback", "review-v2")
    assert (code, output) == (0, "review-v2: told whoever is at it: rollback\n")
    output, _ = await running.communicate()
    assert running.returncode == 1
    assert b"rolled back: somebody asked for it" in output
    code, output = await ended("pause", "review-v2")
    assert (code, "is over" in output) == (2, True)


async def test_a_dry_run_says_what_it_would_do_and_does_nothing(fake_picker, file, ended, tmp_path):
    code, output = await ended("start", "-f", file, "--dry-run")
    assert code == 0, output
    assert output.splitlines()[0] == "load review-v2 from /a/v2 wherever it is missing"
    assert "now: for review-v2: not yet at 127.0.0.1:" in output
    assert adapters(fake_picker) == [{"review-v1"}] * 2
    assert not fake_picker.path.exists()
    assert not (tmp_path / "state").exists()


async def test_an_adapter_that_cannot_be_loaded_is_told_with_the_servers_words(fake_picker, file, rollout):
    def refuse(name, path):
        raise ApiError(404, f"No adapter found for {path}")

    fake_picker.servers[0].models.load = refuse
    process = await rollout("start", "-f", file)
    async for line in process.stdout:
        if b"trouble: " in line:
            break
    assert b"/v1/load_lora_adapter: HTTP 404: No adapter found for /a/v2" in line
    assert not fake_picker.path.exists(), "no share is given meanwhile"


async def test_a_file_with_something_else_in_it_is_not_overwritten(fake_picker, file, ended):
    fake_picker.path.write_text("endpoints: []\n")
    code, output = await ended("start", "-f", file)
    assert code == 2
    assert "give the rewrite a file of its own" in output


async def test_a_store_that_does_not_answer_is_asked_again(fake_picker, file, tmp_path):
    """As a ConfigMap's API server that is started anew: nothing is decided meanwhile, and then it goes on."""
    told = []

    class Away(FileStore):
        saves = 0

        def save(self, record):
            self.saves += 1
            if self.saves in (2, 3, 5):
                raise ServerError("Kubernetes: connection refused")
            super().save(record)

    spec = read_rollout(str(file), file.read_bytes())
    async with open_session(Access()) as session:
        store = Away(tmp_path, spec.name)
        runner = Runner(spec, session, Access(), RewriteFile(spec), store, look_s=0.01)
        state = await runner.run(None, lambda _, trouble: told.append(trouble))
    assert state.phase is Phase.DONE
    assert told.count("Kubernetes: connection refused") == 3
    assert adapters(fake_picker) == [{"review-v2"}] * 2
