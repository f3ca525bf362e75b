"""What dies, and what clients see of it. Each test has a stack of its own, because it breaks it."""

import asyncio
import os
import random
import signal
from pathlib import Path

import msgspec
import pytest
from hack.chaos.faults import FAULTS
from hack.chaos.stage import stage
from hack.chaos.trial import undergo

from shunter.lab.testing import lab_server
from shunter.stack.testing import running_stack

pytestmark = pytest.mark.envoy


@pytest.fixture
def own():
    with running_stack("--speed", "20") as stack:
        yield stack


async def test_a_dead_endpoint_is_retried_on_the_second_choice(own, connect, eventually):
    client = connect(own)
    shared = "the same long beginning " * 100
    first = await client.chat(shared)
    dead = next(e for e in own.state.plan.engines if e.authority == first.served)
    os.kill(own.state.pids["scraper"], signal.SIGSTOP)  # the picker does not know yet
    os.kill(own.state.pids[dead.name], signal.SIGKILL)
    await eventually(lambda: f"{dead.name} was ended by SIGKILL" in own.output)
    reply = await client.chat(shared + "again")  # its cached prefix still speaks for the dead one
    os.kill(own.state.pids["scraper"], signal.SIGCONT)
    log = await client.log(reply.request_id)
    picked = log["pick"].split(",")
    assert picked[0] == dead.authority
    assert reply.status == 200
    assert reply.served == log["served"] == picked[1]
    assert log["attempts"] == 2


async def test_a_dead_endpoint_gets_nothing_once_it_is_known_to_be_dead(own, connect):
    client = connect(own)
    shared = "the same long beginning " * 100
    first = await client.chat(shared)
    dead = next(e for e in own.state.plan.engines if e.authority == first.served)
    os.kill(own.state.pids[dead.name], signal.SIGKILL)
    picks = []
    while len(picks) < 100 and not (picks and dead.authority not in picks[-1]):
        picks.append((await client.log((await client.chat(shared)).request_id))["pick"])
    later = [await client.log((await client.chat(f"{shared}{n}")).request_id) for n in range(5)]
    assert all(dead.authority not in log["pick"] and (log["status"], log["attempts"]) == (200, 1) for log in later)


async def test_a_dead_endpoint_is_shown_stale_with_its_age_and_reason(own, eventually):
    dead = own.state.plan.engines[1]
    os.kill(own.state.pids[dead.name], signal.SIGKILL)

    def row():
        return next(r for r in own.fleet().endpoints if r.authority == dead.authority)

    await eventually(lambda: row().health == "unreachable" and row().reason == "connection refused")
    first = row().age_s
    await eventually(lambda: row().age_s > first + 0.5)
    assert f"{dead.name} was ended by SIGKILL" in own.output
    assert f"{dead.name} stays away" in own.output


async def test_no_endpoint_is_503_with_the_reason_not_a_hang(own, connect, eventually):
    client = connect(own)
    endpoints = own.directory / "cluster" / "endpoints.yaml"
    before = endpoints.read_bytes()
    endpoints.write_bytes(before[: before.index(b"endpoints:")] + b"endpoints: []\n")
    await eventually(lambda: not own.fleet().endpoints)
    reply = await client.chat("anybody?")
    assert reply.status == 503
    assert reply.headers["x-llm-d-request-dropped-reason"] == "rejected-no-endpoints"
    endpoints.write_bytes(before)
    await eventually(lambda: len(own.fleet().endpoints) == 3)
    async with asyncio.timeout(20):
        while (await client.chat("anybody?")).status != 200:  # Envoy may know them a blink later than the picker
            pass


async def test_an_endpoint_that_comes_while_it_runs_is_served(own, connect, eventually):
    client = connect(own)
    async with lab_server(name="newcomer", speed=20) as server:
        file = own.directory / "cluster" / "endpoints.yaml"
        *documents, endpoints = file.read_text().split("\n---\n")
        listed = msgspec.yaml.decode(endpoints.encode())
        listed["endpoints"] = [{**listed["endpoints"][0], "name": "newcomer", "port": str(server.port)}]
        file.write_text("\n---\n".join([*documents, msgspec.yaml.encode(listed).decode()]))
        await eventually(lambda: [row.name for row in own.fleet().endpoints] == ["newcomer"])
        async with asyncio.timeout(20):
            while (reply := await client.chat("hello")).status == 200 and reply.fingerprint != "newcomer":
                pass
        assert reply.status == 200


