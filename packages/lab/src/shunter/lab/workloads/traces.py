"""Traces of real traffic, line by line into arrivals: Mooncake's, Azure's, Envoy's access log as Shunter configures it, ours.

Each reader is a generator over lines: nothing is held but the line at hand. A line that is not what it should be ends the
import with its number. What a format does not tell is not invented: only Mooncake's (and ours) says which prompts begin alike;
from the others every prompt is new, and no cache helps with it. Who got no token is taken to have wanted one.

========  =======================================================================================================
mooncake  JSON lines: `timestamp` (ms), `input_length`, `output_length`, `hash_ids` (one for each 512 tokens)
azure     CSV of AzurePublicDataset's LLM inference traces: TIMESTAMP, ContextTokens, GeneratedTokens
access    JSON lines of Envoy's access log: `time`, `bytes_received`, `bytes_sent`; `prompt_tokens` and
          `completion_tokens` where somebody has added them, else estimated from bytes; only what was POSTed asks a model
lab       JSON lines as `shunter lab import` writes them: one arrival each
========  =======================================================================================================
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec

from shunter.lab.core.arrivals import Arrival, Segment
from shunter.lab.errors import TraceError

__all__ = ["FORMATS", "LONGEST_LINE_BYTES", "read"]

# A Mooncake line has an id for each 512 tokens: a context of a million tokens is 20 kB. Longer lines are no trace.
LONGEST_LINE_BYTES = 1 << 20

# More than any published trace has (Azure's weeks: 44 million over all files, some 20 million in one).
MOST_ARRIVALS = 50_000_000

# No model has a longer context, and a typing error in a trace should not become a simulation without end.
MOST_TOKENS = 10_000_000

# Nor does a trace last longer, or somebody think for longer: ten years. It is a digit too many.
LONGEST_S = 10 * 365 * 86_400.0

# What some editors and exports begin a text with.
BYTE_ORDER_MARK = b"\xef\xbb\xbf"

MOONCAKE_BLOCK_TOKENS = 512

# What estimates rest on: English text has about four bytes to a token, and an event of an OpenAI stream, which carries one
# token, has some 250 bytes.
BYTES_PER_PROMPT_TOKEN = 4
BYTES_PER_STREAMED_TOKEN = 250


class _Mooncake(msgspec.Struct):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int]


class _Access(msgspec.Struct):
    time: datetime
    method: str = "POST"
    bytes_received: int | None = None
    bytes_sent: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


def read(name: str, lines: Iterable[bytes]) -> Iterator[Arrival]:
    """Yield the arrivals of a trace in the format of that name; the first one comes at 0. Raises TraceError."""
    begin_s: float | None = None
    count = 0
    parse = FORMATS[name]()
    for number, line in enumerate(lines, 1):
        if number > MOST_ARRIVALS:
            raise TraceError(f"line {number}: a trace may have {MOST_ARRIVALS} lines; cut it")
        if len(line) > LONGEST_LINE_BYTES:
            raise TraceError(f"line {number}: {len(line)} bytes long; no trace has lines above {LONGEST_LINE_BYTES}")
        text = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
        if not text.strip():
            continue
        try:
            arrival = parse(text, number)
        except (ValueError, ArithmeticError, RecursionError) as error:
            raise TraceError(f"line {number}: not a line of {name}'s format: {error}") from error
        if arrival is None:
            continue
        tokens = sum(segment.tokens for segment in arrival.prompt)
        if not (0 < tokens <= MOST_TOKENS and 0 < arrival.output.tokens <= MOST_TOKENS):
            raise TraceError(
                f"line {number}: {tokens} prompt and {arrival.output.tokens} output tokens; 1 to {MOST_TOKENS} may be"
            )
        if begin_s is None:
            begin_s = arrival.at_s
        at_s = arrival.at_s - begin_s
        if not (abs(at_s) <= LONGEST_S and 0 <= arrival.think_s <= LONGEST_S):
            raise TraceError(
                f"line {number}: {at_s:g} s after the first line, {arrival.think_s:g} s of thinking; no trace is so"
            )
        if arrival.after is not None and not 0 <= arrival.after < count:
            raise TraceError(f"line {number}: it comes after arrival {arrival.after}, and {count} are before it, from 0 on")
        count += 1
        yield msgspec.structs.replace(arrival, at_s=at_s)
    if begin_s is None:
        raise TraceError("the trace is empty")


def _mooncake() -> Callable[[bytes, int], Arrival]:
    decode = msgspec.json.Decoder(_Mooncake).decode

    def parse(line: bytes, number: int) -> Arrival:
        row = decode(line)
        whole, rest = divmod(row.input_length, MOONCAKE_BLOCK_TOKENS)
        sizes = [MOONCAKE_BLOCK_TOKENS] * whole + [rest] * (rest > 0)
        if len(sizes) != len(row.hash_ids):
            raise ValueError(f"{len(row.hash_ids)} hash_ids for {row.input_length} tokens; {len(sizes)} are needed")
        # The same id at another length is another segment: equal segments have equal tokens.
        prompt = tuple(
            Segment(identity * MOONCAKE_BLOCK_TOKENS + size % MOONCAKE_BLOCK_TOKENS, size)
            for identity, size in zip(row.hash_ids, sizes, strict=True)
        )
        # Answers have no ids in the trace; as part of a later prompt they have others.
        return Arrival(at_s=row.timestamp / 1000, prompt=prompt, output=Segment(-number, row.output_length or 1))

    return parse


def _azure() -> Callable[[bytes, int], Arrival | None]:
    def parse(line: bytes, number: int) -> Arrival | None:
        moment, prompt, output = line.decode().strip().split(",")
        if number == 1 and moment.upper() == "TIMESTAMP":
            return None
        return _new(number, _seconds(datetime.fromisoformat(moment)), int(prompt), int(output) or 1)

    return parse


def _access() -> Callable[[bytes, int], Arrival | None]:
    decode = msgspec.json.Decoder(_Access).decode

    def parse(line: bytes, number: int) -> Arrival | None:
        row = decode(line)
        if row.method != "POST":
            return None
        prompt, output = row.prompt_tokens, row.completion_tokens
        if prompt is None:
            prompt = (row.bytes_received or 0) // BYTES_PER_PROMPT_TOKEN
        if output is None:
            output = (row.bytes_sent or 0) // BYTES_PER_STREAMED_TOKEN
        return _new(number, _seconds(row.time), max(1, prompt), max(1, output))

    return parse


def _lab() -> Callable[[bytes, int], Arrival]:
    decode = msgspec.json.Decoder(Arrival).decode
    return lambda line, _: decode(line)


FORMATS: dict[str, Callable[[], Callable[[bytes, int], Any]]] = {
    "mooncake": _mooncake,
    "azure": _azure,
    "access": _access,
    "lab": _lab,
}


def _new(number: int, at_s: float, prompt: int, output: int) -> Arrival:
    """A request whose prompt nobody else has."""
    return Arrival(at_s=at_s, prompt=(Segment(2 * number, prompt),), output=Segment(2 * number + 1, output))


def _seconds(moment: datetime) -> float:
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
