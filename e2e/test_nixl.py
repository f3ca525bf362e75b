"""Two real vLLM servers that hand keys and values over by NIXL, behind the sidecar.

Runs where ``SHUNTER_VLLM`` names the directory that ``hack/vllm/install`` has filled.
"""

import contextlib
import json
import os
import signal
from pathlib import Path

import aiohttp
import pytest
from hack.vllm.serving import VLLM, metric, ready, vllm

from shunter.lab.shell.sidecar import Sidecar
from shunter.stack.shell import ports

TRANSFER = {"kv_connector": "NixlConnector", "kv_role": "kv_both", "kv_buffer_device": "cpu"}
SERVE = (
    *("--max-model-len", "2048", "--dtype", "float32", "--enforce-eager"),
    *("--block-size", "32", "--num-gpu-blocks-override", "256", "--max-num-seqs", "4", "--enable-prompt-tokens-details"),
    *("--kv-transfer-config", json.dumps(TRANSFER)),
)
ENVIRONMENT = {
    "VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1",
    "UCX_TLS": "tcp,sm,self",
    "UCX_NET_DEVICES": "lo",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not VLLM, reason="SHUNTER_VLLM names no directory of hack/vllm/install"),
]


def server(port, side_port, log):
    return vllm("tiny", port, log, *SERVE, **ENVIRONMENT, VLLM_NIXL_SIDE_CHANNEL_PORT=str(side_port))


async def complete(session, url, seed, prefiller=None, **more):
    """Return the answer to a prompt of 181 tokens that nobody else sends."""
    prompt = [10 + (at * 7 + seed) % 240 for at in range(181)]
    headers = {"x-prefiller-host-port": prefiller, "x-request-id": f"r{seed}"} if prefiller else {}
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 8, "temperature": 0, "ignore_eos": True} | more
    async with session.post(f"{url}/v1/completions", json=body, headers=headers) as answer:
        text = await answer.text()
        assert answer.status == 200, text
        return text


async def test_vllm_decodes_what_another_vllm_has_prefilled(tmp_path):
    with contextlib.ExitStack() as held:
        free = list(ports.claim(dict.fromkeys("abcd", 0), held).values())
    logs: list[Path] = [tmp_path / "prefill.log", tmp_path / "decode.log"]
    async with (
        server(free[0], free[2], logs[0]) as prefill,
        server(free[1], free[3], logs[1]) as decode,
        Sidecar(free[1], prefill_timeout_s=30) as sidecar,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session,
    ):
        await ready(session, free[0], prefill, logs[0])
        await ready(session, free[1], decode, logs[1])
        prefiller = f"127.0.0.1:{free[0]}"

        # What the decoder had to compute is nothing: it has fetched all tokens, and says the same as one server alone.
        divided = json.loads(await complete(session, sidecar.url, 1, prefiller))
        assert await metric(session, free[1], "vllm:external_prefix_cache_hits_total") == 181
        alone = json.loads(await complete(session, f"http://{prefiller}", 1))
        assert divided["choices"][0]["text"] == alone["choices"][0]["text"]
        assert divided["usage"]["prompt_tokens_details"]["cached_tokens"] == 0, "as the prefiller has it, not the decoder"

        stream = await complete(session, sidecar.url, 2, prefiller, stream=True, stream_options={"include_usage": True})
        assert stream.endswith("data: [DONE]\n\n")
        assert await metric(session, free[1], "vllm:external_prefix_cache_hits_total") == 2 * 181

        # Without the prefiller the decoder does everything itself.
        os.killpg(prefill.pid, signal.SIGKILL)
        await prefill.wait()
        assert json.loads(await complete(session, sidecar.url, 3, prefiller))["usage"]["completion_tokens"] == 8
        samples = next(iter(sidecar.registry.collect())).samples
        counts = {each.labels["outcome"]: each.value for each in samples if each.name.endswith("_total")}
        assert counts == {"disaggregated": 2, "fell_back": 1}
