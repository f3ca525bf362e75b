"""Rollouts at work, on real model servers; time is virtual but where it is a process that is killed."""

import asyncio
import signal
import sys
import threading
import time
from contextlib import suppress

import msgspec
import pytest

from shunter.lab.errors import ApiError
from shunter.rollout.core.machine import Phase, Wish
from shunter.rollout.core.spec import read_rollout
from shunter.rollout.errors import ServerError, StateError
from shunter.rollout.shell.running import Runner, SystemClock
from shunter.rollout.shell.servers import Access, open_session
from shunter.rollout.shell.service import take_up
from shunter.rollout.shell.store import FileStore
from shunter.rollout.shell.traffic import RewriteFile

PATIENCE_S = 60


class KilledError(BaseException):
    """What ends a process wherever it is, and is caught by nobody."""


class Mortal:
    """A process that is killed at its so-manieth touch of what outlives it: before or after a record, or a new share."""

    def __init__(self, rollout, directory, life=-1):
        self.store = self.Store(directory, rollout.name)
        self.traffic = self.Traffic(rollout)
        self.store.touch = self.traffic.touch = self.touch
        self._life = life

    def touch(self):
        self._life -= 1
        if not self._life:
            raise KilledError

    class Store(FileStore):
        def save(self, record):
            self.touch()
            super().save(record)
            self.touch()

    class Traffic(RewriteFile):
        async def move(self, share):
            self.touch()
            await super().move(share)
            self.touch()


@pytest.fixture
def rollout(file):
    return read_rollout(str(file), file.read_bytes())


@pytest.fixture
def store(tmp_path, rollout):
    return FileStore(tmp_path / "state", rollout.name)


@pytest.fixture
async def run(rollout, virtual_clock):
    """Begin the rollout or go on with it, as a new process; return what it has come to."""
    async with open_session(Access()) as session:

        async def run(store, traffic=None, say=lambda _state, _trouble: None):
            with store.at_it() as alone:
                assert alone
                _, state = take_up(store, rollout)
                parts = (rollout, session, Access(), traffic or RewriteFile(rollout), store)
                return await Runner(*parts, look_s=0.5, clock=virtual_clock).run(state, say)

        yield run


def adapters(fake_picker):
    return [set(server.models.adapters) for server in fake_picker.servers]


async def test_a_process_is_killed_and_the_next_one_goes_on(fake_picker, file, told, tmp_path):
    command = [sys.executable, "-m", "shunter.rollout", "start", "-f", file, "--state", tmp_path / "state", "--interval", "0.1"]
    process = await asyncio.create_subprocess_exec(*map(str, command), stdout=asyncio.subprocess.PIPE)
    async for line in process.stdout:
        if b"10 % review-v2" in line:
            process.send_signal(signal.SIGKILL)
    await process.communicate()
    code, output = await told("status")
    assert "nobody is at it; to go on: shunter rollout resume review-v2" in output
    code, output = await told("resume", "review-v2", "--interval", "0.1")
    assert code == 0, output
    assert output.splitlines()[-1].endswith("  done")
    assert adapters(fake_picker) == [{"review-v2"}] * 2
    (rule,) = msgspec.yaml.decode(fake_picker.path.read_bytes())["spec"]["rules"]
    assert rule["targets"] == [{"modelRewrite": "review-v2", "weight": 100}]
    code, output = await told("status")
    assert output.startswith("review-v2: done: review-v2 has all traffic")


async def test_a_process_that_is_told_to_end_leaves_everything_as_it_is_and_says_how_to_go_on(
    fake_picker, file, store, eventually
):
    """By SIGTERM, even where Ctrl-C is nobody's business, as in the background of a script."""
    store.want(Wish.PAUSE)
    command = ["sh", "-c", 'trap "" INT; exec "$0" "$@"', sys.executable, "-m", "shunter.rollout"]
    command += ["start", "-f", file, "--state", file.parent / "state"]
    process = await asyncio.create_subprocess_exec(*map(str, command), stderr=asyncio.subprocess.PIPE)
    await eventually(store.load)
    assert store.held()
    process.terminate()
    try:
        async with asyncio.timeout(PATIENCE_S):
            _, errors = await process.communicate()
    finally:
        with suppress(ProcessLookupError):
            process.kill()
    assert process.returncode == 130
    assert errors.decode() == "review-v2 stays as it is; to go on: shunter rollout resume review-v2\n"
    assert not store.held()
    assert store.load().state.phase is Phase.LOADING


