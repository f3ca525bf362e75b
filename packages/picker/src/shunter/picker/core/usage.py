"""Token usage, read from a response as its bytes pass, whatever the dialect and however they are cut.

OpenAI (completions, chat, responses, embeddings), Anthropic, vLLM, SGLang and llama.cpp all report usage as an object
behind the key ``"usage"``: once near the end of a JSON body, or in one or several events of a stream. Inside a JSON string
that key cannot appear as such, because there its quotes are escaped. So no JSON is parsed but the small objects behind it:

* every byte is looked at once and nothing is kept but the beginning of an object that is not complete yet (at most
  ``MAX_USAGE_BYTES``); an embeddings response of 10 MB costs a search, not a copy;
* of several objects the later fields win, one by one: Anthropic reports the prompt in its first event and the output in
  its last, vLLM with ``continuous_usage_stats`` repeats the growing numbers in each chunk.
"""

import re
from typing import Annotated

import msgspec

__all__ = ["MAX_USAGE_BYTES", "NO_USAGE", "Usage", "UsageReader"]

# The largest real one (OpenAI, all details, pretty-printed) has about 600 bytes.
MAX_USAGE_BYTES = 4096

_KEY = b'"usage"'
_BRACE = re.compile(rb"[{}]")
# What nearly all objects are: whole, and no deeper than their details. Found so in one go.
_WHOLE = re.compile(rb'"usage"[ \t\r\n]{0,7}:[ \t\r\n]{0,7}(\{[^{}]*(?:\{[^{}]*\}[^{}]*)*\})')
_GAP = b" \t\r\n:"

Tokens = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class Usage(msgspec.Struct, frozen=True):
    """Tokens of one request; None was not reported."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None


NO_USAGE = Usage()


class _Details(msgspec.Struct):
    cached_tokens: Tokens | None = None


class _Reported(msgspec.Struct):
    """Every spelling of the fields: OpenAI's older and newer API, Anthropic's; rerank and score report a total alone."""

    prompt_tokens: Tokens | None = None
    completion_tokens: Tokens | None = None
    input_tokens: Tokens | None = None
    output_tokens: Tokens | None = None
    total_tokens: Tokens | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens_details: _Details | None = None
    cache_read_input_tokens: Tokens | None = None
    cache_creation_input_tokens: Tokens | None = None

    def read(self) -> Usage:
        prompt = self.prompt_tokens if self.prompt_tokens is not None else self.input_tokens
        cached = self.cache_read_input_tokens
        if prompt is not None:
            # Anthropic counts only what no cache served as input_tokens.
            prompt += (cached or 0) + (self.cache_creation_input_tokens or 0)
        details = self.prompt_tokens_details or self.input_tokens_details
        if details is not None and details.cached_tokens is not None:
            cached = details.cached_tokens
        completion = self.completion_tokens if self.completion_tokens is not None else self.output_tokens
        if prompt is None and completion is None:
            prompt = self.total_tokens
        return Usage(prompt, completion, cached)


# Not strict: some servers send numbers as strings.
_decoder = msgspec.json.Decoder(_Reported, strict=False)


class UsageReader:
    """Feed it a response piece by piece; ``usage`` is what was reported so far."""

    __slots__ = ("_depth", "_kept", "_scanned", "usage")

    def __init__(self) -> None:
        self.usage = NO_USAGE
        self._kept: bytes = b""  # the end of what was fed: a beginning of the key, or the key and an incomplete object
        self._depth: int = 0  # open braces in _kept
        self._scanned: int = 0  # bytes of _kept whose braces are counted

    def feed(self, data: bytes) -> None:
        """Look at the next piece."""
        data = self._kept + data if self._kept else data
        start = data.find(_KEY)
        while start >= 0:
            whole = None if self._depth else _WHOLE.match(data, start, start + MAX_USAGE_BYTES)
            if whole is not None:
                self._scanned = 0
                self._take(whole.group(1))
                start = data.find(_KEY, whole.end())
                continue
            end = self._end_of_object(data, start)
            if end is None and len(data) - start <= MAX_USAGE_BYTES:
                self._kept, self._scanned = data[start:], len(data) - start
                return
            self._depth = self._scanned = 0
            if end is None or end - start > MAX_USAGE_BYTES:
                end = start + len(_KEY)
            self._take(data[start + len(_KEY) : end])
            start = data.find(_KEY, end)
        # The end of the data may begin a key, which has no quote but at its ends.
        quote = data.rfind(b'"', 1 - len(_KEY))
        self._kept = data[quote:] if quote >= 0 and _KEY.startswith(data[quote:]) else b""

    def _end_of_object(self, data: bytes, start: int) -> int | None:
        """Return where the object behind the key at ``start`` ends; the key's end if none follows, None if cut off."""
        after = start + len(_KEY)
        if not self._depth:
            value = data[after : after + 16].lstrip(_GAP)
            if not value:
                return None if len(data) < after + 16 else after
            if not value.startswith(b"{"):
                return after
        for brace in _BRACE.finditer(data, max(after, start + self._scanned)):
            self._depth += 1 if brace.group() == b"{" else -1
            if self._depth == 0:
                return brace.end()
        return None

    def _take(self, text: bytes) -> None:
        text = text.lstrip(_GAP)
        if not text:
            return
        try:
            new = _decoder.decode(text).read()
        except (ValueError, RecursionError):  # ValueError: also of bytes that are not UTF-8
            return  # somebody else's "usage"; one of nothing but brackets is too deep for the decoder
        old = self.usage
        if old is NO_USAGE:
            self.usage = new
            return
        self.usage = Usage(
            old.prompt_tokens if new.prompt_tokens is None else new.prompt_tokens,
            old.completion_tokens if new.completion_tokens is None else new.completion_tokens,
            old.cached_tokens if new.cached_tokens is None else new.cached_tokens,
        )
