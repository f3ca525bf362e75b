"""A gateway that fails open hides that nobody picks; what tells it nevertheless, by the picker's metrics and by Envoy's own."""

import os
import re
import signal

import pytest

from shunter.stack.shell import web
from shunter.stack.testing import running_stack

pytestmark = pytest.mark.envoy


def bypassed(stack):
    page = web.get(f"127.0.0.1:{stack.state.plan.ports.admin}", "/metrics").body.decode()
    return float(re.search(r"^shunter_picker_bypassed_requests_total (\S+)", page, re.MULTILINE)[1])


def failed_open(stack):
    """Envoy's counter of requests that went on without ext_proc, as its Prometheus page has it."""
    page = web.get(f"127.0.0.1:{stack.state.plan.ports.envoy_admin}", "/stats/prometheus").body.decode()
    found = re.findall(r"^envoy_http_ext_proc_failure_mode_allowed\{.*\} (\d+)$", page, re.MULTILINE)
    assert found, [line for line in page.splitlines() if "failure_mode" in line]
    return sum(map(int, found))


async def test_requests_without_a_pick_are_counted_while_all_workers_are_dead(connect, eventually):
    with running_stack("--profile", "lean") as own:
        client = connect(own)
        assert (await client.chat("somebody picks")).status == 200
        workers = [each["pid"] for each in own.workers()]
        os.kill(own.state.pids["picker"], signal.SIGSTOP)  # so that nobody is hired
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        replies = [await client.chat("nobody picks") for _ in range(4)]
        os.kill(own.state.pids["picker"], signal.SIGCONT)
        assert {reply.status for reply in replies} == {200}
        await eventually(lambda: bypassed(own) == 4)
        assert failed_open(own) == 4
        await eventually(lambda: any(worker["ready"] for worker in own.workers()))
        assert (await client.chat("somebody picks again")).status == 200
        assert (bypassed(own), failed_open(own)) == (4, 4)