@pytest.mark.parametrize("life", [4, 5, 6, 7], ids="killed at touch {}".format)
async def test_whoever_is_killed_at_every_step_comes_to_the_end_all_the_same(
    fake_picker, rollout, run, store, tmp_path, virtual_clock, life
):
    """A process that goes on touches the record twice before it gets any further; each of them gets a little further."""
    deaths = 0
    while deaths < 40 and not ((record := store.load()) and record.state.over):
        process = Mortal(rollout, tmp_path / "state", life)
        with suppress(KilledError):
            await run(process.store, process.traffic)
            break
        deaths += 1
        await virtual_clock.sleep(1)
    state = store.load().state
    words = [event.words for event in state.events]
    assert (state.phase, words[0], words[-1]) == (Phase.DONE, "review-v1 → review-v2", "done")
    assert len(set(words)) == len(words), "nothing happens twice"
    assert [each for each in words if each.endswith("% review-v2")] == ["10 % review-v2", "100 % review-v2"]
    assert adapters(fake_picker) == [{"review-v2"}] * 2
    assert deaths >= 3, "it was killed at all"


async def test_errors_of_the_new_version_bring_everybody_back(fake_picker, run, store):
    class Failing(dict):
        def __getitem__(self, model):
            return fake_picker.requests[model] // 2 if model == "review-v2" else 0

    fake_picker.errors = Failing(fake_picker.errors)
    state = await run(store)
    assert state.backwards
    assert "review-v2 is worse at 10 %" in state.failure
    assert adapters(fake_picker) == [{"review-v1"}] * 2


async def test_it_waits_while_it_is_paused_and_goes_back_when_it_is_told_to(fake_picker, run, store):
    store.want(Wish.PAUSE)
    waited = []

    def say(state, _trouble):
        if "resume" in state.waiting:
            waited.append(state.phase)
            if len(waited) == 10:
                store.want(Wish.ROLLBACK)

    state = await run(store, say=say)
    assert waited == [Phase.LOADING] * 10
    assert (state.phase, state.backwards, state.failure) == (Phase.DONE, True, "somebody asked for it")
    assert adapters(fake_picker) == [{"review-v1"}] * 2
    assert store.wish() is Wish.RUN


async def test_a_dry_run_says_what_it_would_do_and_does_nothing(fake_picker, file, told, tmp_path):
    code, output = await told("start", "-f", file, "--dry-run")
    assert code == 0, output
    assert output.splitlines()[0] == "load review-v2 from /a/v2 wherever it is missing"
    assert "now: for review-v2: not yet at 127.0.0.1:" in output
    assert adapters(fake_picker) == [{"review-v1"}] * 2
    assert not fake_picker.path.exists()
    assert not (tmp_path / "state").exists()


async def test_an_adapter_that_cannot_be_loaded_is_told_with_the_servers_words(fake_picker, run, store):
    def refuse(name, path):
        raise ApiError(404, f"No adapter found for {path}")

    def say(_state, trouble):
        if trouble:
            raise KilledError(trouble)

    fake_picker.servers[0].models.load = refuse
    with pytest.raises(KilledError, match="/v1/load_lora_adapter: HTTP 404: No adapter found for /a/v2"):
        await run(store, say=say)
    assert not fake_picker.path.exists(), "no share is given meanwhile"


@pytest.mark.parametrize(
    "found",
    [
        "endpoints: []",
        "kind: InferenceModelRewrite",
        """{kind: InferenceModelRewrite, spec: {poolRef: {name: engines}, rules: [
            {matches: [{model: {value: review}}], targets: [{modelRewrite: review-v1, weight: 1}]},
            {matches: [{model: {value: another}}], targets: [{modelRewrite: another-v1, weight: 1}]}]}}""",
        """{kind: InferenceModelRewrite, spec: {poolRef: {name: engines}, rules: [
            {targets: [{modelRewrite: for-all, weight: 1}]}]}}""",
        """{kind: InferenceModelRewrite, spec: {poolRef: {name: engines}, rules: [
            {matches: [], targets: [{modelRewrite: for-all, weight: 1}]}]}}""",
        """{kind: InferenceModelRewrite, spec: {poolRef: {name: others}, rules: [
            {matches: [{model: {value: review}}], targets: [{modelRewrite: review-v1, weight: 1}]}]}}""",
    ],
    ids=["another kind", "no rules", "a rule of another model", "a rule of all models", "no matches", "another pool"],
)
async def test_a_file_with_something_else_in_it_is_not_overwritten(fake_picker, file, told, found):
    fake_picker.path.write_text(found)
    code, output = await told("start", "-f", file)
    assert code == 2
    assert "not only a rewrite of review in this pool: give that a file of its own" in output
    assert fake_picker.path.read_text() == found


