"""Clients that keep asking at a steady rate, whatever happens, and keep account of what they were denied.

Open loop: requests start by the clock whether earlier ones are done or not. A quarter are streams, half carry 20 KB. A request
has failed if it was not answered 200, or not completely, or not in time.
"""

import asyncio
import json
import time
from collections import Counter

import aiohttp
import msgspec
from hack.chaos.engines import EVENTS, MODEL

__all__ = ["Clients", "Toll"]

PATIENCE_S = 15.0
TICK_S = 0.002
STREAMED_EVERY = 4
BODIES_BYTES = (300, 20_000)
# Prompts that differ, so that a picker which sees prefixes has a reason to prefer one server to another.
SESSIONS = 17


class Toll(msgspec.Struct):
    """What clients saw of one trial; ``failed`` by kind."""

    requests: int = 0
    failed: Counter[str] = msgspec.field(default_factory=Counter)
    losses: list[tuple[float, str, str]] = []  # when (monotonic), which request, what kind
    heads_s: list[float] = []  # until the head of the answer was there

    @property
    def failures(self):
        return self.failed.total()


class Clients:
    """All clients of one gateway before ``hack.chaos.engines``."""

    def __init__(self, gateway, rate_per_s, patience_s=PATIENCE_S):
        self._url = f"{gateway}/v1/chat/completions"
        self._rate_per_s = rate_per_s
        self._patience = aiohttp.ClientTimeout(total=patience_s)
        self._bodies = [_body(number) for number in range(SESSIONS * STREAMED_EVERY)]

    async def ask_until(self, over, toll, prefix):
        """Ask until the event ``over``, and until all answers are there; request ids begin with ``prefix``."""
        asking = set()
        async with aiohttp.ClientSession(timeout=self._patience, connector=aiohttp.TCPConnector(limit=0)) as session:
            started = time.monotonic()
            while not over.is_set():
                while toll.requests < (time.monotonic() - started) * self._rate_per_s:
                    request = asyncio.create_task(self._ask(session, toll, toll.requests, prefix))
                    asking.add(request)
                    request.add_done_callback(asking.discard)
                    toll.requests += 1
                await asyncio.sleep(TICK_S)
            await asyncio.gather(*asking)

    async def _ask(self, session, toll, number, prefix):
        started = time.monotonic()
        headers = {"content-type": "application/json", "x-request-id": f"{prefix}{number}"}
        try:
            async with session.post(self._url, data=self._bodies[number % len(self._bodies)], headers=headers) as response:
                toll.heads_s.append(time.monotonic() - started)
                body = await response.read()
                trouble = _trouble(response, body)
        except TimeoutError:
            trouble = "timeout"
        except aiohttp.ClientPayloadError:
            trouble = "cut"
        except aiohttp.ClientError as error:
            trouble = type(error).__name__
        if trouble:
            toll.failed[trouble] += 1
            toll.losses.append((started, headers["x-request-id"], trouble))


def _body(number):
    prompt = chr(ord("a") + number % SESSIONS) * BODIES_BYTES[number // 2 % 2]
    body = {"model": MODEL, "messages": [{"role": "user", "content": prompt}]}
    if number % STREAMED_EVERY == 0:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(body).encode()


def _trouble(response, body):
    if response.status != 200:
        return f"status {response.status}"
    if response.content_type == "text/event-stream":
        complete = body.endswith(b"data: [DONE]\n\n") and body.count(b"data: ") == EVENTS
    else:
        complete = b'"usage"' in body
    return None if complete else "incomplete"
