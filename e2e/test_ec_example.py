"""Two real vLLM servers, one of which encodes pictures for the other, behind the sidecar.

Runs where ``SHUNTER_VLLM`` names the directory that ``hack/vllm/install`` has filled.
"""

import base64
import contextlib
import json
import os
import secrets
import signal
import struct
import zlib
from pathlib import Path

import aiohttp
import pytest
from hack.vllm.serving import VLLM, ready, vllm

from shunter.lab.shell.sidecar import Sidecar
from shunter.stack.shell import ports

SERVE = (
    *("--load-format", "dummy", "--max-model-len", "1024", "--dtype", "float32", "--enforce-eager"),
    *("--block-size", "32", "--num-gpu-blocks-override", "128", "--max-num-seqs", "4", "--max-num-batched-tokens", "1024"),
)
SIZE = 56
SIGNATURE = b"\x89PNG\r\n\x1a\n"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not Path(VLLM, "pictures").is_dir() or not VLLM, reason="SHUNTER_VLLM names no directory with a model that sees"
    ),
]


def server(port, log, role, storage):
    settings = {"shared_storage_path": str(storage)}
    transfer = {"ec_connector": "ECExampleConnector", "ec_role": role, "ec_connector_extra_config": settings}
    return vllm("pictures", port, log, *SERVE, "--ec-transfer-config", json.dumps(transfer), VLLM_LOGGING_LEVEL="DEBUG")


def png():
    """A PNG that nobody has seen (RFC 2083: length, type, content and checksum of each chunk), in Base64."""
    rows = b"".join(b"\0" + secrets.token_bytes(3 * SIZE) for _ in range(SIZE))
    chunks = {b"IHDR": struct.pack(">IIBBBBB", SIZE, SIZE, 8, 2, 0, 0, 0), b"IDAT": zlib.compress(rows), b"IEND": b""}
    framed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks.items()
    )
    return base64.b64encode(b"".join([SIGNATURE, *framed])).decode()


def picture():
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png()}"}}


def asks():
    """A question with a picture by each API that has some, and one with what a tool has shown by two of them."""
    source = {"type": "base64", "media_type": "image/png"}
    user, words = {"role": "user"}, {"type": "text", "text": "What is it?"}
    yield "/v1/messages", {"messages": [user | {"content": [words, {"type": "image", "source": source | {"data": png()}}]}]}
    result = {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "image", "source": source | {"data": png()}}]}
    yield "/v1/messages", {"messages": [user | {"content": [result]}]}
    shown = {"type": "input_image", "image_url": f"data:image/png;base64,{png()}"}
    yield "/v1/responses", {"input": [user | {"content": [{"type": "input_text", "text": "What is it?"}, shown]}]}
    shown = {"type": "input_image", "detail": "auto", "image_url": f"data:image/png;base64,{png()}"}
    yield "/v1/responses", {"input": [{"type": "function_call_output", "call_id": "a", "output": [shown]}]}


async def look(session, sidecar, encoder, *pictures):
    body = {"messages": [{"role": "user", "content": [*pictures]}], "max_tokens": 4}
    return (await ask(session, sidecar, encoder, "/v1/chat/completions", body))["usage"]


async def ask(session, sidecar, encoder, path, body):
    body = {"model": "tiny"} | body
    async with session.post(sidecar.url + path, json=body, headers={"x-encoder-hosts-ports": encoder}) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


def encodings(sidecar):
    samples = [each for family in sidecar.registry.collect() for each in family.samples]
    return {each.labels["outcome"]: each.value for each in samples if each.name == "shunter_sidecar_encodings_total"}


async def test_vllm_sees_what_another_vllm_has_encoded(tmp_path):
    with contextlib.ExitStack() as held:
        free = list(ports.claim(dict.fromkeys("ab", 0), held).values())
    logs, storage = [tmp_path / "encode.log", tmp_path / "decode.log"], tmp_path / "encoded"
    async with (
        server(free[0], logs[0], "ec_producer", storage) as encode,
        server(free[1], logs[1], "ec_consumer", storage) as decode,
        Sidecar(free[1], encoder_connector="ec-example", prefill_timeout_s=60) as sidecar,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as session,
    ):
        await ready(session, free[0], encode, logs[0])
        await ready(session, free[1], decode, logs[1])
        encoder = f"127.0.0.1:{free[0]}"

        one, two = picture(), picture()
        usage = await look(session, sidecar, encoder, one, two)
        assert usage["prompt_tokens"] > 2 * 16
        assert encodings(sidecar) == {"encoded": 2}
        encoded = {each.parent.name for each in storage.glob("*/encoder_cache.safetensors")}
        loaded = {name for name in encoded if f"Success load encoder cache for hash {name}" in logs[1].read_text()}
        assert (len(encoded), loaded) == (2, encoded)

        for number, (path, body) in enumerate(asks(), start=3):
            limit = {"max_output_tokens": 4} if path == "/v1/responses" else {"max_tokens": 4}
            await ask(session, sidecar, encoder, path, body | limit)
            assert encodings(sidecar) == {"encoded": number}
            encoded = {each.parent.name for each in storage.glob("*/encoder_cache.safetensors")}
            loaded = {name for name in encoded if f"Success load encoder cache for hash {name}" in logs[1].read_text()}
            assert (len(encoded), loaded) == (number, encoded), (path, body)

        # Without the encoder whoever decodes sees by itself.
        os.killpg(encode.pid, signal.SIGKILL)
        await encode.wait()
        assert (await look(session, sidecar, encoder, picture()))["completion_tokens"] == 4
        assert encodings(sidecar) == {"encoded": number, "failed": 1}
