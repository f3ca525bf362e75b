"""Drive a running vLLM, and write down when every token came and what its metrics said meanwhile."""

import asyncio
import re
import time
from collections.abc import Callable, Iterable
from itertools import groupby

import aiohttp
import msgspec
from hack.calibration.recording import Answer, Look, Recording, Server
from hack.calibration.workload import Ask

__all__ = ["METRICS", "record"]

# Five looks a second see every state that lasts a few steps; a scrape costs the server's event loop a few milliseconds.
POLL_S = 0.2
METRICS = {
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
    "vllm:kv_cache_usage_perc": "kv_usage",
    "vllm:prefix_cache_queries_total": "queries",
    "vllm:prefix_cache_hits_total": "hits",
    "vllm:num_preemptions_total": "preemptions",
}
# A saturated server keeps the last request waiting for minutes.
LONGEST_S = 900


async def record(
    url: str, load: Callable[[Server], Iterable[Ask]], seats: int, batched_tokens: int, say: Callable[[str], None]
) -> Recording:
    """Ask a server for everything that the load has for it, each request at its time, each group after the one before.

    The server tells everything about itself but `seats` (--max-num-seqs) and `batched_tokens` (--max-num-batched-tokens).
    """
    limits = {"timeout": aiohttp.ClientTimeout(LONGEST_S), "connector": aiohttp.TCPConnector(limit=0)}
    async with aiohttp.ClientSession(url, raise_for_status=True, **limits) as session:
        server = await _server(session, seats, batched_tokens)
        recorder = _Recorder(session, server.model)
        watching = asyncio.create_task(recorder.watch())
        for group, asks in groupby(load(server), key=lambda ask: ask.group):
            await recorder.ask_all(asks)
            say(f"{recorder.now_s():6.1f} s  {len(recorder.answers)} answers  {group}")
        await asyncio.sleep(2 * POLL_S)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    return Recording(server, sorted(recorder.answers, key=lambda answer: answer.sent_s), recorder.looks)


async def _server(session: aiohttp.ClientSession, seats: int, batched_tokens: int) -> Server:
    async with session.get("/version") as response:
        version = (await response.json())["version"]
    async with session.get("/v1/models") as response:
        card = (await response.json())["data"][0]
    async with session.get("/metrics") as response:
        page = await response.text()
    config = dict(re.findall(r'(\w+)="([^"]*)"', next(line for line in page.splitlines() if "cache_config_info{" in line)))
    engine = {
        "max_num_seqs": seats,
        "max_num_batched_tokens": batched_tokens,
        "max_model_len": card["max_model_len"],
        "block_size": int(config["block_size"]),
        "num_blocks": int(config["num_gpu_blocks"]),
    }
    return Server(version, card["id"], engine)


class _Recorder:
    def __init__(self, session: aiohttp.ClientSession, model: str) -> None:
        self.answers: list[Answer] = []
        self.looks: list[Look] = []
        self._session = session
        self._model = model
        self._began_s = time.perf_counter()

    def now_s(self) -> float:
        return round(time.perf_counter() - self._began_s, 4)

    async def ask_all(self, asks: Iterable[Ask]) -> None:
        async with asyncio.TaskGroup() as group:
            for ask in asks:
                await asyncio.sleep(ask.at_s - self.now_s())
                group.create_task(self._ask(ask))

    async def _ask(self, ask: Ask) -> None:
        body = {
            "model": self._model,
            "prompt": ask.tokens(),
            "max_tokens": ask.output,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            # A token may add no text yet, and two may come in one chunk: the ids tell how many there are. Who does not know
            # the option is taken to send one chunk a token.
            "return_token_ids": True,
        }
        sent_s, cached = self.now_s(), 0
        tokens_s: list[float] = []
        async with self._session.post("/v1/completions", json=body) as response:
            async for line in response.content:
                if line.startswith(b"data: {"):
                    now_s, chunk = self.now_s(), msgspec.json.decode(line[6:])
                    ids = [choice.get("token_ids") for choice in chunk["choices"]]
                    tokens_s += [now_s] * sum(1 if found is None else len(found) for found in ids)
                    # Told with --enable-prompt-tokens-details, in the last chunk.
                    cached = ((chunk.get("usage") or {}).get("prompt_tokens_details") or {}).get("cached_tokens") or cached
        if len(tokens_s) != ask.output:
            raise RuntimeError(f"asked for {ask.output} tokens, got {len(tokens_s)}: {ask}")
        self.answers.append(Answer(ask, sent_s, tokens_s, cached))

    async def watch(self) -> None:
        while True:
            began_s = self.now_s()
            async with self._session.get("/metrics") as response:
                page = await response.text()
            at_s = self.now_s()
            lines = [(METRICS.get(line.partition("{")[0]), line.rpartition(" ")[2]) for line in page.splitlines()]
            values = {name: float(value) for name, value in lines if name}
            self.looks.append(Look(at_s, round(at_s - began_s, 4), values))
            await asyncio.sleep(POLL_S - (self.now_s() - began_s))
