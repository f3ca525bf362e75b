"""`shunter-lab` as a process: what it prints, how it ends, how it fails."""

import asyncio
import random
import re
import signal
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from shunter.lab.cli import DIALECTS, main
from shunter.lab.core.arrivals import Arrival, Segment
from shunter.lab.core.fleet import Fleet
from shunter.lab.core.judges import JudgeChooser
from shunter.lab.core.params import EngineParams
from shunter.lab.faults import FAULTS
from shunter.picker import config
from shunter.picker.core.precedents import precedent, write
from shunter.snapshot import Health, LoadRow


@pytest.fixture
async def serve():
    """Start `serve` with these arguments; gives the process and the URL it printed."""
    started = []

    async def start(*arguments):
        command = (sys.executable, "-m", "shunter.lab", "serve", "--port", "0", *arguments)
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        started.append(process)
        async with asyncio.timeout(30):
            line = (await process.stdout.readline()).decode()
        return process, line, re.search(r"http://\S+?(?=,|\s)", line)[0]

    yield start
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_it_says_where_it_listens_and_ends_on_sigterm(serve, http):
    process, line, url = await serve("--model", "m", "--model", "alias", "--lora", "a", "--break", "sse-no-done")
    assert re.fullmatch(r"lab-(\d+) serves m, alias on http://127\.0\.0\.1:\1, broken: sse-no-done\n", line)
    async with http.get(f"{url}/health") as response:
        assert response.status == 200
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(30):
        assert await process.wait() == 0


async def test_the_shutdown_timeout_lets_running_requests_finish(serve, http, until):
    process, _, url = await serve("--shutdown-timeout", "30")
    body = {"prompt": "x", "max_tokens": 70, "ignore_eos": True}  # two seconds, in which a busy machine sees it run
    asking = asyncio.ensure_future(http.post(f"{url}/v1/completions", json=body))

    async def running():
        async with http.get(f"{url}/load") as response:
            return (await response.json())["server_load"] == 1

    await until(running)
    process.send_signal(signal.SIGTERM)
    answer = await (await asking).json()
    assert (answer["choices"][0]["finish_reason"], answer["usage"]["completion_tokens"]) == ("length", 70)
    async with asyncio.timeout(30):
        assert await process.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--break", "kv-above"], "fault 'kv-above' does not exist; near: kv-above-one"),
        (["--max-num-seqs", "0"], "max_num_seqs must be at least 1, got 0"),
        (["--num-blocks", "4", "--max-model-len", "100"], "raise num_blocks or lower max_model_len"),
        (["--host", "not a host"], "--host is an address of this machine"),
        (["--host", "192.0.2.1"], "--host is an address of this machine"),
        (["--lora", "a,b"], "LoRA adapter 'a,b'"),
        (["--host", ""], "host is empty"),
        (["--shutdown-timeout", "nan"], "nan is no number of seconds"),
        (["--shutdown-timeout", "inf"], "inf is no number of seconds"),
        (["--no-such-option"], "No such option"),
    ],
)
def test_bad_arguments_exit_2_with_a_reason(arguments, message):
    result = CliRunner().invoke(main, ["serve", *arguments])
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


async def test_a_taken_port_exits_2_with_its_number(serve):
    _, _, url = await serve()
    port = url.rpartition(":")[2]
    command = (sys.executable, "-m", "shunter.lab", "serve", "--port", port)
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    async with asyncio.timeout(30):
        _, errors = await process.communicate()
    assert process.returncode == 2
    assert f"127.0.0.1:{port}" in errors.decode()
    assert "--port" in errors.decode()


def test_the_help_tells_the_engine_s_defaults():
    text = " ".join(CliRunner().invoke(main, ["serve", "--help"]).output.split())
    for name in ("max_num_seqs", "max_num_batched_tokens", "num_blocks", "block_size", "max_loras"):
        option = f"--{name.replace('_', '-')} INTEGER"
        explained = text.partition(option)[2].partition(" --")[0]
        assert f"[default: {getattr(EngineParams(), name)}]" in explained


async def test_a_dialect_says_where_its_metrics_are_and_a_crash_leaves_at_once(serve, http):
    process, line, url = await serve("--dialect", "triton-tensorrt-llm", "--metrics-port", "0", "--admin")
    metrics_url = re.search(r"metrics at (\S+)", line)[1]
    async with http.get(metrics_url) as response:
        assert "nv_trt_llm_request_metrics" in await response.text()
    async with http.put(f"{url}/admin/faults", json=["crash"]) as response:
        assert response.status == 200
    with pytest.raises(OSError):
        await http.get(metrics_url)
    async with asyncio.timeout(30):
        assert await process.wait() == 70


def test_the_dialects_are_listed():
    lines = CliRunner().invoke(main, ["dialects"]).output.splitlines()
    assert [line.split()[0] for line in lines] == list(DIALECTS)
    assert [line.split()[0] for line in lines if "from its source" in line] == ["trtllm-serve", "tgi", "jetstream"]


def test_the_faults_are_listed():
    output = CliRunner().invoke(main, ["faults"]).output
    assert [line.split()[0] for line in output.splitlines()] == list(FAULTS)


