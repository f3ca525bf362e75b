"""Envoy and the picker's workers at sockets in the file system: both are asked, and a death costs nobody anything."""

import asyncio
import os
import random
import signal

import pytest
from hack.chaos.faults import FAULTS
from hack.chaos.stage import stage
from hack.chaos.trial import undergo

from shunter.stack.shell import web
from shunter.stack.testing import running_stack

pytestmark = pytest.mark.envoy

CLUSTER = "picker/engines"
DEADLINE_S = 30


def asked(stack):
    """How many questions Envoy asked at each socket."""
    page = web.get(f"127.0.0.1:{stack.state.plan.ports.envoy_admin}", "/clusters?format=json").json()
    [cluster] = [each for each in page["cluster_statuses"] if each["name"] == CLUSTER]
    return {
        host["address"]["pipe"]["path"].rpartition("/")[2]: sum(
            int(each.get("value", 0)) for each in host["stats"] if each["name"] == "rq_total"
        )
        for host in cluster["host_statuses"]
    }


async def until_both_are_asked(stack, client):
    """Ask until Envoy has asked at both sockets: in the profile full it may have to find out first that both are alive."""
    before = asked(stack)
    async with asyncio.timeout(DEADLINE_S):
        while any(asked(stack)[name] == total for name, total in before.items()):
            assert (await client.chat("which track?")).status == 200


@pytest.mark.parametrize("profile", ["lean", "strict", "full"])
async def test_each_worker_is_asked_at_its_socket_and_picks(connect, profile):
    with running_stack("--speed", "20", "--sockets", "--profile", profile) as stack:
        client = connect(stack)
        replies = await asyncio.gather(*(client.chat(f"request {n}") for n in range(20)))
        assert {reply.status for reply in replies} == {200}
        assert all([(await client.log(reply.request_id))["pick"].split(",")[0] == reply.served for reply in replies])
        assert set(asked(stack)) == {"worker.0", "worker.1"}
        await until_both_are_asked(stack, client)


async def test_who_comes_to_a_dead_workers_socket_is_asked_there(connect, eventually):
    """In the profile strict nothing goes without a pick: whom the dead worker does not answer, the other one does."""
    with running_stack("--speed", "20", "--sockets", "--profile", "strict") as stack:
        client = connect(stack)
        victim = stack.workers()[0]["pid"]
        os.kill(victim, signal.SIGKILL)
        replies = await asyncio.gather(*(client.chat(f"request {n}") for n in range(20)))
        assert [reply.body for reply in replies if reply.status != 200] == []
        await eventually(lambda: victim not in {worker["pid"] for worker in stack.workers()})
        await until_both_are_asked(stack, client)


@pytest.fixture(scope="module")
def chaos():
    with stage("lean", "--sockets") as stack:
        yield stack


@pytest.mark.parametrize(
    ("fault", "times"),
    [("SIGKILL a worker", 8), ("SIGKILL all workers", 2), ("SIGSTOP a worker for 5 s", 1), ("SIGKILL the supervisor", 1)],
)
async def test_no_request_is_lost_in_profile_lean(chaos, fault, times):
    row = await undergo(chaos, next(each for each in FAULTS if each.name == fault), times, 100, random.Random(fault))
    assert row.kills == times
    assert row.requests > 100
    assert row.recovery_max_ms is not None, "everybody is back"
    assert row.failures == 0, row.losses
    assert row.booked == 0
