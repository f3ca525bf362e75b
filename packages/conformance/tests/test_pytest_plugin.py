"""The exam inside somebody's pytest."""

import asyncio
import subprocess
import sys
from functools import partial

import pytest
from aiohttp import web

from shunter.lab.testing import lab_server


async def run(*words, cwd):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:asyncio", "-rA", "--no-header", *words]
    return await asyncio.to_thread(partial(subprocess.run, command, capture_output=True, text=True, cwd=cwd, timeout=120))


async def test_each_case_is_an_item_with_its_verdict(tmp_path):
    waivers = tmp_path / "waivers.yaml"
    waivers.write_text("waivers: [{id: ms.metrics.kv-range, reason: soon, until: 9999-01-01}]")
    async with lab_server(faults=["sse-no-done", "kv-above-one"], speed=100.0) as lab:
        some = [f"--shunter-select={each}" for each in ("ms.reachability.health", "ms.openai", "ms.metrics")]
        done = await run("--shunter-target", lab.url, "--shunter-waivers", str(waivers), *some, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "PASSED ::ms.reachability.health" in done.stdout
    assert "FAILED ::ms.openai.stream-framing - Actual     the last event is " in done.stdout
    assert "Expected   data: [DONE] as the last event" in done.stdout
    assert "XFAIL ::ms.metrics.kv-range - soon" in done.stdout
    assert "needs ms.openai.stream-framing (failed)" in done.stdout


async def test_a_part_of_the_exam_beside_tests_of_ones_own(tmp_path):
    (tmp_path / "test_own.py").write_text("def test_own(): pass\n")
    async with lab_server(speed=100.0) as lab:
        words = ["--shunter-target", lab.url, "--shunter-select", "ms.errors", "--shunter-level", "MUST"]
        done = await run("test_own.py", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout
    assert "8 passed" in done.stdout


async def test_a_server_behind_a_key_lets_it_in(tmp_path, serving):
    async def ask_for_key(request):
        known = request.headers.get("authorization") == "Bearer s3cr3t-s3cr3t"
        return web.json_response({"object": "list", "data": []}, status=200 if known else 401)

    words = ["--shunter-select", "ms.reachability.health", "--shunter-header", "Authorization: Bearer s3cr3t-s3cr3t"]
    async with serving(ask_for_key) as url:
        done = await run("--shunter-target", url, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--shunter-target", "http://h:1", "--shunter-select", "ms.error"), "did you mean ms.errors"),
        (("--shunter-target", "http://h:1", "--shunter-waivers", "gone.yaml"), "gone.yaml: No such file"),
        (("--shunter-target", "http://h:1", "--shunter-header", "key"), "want 'NAME: VALUE'"),
    ],
)
async def test_wrong_usage_is_told_before_anything_runs(tmp_path, words, message):
    done = await run(*words, cwd=tmp_path)
    assert done.returncode == 4
    assert message in done.stderr


async def test_without_a_target_nothing_is_added(tmp_path):
    assert "no tests ran" in (await run(cwd=tmp_path)).stdout