def test_policies_are_compared_and_reported(tmp_path):
    few = [
        "--workload",
        "no-reuse",
        "--policy",
        "random",
        "--policy",
        "shunter",
        "--qps",
        "20",
        "--seeds",
        "1",
        "--quick",
        "--jobs",
        "1",
    ]
    result = CliRunner().invoke(main, ["compare", *few, "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "no-reuse at 20 requests a second, 1 seed" in result.output
    assert f"`shunter lab compare {' '.join(few[:-2])}`" in (tmp_path / "compare.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"compare.json", "compare.html", "compare.md"}


def test_a_report_that_cannot_be_drawn_is_refused_before_anything_is_simulated(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = CliRunner().invoke(main, ["compare", "-o", str(tmp_path / "report")])
    assert (result.exit_code, result.output) == (
        2,
        "shunter lab compare: the report needs matplotlib; install shunter-lab[report]\n",
    )


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ("--workload b2b-sas", "did you mean b2b-saas"),
        ("--policy shuntr", "did you mean shunter"),
        ("--policy nowhere.yaml", "No such file"),
        ("--qps nan", "no rate"),
        ("--workload chat --policy random --qps 9 -o /dev/null", "/dev/null"),
    ],
)
def test_what_cannot_be_compared_is_named(arguments, what):
    result = CliRunner().invoke(main, ["compare", *arguments.split()])
    assert result.exit_code == 2
    assert what in result.output


def test_a_configuration_that_cannot_be_used_is_named_before_anything_is_simulated(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins: [{type: queue-scorrer}]\n")
    result = CliRunner().invoke(main, ["compare", "--workload", "b2b-saas", "--policy", str(path)])
    assert result.exit_code == 2
    assert result.output.startswith(f"shunter lab compare: {path}: $.plugins[0].type: no plugin has the type 'queue-scorrer'")


def test_a_trace_becomes_a_workload(tmp_path):
    source, target = tmp_path / "azure.csv", tmp_path / "mine.ndjson"
    source.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,480,10\n2023-11-16 18:17:04,30,8\n")
    result = CliRunner().invoke(main, ["import", "azure", str(source), "-o", str(target)])
    assert result.exit_code == 0, result.output
    few = ["--policy", "round-robin", "--qps", "1", "--seeds", "1", "--jobs", "1"]
    assert "mine at 1 requests a second" in CliRunner().invoke(main, ["compare", "--workload", str(target), *few]).output
    source.write_text("yesterday,1,2\n")
    result = CliRunner().invoke(main, ["import", "azure", str(source)])
    assert result.exit_code == 2
    assert "azure.csv: line 1" in result.output


def test_workloads_and_policies_are_listed():
    listed = CliRunner().invoke(main, ["workloads"]).output
    for name in ("b2b-saas", "unseen-N", "shunter", "clairvoyant", "valve"):
        assert f"  {name} " in listed


def children_of(pid):
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_a_comparison_that_is_stopped_leaves_nobody_behind(how, until):
    command = (sys.executable, "-m", "shunter.lab", "compare", "--workload", "chat", "--qps", "20", "--jobs", "2")
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        # The resource tracker is the third one.
        workers = await until(lambda: len(found := children_of(process.pid)) == 3 and found)
        process.send_signal(how)
        async with asyncio.timeout(30):
            assert await process.wait() != 0
        await until(lambda: not any(map(is_alive, workers)))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


@pytest.fixture
def decisions(tmp_path):
    """A file of recorded decisions: twenty, made by the picker itself for a simulated fleet."""
    chooser = JudgeChooser(config.load().policy, Fleet(engines=(EngineParams(),) * 3), random.Random(1), keep=20)
    chooser.scraped([LoadRow(slot=at, incarnation=1, health=Health.FRESH, waiting=float(at)) for at in range(3)], 0.0)
    for index in range(20):
        chooser.choose(Arrival(prompt=(Segment(index % 4, 400),), output=Segment(99, 8)), index, index / 10)
    path = tmp_path / "decisions.ndjson"
    path.write_bytes(write([precedent(entry) for entry in chooser.judge.decisions.latest()]))
    return path


def test_recorded_decisions_are_decided_anew_by_each_policy(decisions, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n- type: queue-scorer\n")
    result = CliRunner().invoke(main, ["replay", str(decisions), "--policy", "shunter", "--policy", str(other)])
    assert result.exit_code == 0, result.output
    assert re.search(r"^shunter:\n  \d+ % of 20 picks would change", result.output, re.MULTILINE)
    assert re.search(rf"^{other}:\n  \d+ % of 20 picks would change", result.output, re.MULTILINE)
    assert "in flight, then" in result.output


def test_a_bad_line_and_a_policy_without_configuration_are_named(decisions):
    with decisions.open("ab") as file:
        file.write(b"{\n")
    result = CliRunner().invoke(main, ["replay", str(decisions), "--policy", "shunter"])
    assert (result.exit_code, f"{decisions}: line 21: not a recorded decision" in result.output) == (2, True)
    result = CliRunner().invoke(main, ["replay", str(decisions), "--policy", "round-robin"])
    assert (result.exit_code, "policy 'round-robin' has no configuration" in result.output) == (2, True)