async def test_a_broken_endpoints_file_changes_nothing(own, connect, eventually):
    before = own.fleet().endpoints
    (own.directory / "cluster" / "endpoints.yaml").write_text("endpoints:\n- {name: a, adress: 127.0.0.1, port: '1'}\n")
    log = own.directory / "logs" / "scraper.log"
    await eventually(lambda: "adress" in log.read_text())
    assert "address" in log.read_text(), "the message names what was probably meant"
    assert [r.name for r in own.fleet().endpoints] == [r.name for r in before]
    assert (await connect(own).chat("x")).status == 200


async def test_without_the_scraper_picks_go_on(own, connect, eventually):
    client = connect(own)
    old = own.state.pids["scraper"]
    os.kill(old, signal.SIGKILL)
    replies = await asyncio.gather(*(client.chat(f"request {n}") for n in range(9)))
    assert {reply.status for reply in replies} == {200}
    assert len({reply.served for reply in replies}) == 3
    await eventually(lambda: own.state.pids["scraper"] != old and own.fleet().snapshot_age_s < 2)


@pytest.fixture
def heeding_hangups():
    """Whoever runs the tests under nohup has SIGHUP ignored, and what is started inherits that."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("heeding_hangups")
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_ctrl_c_ends_everything_it_started_and_nothing_else(ending):
    bystander = await asyncio.create_subprocess_exec("sleep", "600")
    try:
        with running_stack() as stack:
            pids = stack.state.pids
            stack.process.send_signal(ending)
            assert await asyncio.to_thread(stack.process.wait, 90) == 0
            for name, pid in pids.items():
                with pytest.raises(ProcessLookupError):
                    os.kill(pid, 0)
                    pytest.fail(f"{name} is still there")
            assert bystander.returncode is None
    finally:
        bystander.kill()
        await bystander.wait()


async def test_a_killed_parent_leaves_no_orphans(eventually):
    with running_stack() as stack:
        pids = stack.state.pids
        stack.process.kill()
        await asyncio.to_thread(stack.process.wait, 90)

        def gone(pid):
            try:
                return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] == "Z"  # an orphan nobody reaps here
            except (FileNotFoundError, ProcessLookupError):  # it may go between opening and reading
                return True

        await eventually(lambda: all(gone(pid) for pid in pids.values()))


@pytest.fixture(scope="module")
def chaos():
    with stage("lean") as stack:
        yield stack


@pytest.mark.parametrize(
    ("fault", "times"),
    [("SIGKILL a worker", 12), ("SIGSTOP a worker for 5 s", 1), ("SIGKILL the supervisor", 1), (FAULTS[-1].name, 2)],
)
async def test_no_request_is_lost_in_profile_lean(chaos, fault, times):
    """A slice of `make chaos`: clients are asked, and Envoy's log is shown of what they lost."""
    row = await undergo(chaos, next(each for each in FAULTS if each.name == fault), times, 100, random.Random(fault))
    assert row.kills == times
    assert row.requests > 100
    assert row.recovery_max_ms is not None, "everybody is back"
    assert row.failures == 0, row.losses
    assert row.booked == 0


@pytest.mark.parametrize(("workers", "options"), [(1, []), (2, []), (1, ["--sockets"]), (2, ["--sockets"])])
async def test_a_reload_of_the_picker_costs_no_request_its_answer_nor_its_pick(connect, eventually, workers, options):
    """All processes are replaced twice, under load, one after the other; with one worker as with several."""
    with running_stack("--speed", "20", "--workers", str(workers), *options) as stack:
        client = connect(stack)
        replies = []

        async def keep_asking(n):
            while not reloaded.is_set():
                replies.append(await client.chat(f"request {n}", stream=n % 4 == 0, max_tokens=60))

        reloaded = asyncio.Event()
        askers = [asyncio.create_task(keep_asking(n)) for n in range(12)]
        before = {worker["pid"] for worker in stack.workers()}
        for reloads in (1, 2):
            os.kill(stack.state.pids["picker"], signal.SIGHUP)
            await eventually(lambda n=reloads: [w["restarts"].get("relieved") for w in stack.workers()] == [n] * workers)
        await eventually(lambda: (stack.directory / "logs" / "picker.log").read_text().count("reload: done") == 2)
        reloaded.set()
        await asyncio.gather(*askers)
        assert before.isdisjoint(worker["pid"] for worker in stack.workers())
        assert len(replies) > 50
        assert {reply.status for reply in replies} == {200}
        logs = [await client.log(reply.request_id) for reply in replies]
        assert all(log["pick"] for log in logs)
