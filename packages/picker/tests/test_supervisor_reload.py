"""A new configuration is validated, tried, and taken by every worker in turn, or by none."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys

import pytest

from shunter.picker import config
from shunter.picker.errors import ConfigError
from shunter.picker.plugins import Kind, Plugin
from shunter.picker.shell.layout import Settings
from shunter.picker.shell.supervisor import Supervisor
from shunter.picker.shell.worker import Settings as WorkerSettings

DEADLINE_S = 30


async def test_a_reload_relieves_all_and_a_broken_configuration_changes_nothing(run_picker, eventually, is_gone):
    picker = await run_picker()
    assert (await picker.samples())["shunter_picker_config_last_reload_successful",] == 1
    before = {worker["pid"] for worker in await picker.workers()}
    picker.configure("quue-scorer")
    picker.signal(signal.SIGHUP)

    async def reloaded(result):
        return (await picker.samples()).get(("shunter_picker_config_reloads_total", result)) == 1

    await eventually(lambda: reloaded("rejected"))
    assert (await picker.samples())["shunter_picker_config_last_reload_successful",] == 0
    assert f"the configuration stays as it is: {picker.config}: $.plugins[0].type" in picker.text
    assert {worker["pid"] for worker in await picker.workers()} == before
    picker.configure("kv-cache-utilization-scorer")
    picker.signal(signal.SIGHUP)
    await eventually(lambda: reloaded("done"))
    workers = await picker.workers()
    assert {worker["pid"] for worker in workers}.isdisjoint(before)
    assert all(worker["ready"] and worker["restarts"] == {"relieved": 1} for worker in workers)
    assert "kv-cache" in (await picker.get("/debug/config"))[1]
    assert all(is_gone(pid) for pid in before)


async def test_a_new_configuration_is_tried_on_what_was_decided_last(run_picker, ask_pick, eventually, tmp_path):
    picker = await run_picker("--reload-max-change=0.5")
    assert (await picker.get("/debug/trial"))[1] == "null"
    for worker in await picker.workers():
        await ask_pick(worker["address"])
        await ask_pick(worker["address"])
    before = (await picker.get("/debug/config"))[1]
    lines = (await picker.get("/debug/precedents"))[1]
    (tmp_path / "decisions.ndjson").write_text(lines)
    assert len(lines.splitlines()) == 4
    picker.configure("label-selector-filter", "  parameters: {matchLabels: {gpu: none}}\n")
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
    picker.configure("kv-cache-utilization-scorer")
    picker.signal(signal.SIGHUP)
    await eventually(lambda: reloaded("done"))
    assert "dry run: 0 % of 4 picks would change" in picker.text


async def test_a_plugin_that_breaks_whoever_reads_it_leaves_the_configuration_and_the_supervisor(
    tmp_path, register_plugin, caplog
):
    class Sly(Plugin, frozen=True):
        """Breaks when it is asked what it needs."""

        @property
        def needs(self):
            raise RuntimeError("not today")

    register_plugin("sly-scorer", Kind.SCORER)(Sly)
    sly = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins: [{type: sly-scorer}]\n"
    texts = iter([config.DEFAULT, sly])
    supervisor = Supervisor(
        Settings(worker=WorkerSettings(snapshot=tmp_path), workers=1, runtime=tmp_path), lambda: next(texts)
    )
    assert [await supervisor._reload(), await supervisor._reload()] == ["done", "rejected"]
    assert supervisor._configuration == config.DEFAULT
    assert "the configuration stays as it is: a plugin that it names has raised" in caplog.text
    assert "not today" in caplog.text


async def test_a_plugin_that_cannot_be_started_is_refused_before_anybody_is_relieved(tmp_path, register_plugin, caplog):
    class Stillborn(Plugin, frozen=True):
        """Cannot start."""

        def start(self, setting):
            raise ValueError("not today")

    register_plugin("stillborn-scorer", Kind.SCORER)(Stillborn)
    stillborn = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins: [{type: stillborn-scorer}]\n"
    settings = Settings(worker=WorkerSettings(snapshot=tmp_path), workers=1, runtime=tmp_path, config_file=tmp_path / "c")
    supervisor = Supervisor(settings, lambda: stillborn)
    with pytest.raises(ConfigError, match=re.escape(f"{tmp_path}/c: the plugin 'stillborn-scorer' raised ValueError")):
        await supervisor.start()
    assert await supervisor._reload() == "rejected"
    assert "the configuration stays as it is" in caplog.text


async def test_what_cannot_be_tried_is_said_and_does_not_end_the_supervisor(tmp_path, monkeypatch, caplog):
    settings = Settings(worker=WorkerSettings(snapshot=tmp_path), workers=1, runtime=tmp_path)
    texts = iter([config.DEFAULT, config.DEFAULT.replace("plugins:", "plugins: ")])
    supervisor = Supervisor(settings, lambda: next(texts))

    async def precedents(*_):
        return [b"no line of ours"]

    monkeypatch.setattr(supervisor, "precedents", precedents)
    assert [await supervisor._reload(), await supervisor._reload()] == ["done", "done"]
    assert "cannot be tried on what was decided last: PrecedentError: line 1" in caplog.text
    assert supervisor.trial() is None


async def test_of_a_reload_that_fails_halfway_nothing_is_left(run_picker, ask_pick, eventually, tmp_path):
    picker = await run_picker(f"--host=unix:{tmp_path}/p")
    before = (await picker.get("/debug/config"))[1]
    (tmp_path / "p.1.new").mkdir()  # where the second worker's successor would listen
    picker.configure("kv-cache-utilization-scorer")
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


async def test_a_changed_file_is_a_reload_if_it_is_watched(run_picker, eventually):
    picker = await run_picker("--watch-config", "--workers=1")
    picker.configure("kv-cache-scorer")

    async def reloaded():
        reloads = await picker.samples()
        return reloads.get(("shunter_picker_config_reloads_total", "done"))  # twice, if it was seen half written

    await eventually(reloaded)
    assert "configuration: $.plugins[0].type: 'kv-cache-scorer' is deprecated; it is called kv-cache-util" in picker.text
    picker.config.unlink()

    async def rejected():
        return (await picker.samples()).get(("shunter_picker_config_reloads_total", "rejected"))

    await eventually(rejected)


async def test_a_hang_up_that_reaches_every_process_is_a_reload_and_ends_nobody_else(run_picker, eventually):
    picker = await run_picker()
    os.killpg(picker.process.pid, signal.SIGHUP)

    async def reloaded():
        return (await picker.samples()).get(("shunter_picker_config_reloads_total", "done")) == 1

    await eventually(reloaded)
    assert [worker["restarts"] for worker in await picker.workers()] == [{"relieved": 1}] * 2


async def test_sockets_by_name_have_a_number_each_and_survive_a_reload(run_picker, tmp_path, ask_pick, eventually):
    picker = await run_picker(f"--host=unix:{tmp_path}/p", "--socket-mode=0660")
    addresses = [f"unix:{tmp_path}/p.{number}" for number in range(2)]
    assert [worker["address"] for worker in await picker.workers()] == addresses
    picker.signal(signal.SIGHUP)

    async def reloaded():
        return (await picker.samples()).get(("shunter_picker_config_reloads_total", "done")) == 1

    await eventually(reloaded)
    for address in addresses:
        await ask_pick(address)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.glob("p.*")} == {0o660}


CONFIG_MAP = """\
kind: ConfigMap
metadata: {name: a, labels: {inference.networking.k8s.io/bbr-managed: "true"}}
data: {baseModel: llama, adapters: "[%s]"}
"""


def test_a_body_router_says_so_if_its_file_has_no_base_model(tmp_path, caplog):
    worker = WorkerSettings(snapshot=tmp_path, role="body-router")
    supervisor = Supervisor(Settings(worker=worker, workers=1, runtime=tmp_path), str)
    base = "kind: ConfigMap\nmetadata: {name: a, labels: {inference.networking.k8s.io/bbr-managed: %s}}\ndata: {baseModel: b}\n"
    for text, said in (("", False), (base % "'true'", False), (base % "'false'", True), ("kind: Pod", True)):
        caplog.clear()
        assert supervisor._validated(text) == text
        assert ("no base model is known" in caplog.text) is said


async def test_a_body_router_takes_new_base_models_with_a_reload(run_picker, ask_pick, eventually, tmp_path):
    (tmp_path / "config.yaml").write_text(CONFIG_MAP % "m")
    picker = await run_picker("--role=body-router", "--workers=1", f"--host=unix:{tmp_path}/p")

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


async def test_service_levels_are_reloaded_and_a_mistake_in_them_changes_nothing(run_picker, tmp_path, eventually):
    levels = tmp_path / "levels.yaml"
    levels.write_text("serviceLevels: [{name: chat, target: .9, e2e: 30s}]")
    picker = await run_picker(f"--service-levels={levels}")
    key = ("shunter_picker_service_level_threshold_seconds", "chat", "e2e")
    assert (await picker.samples())[key] == 30

    async def reloaded(result):
        return (await picker.samples()).get(("shunter_picker_config_reloads_total", result)) == 1

    levels.write_text("serviceLevels: [{name: chat, target: .9, e2e: soon}]")
    picker.signal(signal.SIGHUP)
    await eventually(lambda: reloaded("rejected"))
    assert f"{levels}: $.serviceLevels[0].e2e: 'soon' is not a duration such as 200ms or 1m30s" in picker.text
    assert (await picker.samples())[key] == 30
    levels.write_text("serviceLevels: [{name: chat, target: .9, e2e: 20s}]")
    picker.signal(signal.SIGHUP)
    await eventually(lambda: reloaded("done"))
    assert (await picker.samples())[key] == 20
