"""Asks engines for the tokens of prompts, beside the requests and never in their way.

vLLM and SGLang answer ``POST /tokenize`` with what they would compute themselves: the chat template applied, special tokens
added. A prompt is asked for once, of the endpoint that was given the request. Whatever does not come (no such path, an error,
too late, too many at once) is left out: the choice goes by its guess.
"""

import asyncio
import logging
import time
from array import array
from collections.abc import Sequence

import aiohttp
import msgspec

from shunter.picker.core.precise import Precise, Want
from shunter.picker.core.request import Request
from shunter.picker.core.tables import Counters

__all__ = ["Tokeniser", "question"]

# Prompts that wait to be asked for. In a burst the newest are left out; most of them will come again.
MAX_WAITING = 256
MAX_WAITING_BYTES = 32 << 20
# Asked at the same time: an engine tokenises on the loop that also takes its requests.
AT_ONCE = 4
TIMEOUT_S = 5.0
# Longer prompts would keep an engine from its requests for a tenth of a second; they are left to the guess.
MAX_PROMPT_BYTES = 2 << 20
# Of an answer: the tokens of such a prompt, a digit or two to a byte.
MAX_ANSWER_BYTES = 16 << 20
# How long an endpoint that could not answer is not asked again for bodies of the kind.
PAUSE_S = 30.0

log = logging.getLogger(__name__)


class Answer(msgspec.Struct):
    """What engines say to ``/tokenize``; ``count`` and ``max_model_len`` stand beside it."""

    tokens: list[int]


Place = tuple[str, str]
"""An endpoint, and a path: SGLang tokenises text and may not know what to do with a chat."""

_answer = msgspec.json.Decoder(Answer)


def question(request: Request) -> bytes | None:
    """Return the body of the question for a request's prompt; None if there is none to be asked."""
    body, suffix = request.body, request.format.suffix if request.format else ""
    fields: dict[str, object] = {"model": request.target_model}
    if suffix == "/chat/completions":
        fields["messages"] = body.messages
        if body.tools:
            fields["tools"] = body.tools
    elif suffix == "/completions" and bytes(memoryview(body.prompt)[:1]) == b'"':
        fields["prompt"] = body.prompt
    else:
        return None
    return msgspec.json.encode(fields)


class Tokeniser:
    """Answers the wants of one Precise."""

    def __init__(self, precise: Precise, counters: Counters) -> None:
        """Ask nobody yet."""
        self._precise = precise
        self._counters = counters
        self._waiting: asyncio.Queue[Want] = asyncio.Queue(MAX_WAITING)
        self._waiting_bytes = 0
        self._asked: set[int] = set()  # keys that wait or are being asked
        self._paused_until_s: dict[Place, float] = {}

    def ask(self, want: Want) -> None:
        """Have a prompt tokenised when there is time; what cannot be is left out."""
        if want.key in self._asked:
            return
        size_bytes = len(want.request.prompt)
        too_many = self._waiting.full() or self._waiting_bytes + size_bytes > MAX_WAITING_BYTES
        if too_many or size_bytes > MAX_PROMPT_BYTES:
            self._counters.asked(known=False)
            return
        self._waiting_bytes += size_bytes
        self._asked.add(want.key)
        self._waiting.put_nowait(want)

    async def run(self) -> None:
        """Answer until cancelled."""
        self._precise.ask = self.ask
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(self._serve(session))
        finally:
            self._precise.ask = None

    async def _serve(self, session: aiohttp.ClientSession) -> None:
        while True:
            want = await self._waiting.get()
            self._waiting_bytes -= len(want.request.prompt)
            try:
                tokens = None if self._precise.knows(want) else await self._tokens(session, want)
                if tokens is not None:
                    self._precise.learn(want, tokens)
                    self._counters.asked(known=True)
            except (aiohttp.ClientError, TimeoutError, ValueError, OverflowError, RecursionError) as error:
                self._counters.asked(known=False)
                self._pause(_place(want), str(error) or type(error).__name__)
            finally:
                self._asked.discard(want.key)

    async def _tokens(self, session: aiohttp.ClientSession, want: Want) -> Sequence[int] | None:
        """Return a prompt's tokens; None if nobody is to be asked."""
        if want.request.token_ids:
            return array("I", want.request.prompt.tobytes())
        body = question(want.request)
        if body is None or self._paused_until_s.get(_place(want), 0.0) > time.monotonic():
            return None
        headers = {"content-type": "application/json"}
        async with session.post(
            f"http://{want.authority}/tokenize", data=body, headers=headers, allow_redirects=False
        ) as answer:
            if answer.status == 400:  # this prompt only: the engine has refused the request, too
                return None
            if answer.status != 200:
                raise ValueError(f"status {answer.status}")
            content = await answer.content.read(MAX_ANSWER_BYTES)
            while len(content) < MAX_ANSWER_BYTES and (more := await answer.content.read(MAX_ANSWER_BYTES)):
                content += more
            return _answer.decode(content).tokens

    def _pause(self, place: Place, reason: str) -> None:
        now_s = time.monotonic()
        self._paused_until_s = {each: until_s for each, until_s in self._paused_until_s.items() if until_s > now_s - PAUSE_S}
        if place not in self._paused_until_s:
            log.warning("%s: tokenises no bodies of %s (%s): they are matched by the guess", *place, reason)
        self._paused_until_s[place] = now_s + PAUSE_S


def _place(want: Want) -> Place:
    return want.authority, want.request.format.suffix if want.request.format else ""
