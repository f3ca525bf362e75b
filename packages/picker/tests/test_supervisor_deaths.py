"""Real processes are killed and stopped: the picker as a whole goes on, and loses nothing that was counted."""

import json
import os
import re
import signal
import socket


async def test_a_killed_worker_is_replaced_at_once_and_its_counters_go_on(run_picker, ask_pick, eventually):
    picker = await run_picker()
    first, second = await picker.workers()
    await ask_pick(first["address"])
    os.kill(first["pid"], signal.SIGKILL)

    async def replaced():
        worker = (await picker.workers())[0]
        return worker["ready"] and worker["pid"] != first["pid"]

    await eventually(replaced)
    await ask_pick(first["address"])
    assert (await picker.workers())[1]["pid"] == second["pid"]
    samples = await picker.samples()
    assert sum(samples["shunter_picker_picks_total", f"127.0.0.1:{port}"] for port in (7001, 7002)) == 2
    assert samples["shunter_picker_worker_restarts_total", "signal", "0"] == 1
    assert re.search(rf"worker-0, process {first['pid']}: ended by SIGKILL; .* starts at once", picker.text)


async def test_the_collector_is_kept_alive_as_a_worker_is(run_picker, eventually):
    picker = await run_picker("--collector-port=0")
    *_, collector = await picker.workers()
    assert collector["worker"] == "collector"

    async def told():
        return ("shunter_picker_records_total",) in await picker.samples()

    await eventually(told)
    os.kill(collector["pid"], signal.SIGKILL)

    async def replaced():
        *_, successor = await picker.workers()
        return successor["ready"] and successor["pid"] != collector["pid"]

    await eventually(replaced)
    host, _, port = collector["address"].partition(":")
    socket.create_connection((host, int(port))).close()
    picker.signal(signal.SIGTERM)
    assert await picker.ended() == 0


async def test_what_a_dead_worker_had_in_flight_is_struck_out(run_picker, hold_pick, eventually):
    picker = await run_picker()
    worker = (await picker.workers())[0]

    async def in_flight():
        return sum(row["in_flight"] for row in json.loads((await picker.get("/debug/fleet"))[1])["endpoints"])

    async with hold_pick(worker["address"]):
        assert await in_flight() == 1
        os.kill(worker["pid"], signal.SIGKILL)

        async def nothing():
            return await in_flight() == 0

        await eventually(nothing)


async def test_a_worker_that_hangs_is_replaced_and_holds_nobody_up(run_picker, eventually):
    picker = await run_picker()
    hung = (await picker.workers())[1]
    os.kill(hung["pid"], signal.SIGSTOP)
    assert (await picker.get("/debug/decisions"))[0] == 200
    assert f"process {hung['pid']}, seat {hung['seat']}\n\nno answer" in (await picker.get("/debug/stacks"))[1]

    async def replaced():
        worker = (await picker.workers())[1]
        return worker["ready"] and worker["pid"] != hung["pid"]

    await eventually(replaced)
    assert "had not answered for 3 s" in picker.text
    assert (await picker.samples())["shunter_picker_worker_restarts_total", "hung", "1"] == 1


async def test_the_workers_of_a_killed_supervisor_go_on_until_the_next_ones_relieve_them(
    run_picker, ask_pick, eventually, is_gone
):
    picker = await run_picker()
    workers = await picker.workers()
    os.kill(workers[1]["pid"], signal.SIGSTOP)  # it will not hear that it may go
    picker.process.kill()
    picker.process.wait()
    await ask_pick(workers[0]["address"])
    successor = await run_picker(*[f"--port={worker['address'].rpartition(':')[2]}" for worker in workers])

    async def relieved():
        return all(is_gone(worker["pid"]) for worker in workers)

    await eventually(relieved)
    assert {worker["life"] for worker in await successor.workers()}.isdisjoint(worker["life"] for worker in workers)
    for worker in workers:
        await ask_pick(worker["address"])


async def test_the_workers_of_a_killed_supervisor_that_nobody_relieves_end(run_picker, eventually, is_gone):
    picker = await run_picker()
    workers = await picker.workers()
    picker.process.kill()
    picker.process.wait()

    async def ended():
        return all(is_gone(worker["pid"]) for worker in workers)

    await eventually(ended)


async def test_behind_one_port_a_worker_that_was_restarted_has_its_share_again(run_picker, eventually, keep_asking):
    picker = await run_picker("--one-port", "--connection-max-age=1")
    first, second = await picker.workers()
    assert first["address"] == second["address"]
    async with keep_asking(first["address"], channels=16):
        os.kill(first["pid"], signal.SIGKILL)

        async def shared():
            lives = {worker["life"] for worker in await picker.workers()}
            decisions = json.loads((await picker.get("/debug/decisions"))[1])["decisions"]
            return first["life"] not in lives and {decision["ticket"] >> 32 for decision in decisions} >= lives

        await eventually(shared)


async def test_requests_are_counted_by_class_and_a_workers_death_loses_none(run_picker, ask_pick, eventually):
    picker = await run_picker("--metric-names=both")
    for worker in await picker.workers():
        await ask_pick(worker["address"])

    async def entered():
        return (await picker.samples()).get(("llm_d_epp_scheduler_e2e_duration_seconds_count",)) == 2

    await eventually(entered)
    before = await picker.samples()
    (victim, *_) = await picker.workers()
    os.kill(victim["pid"], signal.SIGKILL)

    async def restarted():
        return (await picker.samples()).get(("shunter_picker_worker_restarts_total", "signal", victim["worker"])) == 1

    await eventually(restarted)
    after = await picker.samples()
    (requests,) = {key for key in before if key[0] == "llm_d_epp_request_total"}
    (twin,) = {key for key in before if key[0] == "inference_objective_request_total"}
    (duration,) = {key for key in before if key[0] == "llm_d_epp_request_duration_seconds_count"}
    assert before[requests] == after[requests] == after[twin] == after[duration] == 2
    assert after["llm_d_epp_scheduler_e2e_duration_seconds_count",] == 2
