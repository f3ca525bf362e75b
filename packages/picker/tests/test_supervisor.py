"""Real processes as one picker: it answers for all of them, refuses what it cannot start, and ends when it is told."""

import json
import os
import signal
import socket
import time

import aiohttp
import pytest

from shunter.picker.shell.supervisor import ECHO_S

DEADLINE_S = 30


async def test_the_pages_answer_for_all_workers(run_picker, ask_pick):
    picker = await run_picker()
    workers = await picker.workers()
    assert picker.children() == {worker["pid"] for worker in workers}, "there is no further process"
    for number, worker in enumerate(workers):
        for _ in range(number + 1):
            await ask_pick(worker["address"])
    await ask_pick(workers[0]["address"], {"messages": []})
    status, text = await picker.get("/debug/decisions?last=3")
    decisions = json.loads(text)["decisions"]
    assert status == 200
    assert [decision["ticket"] >> 32 for decision in decisions] == [workers[at]["life"] for at in (0, 1, 1)]
    assert decisions == sorted(decisions, key=lambda decision: -decision["at_s"])
    assert (await picker.get("/debug/decisions?last=many"))[0] == 400
    status, text = await picker.get("/readyz")
    assert status == 200
    assert json.loads(text)["ready"]
    assert (await picker.get("/healthz"))[0] == 200
    samples = await picker.samples()
    assert sum(samples["shunter_picker_picks_total", f"127.0.0.1:{port}"] for port in (7001, 7002)) == 3
    assert samples["shunter_picker_refusals_total", "BadRequest"] == 1
    assert samples["llm_d_epp_ready_endpoints", "default"] == 2
    assert samples["shunter_picker_worker_up", "1"] == 1
    assert samples["shunter_picker_worker_resident_memory_bytes", "0"] > 1e7
    assert 0 <= samples[("shunter_picker_snapshot_age_seconds",)] < DEADLINE_S
    fleet = json.loads((await picker.get("/debug/fleet"))[1])
    assert [row["authority"] for row in fleet["endpoints"]] == ["127.0.0.1:7001", "127.0.0.1:7002"]
    assert [(row["waiting"], row["kv_usage"]) for row in fleet["endpoints"]] == [(1.0, 0.5)] * 2
    assert "queue-scorer" in (await picker.get("/debug/config"))[1]
    stacks = (await picker.get("/debug/stacks"))[1]
    assert all(f"process {worker['pid']}" in stacks for worker in workers)
    assert "_look_around" in stacks


async def test_everybody_logs_what_is_asked_for_while_they_run(run_picker, eventually):
    picker = await run_picker("--log-format=json", "--collector-port=0")
    everybody = {"supervisor", "worker-0", "worker-1", "collector"}

    async def said(words):
        lines = [json.loads(line) for line in picker.text.splitlines()]
        return {line["process"] for line in lines if line["message"] == words} == everybody

    async with aiohttp.ClientSession() as client:
        for body, status, answer in (
            (b'{"level":"debug"}', 200, '{"level":"debug"}'),
            (b'{"level":"loud"}', 400, "Invalid enum value 'loud' - at `$.level`; send {\"level\": LEVEL}, one of debug, info"),
            (b'{"volume":11}', 400, "unknown field `volume`; send"),
            (b"no JSON", 400, "JSON is malformed"),
        ):
            async with client.put(picker.admin + "/debug/log-level", data=body) as response:
                told = await response.text()
                assert (response.status, answer in told) == (status, True), told
        async with client.post(picker.admin + "/debug/log-level", data=b'{"level":"info"}') as response:
            assert response.status == 405
    assert (await picker.get("/debug/log-level"))[1] == '{"level":"debug"}'
    await eventually(lambda: said("log level: debug"))
    picker.signal(signal.SIGUSR2)
    await eventually(lambda: said("log level: info"))


async def test_sigterm_ends_all_well(run_picker, is_gone):
    picker = await run_picker()
    children = picker.children()
    picker.signal(signal.SIGTERM)
    assert await picker.ended() == 0
    assert all(is_gone(pid) for pid in children)
    assert "draining" in picker.text


async def test_ctrl_c_in_a_terminal_reaches_every_process_and_still_ends_all_well(run_picker):
    picker = await run_picker()
    os.killpg(picker.process.pid, signal.SIGINT)
    assert await picker.ended() == 0
    assert "Interrupt" not in picker.text


async def test_one_signal_that_comes_by_two_ways_still_ends_all_well(run_picker):
    picker = await run_picker()
    for number in (signal.SIGTERM, signal.SIGINT):  # two, for the kernel makes one of the same
        picker.signal(number)
    assert await picker.ended() == 0
    assert "SIGKILL" not in picker.text


async def test_a_second_signal_waits_for_nobody(run_picker, hold_pick, eventually, is_gone):
    picker = await run_picker("--drain-timeout=600")
    worker = (await picker.workers())[0]
    async with hold_pick(worker["address"], decided=False):
        picker.signal(signal.SIGTERM)

        async def draining():
            return json.loads((await picker.get("/readyz"))[1])["hindrances"] == ["draining"]

        async def later():
            return time.monotonic() > said_s + ECHO_S

        await eventually(draining)
        said_s = time.monotonic()
        await eventually(later)
        picker.signal(signal.SIGTERM)
        assert await picker.ended() == 1
    assert is_gone(worker["pid"])


@pytest.mark.parametrize("option", ["--port", "--health-port", "--admin-port"])
async def test_a_taken_port_is_refused_with_its_option(run_picker, option):
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        picker = await run_picker(f"{option}={port}", ready=False)
        assert await picker.ended() == 2
    assert str(port) in picker.text
    assert option in picker.text


async def test_a_second_picker_in_the_same_directory_is_refused(run_picker):
    first = await run_picker()
    second = await run_picker(ready=False)
    assert await second.ended() == 2
    assert f"another picker (process {first.process.pid}) runs in" in second.text


async def test_what_no_worker_can_serve_ends_the_picker_in_words(run_picker, tmp_path):
    options = ["--tls-cert-file", str(tmp_path / "absent.pem"), "--tls-key-file", str(tmp_path / "absent.key")]
    picker = await run_picker(*options, ready=False)
    assert await picker.ended() == 2
    assert "absent.pem" in picker.text


async def test_autoscalers_ask_by_name_and_label(run_picker):
    picker = await run_picker()
    status, text = await picker.get("/metrics/external/shunter_picker_desired_replicas?role=both")
    (item,) = json.loads(text)["items"]
    assert (status, item["metricLabels"], item["value"]) == (200, {"role": "both"}, "2")
    assert {each["metricName"] for each in json.loads((await picker.get("/metrics/external"))[1])["items"]} > {
        "llm_d_epp_ready_endpoints"
    }
    status, text = await picker.get("/metrics/external/replicas")
    assert (status, text.startswith("no metric replicas here; there are shunter_picker_desired_replicas,")) == (404, True)
