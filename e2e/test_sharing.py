"""Two pickers of the same engines, a gateway each, that tell each other by a real Redis what they send where; or alone."""

import contextlib
import mmap
import os
import shutil
import time
from functools import partial

import pytest

from shunter.envoyconf.shell.envoy import tools_dir
from shunter.envoyconf.testing_kube import running_process
from shunter.picker.core.journal import Booked, Told, read_event
from shunter.picker.core.withdrawals import WITHDRAWN
from shunter.snapshot import LogReader
from shunter.stack.shell import ports, web
from shunter.stack.testing import running_stack

PATIENCE_S = 60
LOOK_S = 0.05  # between two looks at another process
PASSWORD = "wagon"


class Redis:
    """Debian's server, which keeps nothing over its end."""

    def __init__(self, program, directory, port):
        self._program, self._directory, self._port = program, directory, port
        self._running = contextlib.ExitStack()
        self.title = f"redis://127.0.0.1:{self._port}/0"
        self.url = self.title.replace("//", f"//:{PASSWORD}@")

    def start(self):
        libraries = ":".join(map(str, self._program.parents[2].glob("usr/lib/*-linux-gnu*")))
        command = [
            str(self._program),
            "--port",
            str(self._port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--requirepass",
            PASSWORD,
        ]
        environment = os.environ | {"LD_LIBRARY_PATH": libraries}
        self._running.enter_context(
            running_process(self._directory / "redis.log", command, cwd=self._directory, env=environment)
        )

    def stop(self):
        self._running.close()


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    pytest.importorskip("redis", reason="pip install 'shunter-picker[sharing]'")
    program = tools_dir() / "redis/usr/bin/redis-server"
    found = program if program.exists() else shutil.which("redis-server")
    if not found:
        pytest.skip(f"no redis-server: hack/redis/fetch puts it into {tools_dir()}, or install it")
    with contextlib.ExitStack() as held:  # for it to have when it is back
        port = ports.claim({"redis": 0}, held)["redis"]
        redis = Redis(type(program)(found), tmp_path_factory.mktemp("redis"), port)
        redis.start()
        yield redis
        redis.stop()


@pytest.fixture(scope="module")
def pair(redis):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHUNTER_SHARE_URL", redis.url)
        with running_stack("--engines", "4") as east:
            urls = [f"--backend=http://{engine.authority}" for engine in east.state.plan.engines]
            with running_stack(*reversed(urls)) as west:
                yield east, west


def sharer(stack):
    """What a picker tells of its sharer."""
    page = web.get(f"127.0.0.1:{stack.state.plan.ports.admin}", "/debug/workers").json()
    (found,) = [each for each in page if each["worker"] == "sharer"]
    return found


def heard(stack):
    """How many other replicas a picker hears."""
    return sharer(stack)["streams"]


def sharers_journal(stack):
    """What its sharer writes down for its workers, whose seats come first."""
    path = stack.directory / "picker" / f"journal-{2 * len([*workers(stack)]) + 2}"
    with path.open("rb") as file:
        return LogReader(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))


def workers(stack):
    return (each for each in stack.workers() if each["worker"] != "sharer")


def until(condition):
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(LOOK_S)


def booked(journal):
    """Whether a request has been booked since this was asked last; earlier ones end meanwhile."""
    batch = journal.read()
    return batch and any(isinstance(read_event(record), Booked) for record in batch.records)


def taken_back(journal):
    """Whether a prompt has been taken back since this was asked last."""
    batch = journal.read()
    events = map(read_event, batch.records) if batch else ()
    return any(isinstance(event, Told) and event.name == WITHDRAWN for event in events)


def prompt(number):
    return f"{number}: " + f"wagon {number} goes to track {number}, and then " * 200


async def test_a_prompt_goes_to_where_the_other_replica_sent_it(pair, connect):
    until(lambda: [heard(stack) for stack in pair] == [1, 1])
    journals = {stack: sharers_journal(stack) for stack in pair}
    for journal in journals.values():
        journal.read()
    for number in range(8):
        one, other = pair[number % 2], pair[1 - number % 2]
        first = await connect(one).chat(prompt(number))
        until(partial(booked, journals[other]))
        assert (await connect(other).chat(prompt(number))).served == first.served
        until(partial(booked, journals[one]))  # lest it be taken for the next one


async def test_a_prompt_that_an_engine_refused_is_taken_back_at_the_other_replica(pair, connect):
    east, west = pair
    until(lambda: [heard(stack) for stack in pair] == [1, 1])
    journal = sharers_journal(west)
    journal.read()
    assert (await connect(east).chat(prompt(99), model="nobody's")).status == 404
    until(partial(taken_back, journal))


async def test_without_the_server_each_goes_on_alone_and_with_it_they_find_each_other_again(pair, redis, connect):
    until(lambda: [heard(stack) for stack in pair] == [1, 1])
    redis.stop()
    until(lambda: [heard(stack) for stack in pair] == [0, 0])
    for stack in pair:
        assert (await connect(stack).chat("alone")).status == 200
        assert sharer(stack)["hindrances"] == [f"{redis.title} does not answer"]
    redis.start()
    until(lambda: [heard(stack) for stack in pair] == [1, 1])
    until(lambda: all(sharer(stack)["ready"] for stack in pair))


def test_a_stack_starts_without_the_server(redis):
    redis.stop()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("SHUNTER_SHARE_URL", redis.url)
            with running_stack("--engines", "1") as stack:
                until(lambda: not sharer(stack)["ready"])
    finally:
        redis.start()
