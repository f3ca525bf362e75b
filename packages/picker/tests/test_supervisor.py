"""Real processes: whatever happens to one of them, the picker as a whole goes on, and tells what happened."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from shunter.picker.shell.layout import Settings
from shunter.picker.shell.supervisor import Supervisor
from shunter.picker.shell.worker import Settings as WorkerSettings

DEADLINE_S = 30


def configuration(plugin="queue-scorer"):
    return f"apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n- type: {plugin}\n"


class Picker:
    """A ``shunter picker run`` of two workers, and what its pages say."""

    def __init__(self, directory, *options):
        self.config = directory / "config.yaml"
        if not self.config.exists():
            self.config.write_text(configuration())
        self.log = directory / f"log-{time.monotonic_ns()}"
        paths = ["--config", self.config, "--snapshot", directory, "--runtime", directory / "runtime"]
        command = [sys.executable, "-m", "shunter.picker", "run", *map(str, paths), "--health-port=0", "--admin-port=0"]
        defaults = [] if any(option.startswith("--port") for option in options) else ["--port=0"]
        defaults += [] if any(option.startswith("--workers") for option in options) else ["--workers=2"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([*command, *defaults, *options], stderr=log, start_new_session=True)

    @property
    def text(self):
        return self.log.read_text()

    @property
    def admin(self):
        return f"http://127.0.0.1:{re.search(r'admin pages on port ([0-9]+)', self.text)[1]}"

    async def get(self, path):
        timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(self.admin + path) as response:
            return response.status, await response.text()

    async def workers(self):
        return json.loads((await self.get("/debug/workers"))[1])

    async def samples(self):
        families = text_string_to_metric_families((await self.get("/metrics"))[1])
        return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}

    def children(self):
        tasks = Path(f"/proc/{self.process.pid}/task")
        return {int(child) for task in tasks.iterdir() for child in (task / "children").read_text().split()}

    def signal(self, number):
        self.process.send_signal(number)

    async def ended(self):
        return await asyncio.to_thread(self.process.wait, DEADLINE_S)


@pytest.fixture
async def run(tmp_path, publish, eventually):
    """Start pickers in tmp_path and wait until all workers are ready."""
    started = []
    publish(7001, 7002)

    async def run(*options, ready=True):
        picker = Picker(tmp_path, *options)
        started.append(picker)

        async def up():
            assert picker.process.poll() is None, picker.text
            return "admin pages on" in picker.text and all(w["ready"] for w in await picker.workers())

        if ready:
            await eventually(up)
        return picker

    yield run
    for picker in started:
        known = [os.pidfd_open(pid) for pid in picker.children()] if picker.process.poll() is None else ()
        picker.process.kill()
        picker.process.wait()
        for child in known:  # a stopped one does not notice that it is an orphan
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(child, signal.SIGKILL)
            os.close(child)
        assert "Traceback" not in picker.text, picker.text


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "Z"
    except FileNotFoundError:
        return True


async def test_the_pages_answer_for_all_workers(run, ask_pick):
    picker = await run()
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
    assert "_follow_snapshot" in stacks


async def test_a_killed_worker_is_replaced_at_once_and_its_counters_go_on(run, ask_pick, eventually):
    picker = await run()
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


async def test_the_collector_is_kept_alive_as_a_worker_is(run, eventually):
    picker = await run("--collector-port=0")
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


async def test_what_a_dead_worker_had_in_flight_is_struck_out(run, hold_pick, eventually):
    picker = await run()
    worker = (await picker.workers())[0]

    async def in_flight():
        return sum(row["in_flight"] for row in json.loads((await picker.get("/debug/fleet"))[1])["endpoints"])

    async with hold_pick(worker["address"]):
        assert await in_flight() == 1
        os.kill(worker["pid"], signal.SIGKILL)

        async def nothing():
            return await in_flight() == 0

        await eventually(nothing)


async def test_a_worker_that_hangs_is_replaced_and_holds_nobody_up(run, eventually):
    picker = await run()
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


async def test_everybody_logs_what_is_asked_for_while_they_run(run, eventually):
    picker = await run("--log-format=json", "--collector-port=0")
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


async def test_a_reload_relieves_all_and_a_broken_configuration_changes_nothing(run, eventually):
    picker = await run()
    assert (await picker.samples())["shunter_picker_config_last_reload_successful",] == 1
    before = {worker["pid"] for worker in await picker.workers()}
    picker.config.write_text(configuration("quue-scorer"))
    picker.signal(signal.SIGHUP)

    async def reloaded(result):
        return (await picker.samples()).get(("shunter_picker_config_reloads_total", result)) == 1

    await eventually(lambda: reloaded("rejected"))
    assert (await picker.samples())["shunter_picker_config_last_reload_successful",] == 0
    assert "the configuration stays as it is: $.plugins[0].type" in picker.text
    assert {worker["pid"] for worker in await picker.workers()} == before
    picker.config.write_text(configuration("kv-cache-utilization-scorer"))
    picker.signal(signal.SIGHUP)
    await eventually(lambda: reloaded("done"))
    workers = await picker.workers()
    assert {worker["pid"] for worker in workers}.isdisjoint(before)
    assert all(worker["ready"] and worker["restarts"] == {"relieved": 1} for worker in workers)
    assert "kv-cache" in (await picker.get("/debug/config"))[1]
    assert all(gone(pid) for pid in before)


async def test_a_new_configuration_is_tried_on_what_was_decided_last(run, ask_pick, eventually, tmp_path):
    picker = await run("--reload-max-change=0.5")
    assert (await picker.get("/debug/trial"))[1] == "null"
    for worker in await picker.workers():
        await ask_pick(worker["address"])
        await ask_pick(worker["address"])
    before = (await picker.get("/debug/config"))[1]
    lines = (await picker.get("/debug/precedents"))[1]
    (tmp_path / "decisions.ndjson").write_text(lines)
    assert len(lines.splitlines()) == 4
    picker.config.write_text(configuration("label-selector-filter") + "  parameters: {matchLabels: {gpu: none}}\n")
    for where in (["--against", picker.admin], ["--decisions", str(tmp_path / "decisions.ndjson")]):
        command = [sys.executable, "-m", "shunter.picker", "check", "-f", str(picker.config), *where]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=DEADLINE_S)
        assert "100 % of 4 picks would change" in done.stderr

    async def reloaded(result):
        return (await picker.samples()).get(("shunter_picker_config_reloads_total", result)) == 1

    picker.signal(signal.SIGHUP)
    await eventually(lambda: reloaded("refused"))
    assert (await picker.get("/debug/config"))[1] == before
    trial = json.loads((await picker.get("/debug/trial"))[1])
    assert (trial["taken"], trial["retrial"]["refused"], trial["in_force"]["changed"]) == (False, 4, 0)
    assert "dry run: 100 % of 4 picks would change (0 % by the one in force" in picker.text
    assert "100 % of picks would change, --reload-max-change allows 50 %" in picker.text
    picker.config.write_text(configuration("kv-cache-utilization-scorer"))
    picker.signal(signal.SIGHUP)
    await eventually(lambda: reloaded("done"))
    assert "dry run: 0 % of 4 picks would change" in picker.text


async def test_what_cannot_be_tried_is_said_and_does_not_end_the_supervisor(tmp_path, monkeypatch, caplog):
    settings = Settings(worker=WorkerSettings(snapshot=tmp_path), workers=1, runtime=tmp_path)
    texts = iter([configuration(), configuration("kv-cache-utilization-scorer")])
    supervisor = Supervisor(settings, lambda: next(texts))

    async def precedents(_):
        return [b"no line of ours"]

    monkeypatch.setattr(supervisor, "precedents", precedents)
    assert [await supervisor._reload(), await supervisor._reload()] == ["done", "done"]
    assert "cannot be tried on what was decided last: PrecedentError: line 1" in caplog.text
    assert supervisor.trial() is None


async def test_of_a_reload_that_fails_halfway_nothing_is_left(run, ask_pick, eventually, tmp_path):
    picker = await run(f"--host=unix:{tmp_path}/p")
    before = (await picker.get("/debug/config"))[1]
    (tmp_path / "p.1.new").mkdir()  # where the second worker's successor would listen
    picker.config.write_text(configuration("kv-cache-utilization-scorer"))
    picker.signal(signal.SIGHUP)

    async def failed():
        return (await picker.samples()).get(("shunter_picker_config_reloads_total", "failed"))

    await eventually(failed)
    assert (await picker.get("/debug/config"))[1] == before
    assert [worker["restarts"] for worker in await picker.workers()] == [{"relieved": 2}, {}]
    for number in range(2):
        await ask_pick(f"unix:{tmp_path}/p.{number}")
    assert {
        scorer
        for decision in json.loads((await picker.get("/debug/decisions"))[1])["decisions"]
        for scorer in decision["weights"]
    } == {"queue-scorer"}


async def test_a_changed_file_is_a_reload_if_it_is_watched(run, eventually):
    picker = await run("--watch-config", "--workers=1")
    picker.config.write_text(configuration("kv-cache-scorer"))

    async def reloaded():
        reloads = await picker.samples()
        return reloads.get(("shunter_picker_config_reloads_total", "done"))  # twice, if it was seen half written

    await eventually(reloaded)
    assert "configuration: $.plugins[0].type: 'kv-cache-scorer' is deprecated; it is called kv-cache-util" in picker.text
    picker.config.unlink()

    async def rejected():
        return (await picker.samples()).get(("shunter_picker_config_reloads_total", "rejected"))

    await eventually(rejected)


async def test_the_workers_of_a_killed_supervisor_go_on_until_the_next_ones_relieve_them(run, ask_pick, eventually):
    picker = await run()
    workers = await picker.workers()
    os.kill(workers[1]["pid"], signal.SIGSTOP)  # it will not hear that it may go
    picker.process.kill()
    picker.process.wait()
    await ask_pick(workers[0]["address"])
    successor = await run(*[f"--port={worker['address'].rpartition(':')[2]}" for worker in workers])

    async def relieved():
        return all(gone(worker["pid"]) for worker in workers)

    await eventually(relieved)
    assert {worker["life"] for worker in await successor.workers()}.isdisjoint(worker["life"] for worker in workers)
    for worker in workers:
        await ask_pick(worker["address"])


async def test_the_workers_of_a_killed_supervisor_that_nobody_relieves_end(run, eventually):
    picker = await run()
    workers = await picker.workers()
    picker.process.kill()
    picker.process.wait()

    async def ended():
        return all(gone(worker["pid"]) for worker in workers)

    await eventually(ended)


async def test_sigterm_ends_all_well(run):
    picker = await run()
    children = picker.children()
    picker.signal(signal.SIGTERM)
    assert await picker.ended() == 0
    assert all(gone(pid) for pid in children)
    assert "draining" in picker.text


async def test_ctrl_c_in_a_terminal_reaches_every_process_and_still_ends_all_well(run):
    picker = await run()
    os.killpg(picker.process.pid, signal.SIGINT)
    assert await picker.ended() == 0
    assert "Interrupt" not in picker.text


async def test_a_hang_up_that_reaches_every_process_is_a_reload_and_ends_nobody_else(run, eventually):
    picker = await run()
    os.killpg(picker.process.pid, signal.SIGHUP)

    async def reloaded():
        return (await picker.samples()).get(("shunter_picker_config_reloads_total", "done")) == 1

    await eventually(reloaded)
    assert [worker["restarts"] for worker in await picker.workers()] == [{"relieved": 1}] * 2


async def test_a_second_signal_waits_for_nobody(run, hold_pick, eventually):
    picker = await run("--drain-timeout=600")
    worker = (await picker.workers())[0]
    async with hold_pick(worker["address"], decided=False):
        picker.signal(signal.SIGTERM)

        async def draining():
            return json.loads((await picker.get("/readyz"))[1])["hindrances"] == ["draining"]

        await eventually(draining)
        picker.signal(signal.SIGTERM)
        assert await picker.ended() == 1
    assert gone(worker["pid"])


@pytest.mark.parametrize("option", ["--port", "--health-port", "--admin-port"])
async def test_a_taken_port_is_refused_with_its_option(run, option):
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        picker = await run(f"{option}={port}", ready=False)
        assert await picker.ended() == 2
    assert str(port) in picker.text
    assert option in picker.text


async def test_a_second_picker_in_the_same_directory_is_refused(run):
    first = await run()
    second = await run(ready=False)
    assert await second.ended() == 2
    assert f"another picker (process {first.process.pid}) runs in" in second.text


async def test_what_no_worker_can_serve_ends_the_picker_in_words(run, tmp_path):
    options = ["--tls-cert-file", str(tmp_path / "absent.pem"), "--tls-key-file", str(tmp_path / "absent.key")]
    picker = await run(*options, ready=False)
    assert await picker.ended() == 2
    assert "absent.pem" in picker.text


async def test_sockets_by_name_have_a_number_each_and_survive_a_reload(run, tmp_path, ask_pick, eventually):
    picker = await run(f"--host=unix:{tmp_path}/p")
    addresses = [f"unix:{tmp_path}/p.{number}" for number in range(2)]
    assert [worker["address"] for worker in await picker.workers()] == addresses
    picker.signal(signal.SIGHUP)

    async def reloaded():
        return (await picker.samples()).get(("shunter_picker_config_reloads_total", "done")) == 1

    await eventually(reloaded)
    for address in addresses:
        await ask_pick(address)


async def test_behind_one_port_a_worker_that_was_restarted_has_its_share_again(run, eventually, keep_asking):
    picker = await run("--one-port", "--connection-max-age=1")
    first, second = await picker.workers()
    assert first["address"] == second["address"]
    async with keep_asking(first["address"], channels=16):
        os.kill(first["pid"], signal.SIGKILL)

        async def shared():
            lives = {worker["life"] for worker in await picker.workers()}
            decisions = json.loads((await picker.get("/debug/decisions"))[1])["decisions"]
            return first["life"] not in lives and {decision["ticket"] >> 32 for decision in decisions} >= lives

        await eventually(shared)


CONFIG_MAP = """\
kind: ConfigMap
metadata: {name: a, labels: {inference.networking.k8s.io/bbr-managed: "true"}}
data: {baseModel: llama, adapters: "[%s]"}
"""


async def test_a_body_router_takes_new_base_models_with_a_reload(run, ask_pick, eventually, tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG_MAP % "m")
    picker = await run("--role=body-router", "--workers=1", f"--host=unix:{tmp_path}/p")

    async def told():
        common = (await ask_pick(f"unix:{tmp_path}/p")).request_body.response
        return {each.header.key: each.header.raw_value for each in common.header_mutation.set_headers}

    assert await told() == {"x-gateway-model-name": b"m", "x-gateway-base-model-name": b"llama"}
    picker.config.write_text(CONFIG_MAP % "{")
    picker.signal(signal.SIGHUP)

    async def reloaded(result):
        return (await picker.samples()).get(("shunter_picker_config_reloads_total", result)) == 1

    await eventually(lambda: reloaded("rejected"))
    assert "ConfigMap a: data.adapters is '[{]'" in picker.text
    picker.config.write_text(CONFIG_MAP % "other")
    picker.signal(signal.SIGHUP)
    await eventually(lambda: reloaded("done"))
    assert (await told())["x-gateway-base-model-name"] == b""
    assert (await picker.get("/debug/config"))[1] == CONFIG_MAP % "other"
    assert (await picker.samples())[("shunter_picker_models_named_total",)] == 2


async def test_requests_are_counted_by_class_and_a_workers_death_loses_none(run, ask_pick, eventually):
    picker = await run("--metric-names=both")
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


async def test_service_levels_are_reloaded_and_a_mistake_in_them_changes_nothing(run, tmp_path, eventually):
    levels = tmp_path / "levels.yaml"
    levels.write_text("serviceLevels: [{name: chat, target: .9, e2e: 30s}]")
    picker = await run(f"--service-levels={levels}")
    key = ("shunter_picker_service_level_threshold_seconds", "chat", "e2e")
    assert (await picker.samples())[key] == 30

    async def reloaded(result):
        return (await picker.samples()).get(("shunter_picker_config_reloads_total", result)) == 1

    levels.write_text("serviceLevels: [{name: chat, target: .9, e2e: soon}]")
    picker.signal(signal.SIGHUP)
    await eventually(lambda: reloaded("rejected"))
    assert "service levels: $.serviceLevels[0].e2e: 'soon' is not a duration such as 200ms or 1m30s" in picker.text
    assert (await picker.samples())[key] == 30
    levels.write_text("serviceLevels: [{name: chat, target: .9, e2e: 20s}]")
    picker.signal(signal.SIGHUP)
    await eventually(lambda: reloaded("done"))
    assert (await picker.samples())[key] == 20


async def test_autoscalers_ask_by_name_and_label(run):
    picker = await run()
    status, text = await picker.get("/metrics/external/shunter_picker_desired_replicas?role=both")
    (item,) = json.loads(text)["items"]
    assert (status, item["metricLabels"], item["value"]) == (200, {"role": "both"}, "2")
    assert {each["metricName"] for each in json.loads((await picker.get("/metrics/external"))[1])["items"]} > {
        "llm_d_epp_ready_endpoints"
    }
    status, text = await picker.get("/metrics/external/replicas")
    assert (status, text.startswith("no metric replicas here; there are shunter_picker_desired_replicas,")) == (404, True)