async def test_while_a_store_is_silent_everything_else_goes_on(fake_picker, rollout, run, tmp_path):
    """As a ConfigMap's API server that takes a connection and says nothing."""
    asked, answer = threading.Event(), threading.Event()

    class Silent(FileStore):
        def save(self, record):
            asked.set()
            assert answer.wait(PATIENCE_S)
            super().save(record)

    async def release():
        assert await asyncio.to_thread(asked.wait, PATIENCE_S)
        answer.set()

    state, _ = await asyncio.gather(run(Silent(tmp_path, rollout.name)), release())
    assert state.phase is Phase.DONE


async def test_who_loads_for_long_is_heard_of_meanwhile_and_stops_once_another_goes_on(
    fake_picker, rollout, run, tmp_path, monkeypatch
):
    """A ConfigMap's holder who is silent for long is taken for dead."""
    monkeypatch.setattr("shunter.rollout.shell.running.TOUCH_S", 0.01)

    class Watched(FileStore):
        moving = False
        touches = 0

        def wish(self):
            self.touches += self.moving
            if self.touches == 4:
                raise StateError("another process has gone on with review-v2")
            if self.touches == 2:
                raise ServerError("Kubernetes: a moment")
            return super().wish()

    class Slow(RewriteFile):
        async def move(self, share):
            store.moving = True
            await asyncio.Event().wait()

    store = Watched(tmp_path, rollout.name)
    with pytest.raises(StateError, match="another process has gone on"):
        await run(store, Slow(rollout))
    assert store.touches == 4


async def test_a_share_that_cannot_be_written_now_is_written_later(fake_picker, run, store):
    """As on a disk that is full."""
    in_the_way = fake_picker.path.with_name(".review.yaml.part")
    in_the_way.mkdir()
    troubles = []

    def say(_state, trouble):
        troubles.append(trouble)
        if trouble:
            in_the_way.rmdir()

    state = await run(store, say=say)
    assert state.phase is Phase.DONE
    assert [each for each in troubles if each] == [f"{fake_picker.path}: cannot be written: Is a directory"]


async def test_a_model_that_a_path_names_is_not_rolled_out_by_its_name(fake_picker, file, told, tmp_path):
    fake_picker.engine = "triton-tensorrt-llm"
    for more in ([], ["--dry-run"]):
        code, output = await told("start", "-f", file, *more)
        assert code == 2
        assert f"$.traffic: 127.0.0.1:{min(each.port for each in fake_picker.servers)} is a Triton" in output
        assert "move traffic between them by httpRoute" in output
    assert not FileStore(tmp_path / "state", "review-v2").load(), "the mended file can be started"


def test_the_clock_of_a_process_goes_on_whoever_sets_the_machines(monkeypatch):
    clock = SystemClock()
    before_s = clock.now_s()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert clock.now_s() >= before_s > 1_000_000_000


async def test_a_store_that_does_not_answer_is_asked_again(fake_picker, rollout, run, tmp_path):
    """As a ConfigMap's API server that is started anew: nothing is decided meanwhile, and then it goes on."""
    troubles = []

    class Away(FileStore):
        saves = 0

        def save(self, record):
            self.saves += 1
            if self.saves in (2, 3, 5):
                raise ServerError("Kubernetes: connection refused")
            super().save(record)

    state = await run(Away(tmp_path, rollout.name), say=lambda _, trouble: troubles.append(trouble))
    assert state.phase is Phase.DONE
    assert troubles.count("Kubernetes: connection refused") == 3
    assert adapters(fake_picker) == [{"review-v2"}] * 2
