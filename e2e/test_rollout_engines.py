"""A new adapter takes over on real vLLM and SGLang servers, with random adapters, behind a real Envoy and under traffic.

Triton has no adapters to load; what it loads are models of its repository.

``make rollout-engines`` runs it; engines are those of ``make conformance-engines``, or of hack/vllm/install and its like, in
$SHUNTER_TOOLS_DIR/engines.
"""

import asyncio
import json
import os
import sys
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from shunter.conformance.shell.launching.process import Process
from shunter.conformance.shell.launching.recipes import LAUNCHERS
from shunter.stack.testing import running_stack

ENGINES = Path(os.environ.get("SHUNTER_TOOLS_DIR", Path.home() / ".cache" / "shunter" / "tools")) / "engines"
# SGLang asks for an adapter by its base model's name, too; the bare name gets the base model's answer.
SELECTORS = {"vllm": "{adapter}", "sglang": "{base}:{adapter}"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("SHUNTER_REAL_ENGINES"), reason="minutes of real engines: make rollout-engines"),
]


def started(kind, *arguments):
    """A server of this kind, with adapters beside it if it takes any."""
    python = ENGINES / kind / "bin" / "python"
    if not python.exists():
        pytest.skip(f"no {kind} in {ENGINES}: make conformance-engines installs it")
    return Process(kind, LAUNCHERS[kind], python=str(python), arguments=arguments)


@pytest.fixture(params=sorted(SELECTORS))
async def engine(request):
    """Yields a server's kind and what is known of it."""
    async with started(request.param) as served:
        yield request.param, served


def rule(target):
    rules = [{"matches": [{"model": {"value": "food-review"}}], "targets": [{"modelRewrite": target}]}]
    document = {
        "apiVersion": "llm-d.ai/v1alpha2",
        "kind": "InferenceModelRewrite",
        "metadata": {"name": "food-review"},
        "spec": {"poolRef": {"name": "engines"}, "rules": rules},
    }
    return msgspec.yaml.encode(document)


async def command(*arguments):
    process = await asyncio.create_subprocess_exec(
        *map(str, (sys.executable, "-m", "shunter.rollout", *arguments)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def test_one_adapter_takes_over_from_another(engine, connect, tmp_path):
    kind, served = engine
    old, new, *_ = served.means.adapters
    as_asked = {each.name: SELECTORS[kind].format(base=served.model, adapter=each.name) for each in (old, new)}
    running = running_stack("--backend", served.url, "--dialect", kind)
    stack = await asyncio.to_thread(running.__enter__)
    try:
        config = {"vLLMLoRAConfig": {"ensureExist": {"models": [{"id": old.name, "source": old.path}]}}}
        (tmp_path / "adapters.yaml").write_text(json.dumps(config))
        sync = ("sync", "--config", tmp_path / "adapters.yaml", "--snapshot", stack.directory, "--once")
        assert await command(*sync) == (0, f"{served.url}: {old.name} ready\n")
        file = stack.directory / "cluster" / "food-review.yaml"
        file.write_bytes(rule(as_asked[old.name]))
        sides = {
            key: {"model": as_asked[each.name], "adapter": each.name, "source": each.path}
            for key, each in (("from", old), ("to", new))
        }
        rollout = {
            "kind": "Rollout",
            "name": "food-review",
            "model": "food-review",
            **sides,
            "pool": "engines",
            "traffic": {"rewriteFile": str(file)},
            "pickers": [f"http://127.0.0.1:{stack.state.plan.ports.admin}"],
            "steps": [10, 50, 100],
            "pause": "2s",
            "analysis": {"minRequests": 10, "latency": None},
        }
        (tmp_path / "rollout.yaml").write_text(json.dumps(rollout))
        client, answers, texts, ending = connect(stack), Counter(), {}, asyncio.Event()
        async with asyncio.timeout(60):
            while (await client.chat("soup", model="food-review")).status != 200:
                pass

        async def ask():
            while not ending.is_set():
                reply = await client.chat("soup", model="food-review", temperature=0)
                answers[reply.status] += 1
                texts.setdefault(reply.text, len(texts))

        asking = [asyncio.create_task(ask()) for _ in range(2)]
        code, output = await command("start", "-f", tmp_path / "rollout.yaml", "--state", tmp_path / "state")
        ending.set()
        await asyncio.gather(*asking)
        print(output, answers)
        assert code == 0, output
        assert [*answers] == [200], answers
        assert len(texts) == 2, "each adapter has its own answer, and nobody had the base model's"
        assert (await client.chat("soup", model="food-review", temperature=0)).text == max(texts, key=texts.get)
        assert await command(*sync, "--dry-run") == (
            1,
            f"{served.url}: {old.name} missing\n{served.url}: {new.name} unknown\n",
        )
    finally:
        await asyncio.to_thread(running.__exit__, None, None, None)


async def test_triton_loads_and_unloads_models_of_its_repository(tmp_path):
    async with started("triton", "--model-control-mode=explicit", "--load-model=*") as served:
        for wanted, unwanted, expected in (
            ([], [served.model], f"{served.url}: {served.model} absent\n"),
            ([served.model], [], f"{served.url}: {served.model} ready\n"),
        ):
            config = {
                "ensureExist": {"models": [{"id": each, "source": "its repository"} for each in wanted]},
                "ensureNotExist": {"models": [{"id": each} for each in unwanted]},
            }
            (tmp_path / "adapters.yaml").write_text(json.dumps({"vLLMLoRAConfig": config}))
            sync = (
                "sync",
                "--config",
                tmp_path / "adapters.yaml",
                "--server",
                served.url,
                "--engine",
                "triton-tensorrt-llm",
                "--once",
            )
            assert await command(*sync) == (0, expected)
