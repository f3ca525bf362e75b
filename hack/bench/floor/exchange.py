"""The reference loop: the least that a prefix-aware pick in FULL_DUPLEX_STREAMED has to do, without a product around it.

Headers into a dictionary, JSON into typed fields, the prompt hashed in chained blocks of 256 bytes, the blocks looked up in a
dictionary of bit masks, every endpoint scored, the best named in a header and in metadata, the body given back, the blocks
remembered; of the response every chunk given back and the usage read. Nothing is validated, logged, counted or bounded but the
index.
"""

import random
from collections.abc import Callable, Sequence

import msgspec
import xxhash
from hack.bench.floor.messages import (
    REQUEST_BODY,
    REQUEST_HEADERS,
    RESPONSE_BODY,
    RESPONSE_HEADERS_REPLY,
    Choice,
    body_replies,
    body_reply,
    read_body,
    read_headers,
)

__all__ = ["Floor"]

BLOCK_BYTES = 256
INDEX_BLOCKS = 300_000
PREFIX_WEIGHT = 3.0
IN_FLIGHT_WEIGHT = 0.001


class Message(msgspec.Struct):
    role: str
    content: str


class Chat(msgspec.Struct):
    model: str
    messages: list[Message]
    stream: bool = False


class Usage(msgspec.Struct):
    total_tokens: int


class Answer(msgspec.Struct):
    usage: Usage | None = None


_read_chat = msgspec.json.Decoder(Chat).decode
_read_answer = msgspec.json.Decoder(Answer).decode
_digest = xxhash.xxh3_64_intdigest


class Floor:
    """A pool with loads that never change, an index of who has seen what, and who has how much to do."""

    def __init__(self, endpoints: Sequence[str]) -> None:
        dice = random.Random(7)
        self.choices = [Choice(endpoint.encode()) for endpoint in endpoints]
        self.base = [2 * dice.random() + 2 * dice.random() for _ in endpoints]  # queue and cache, scored beforehand
        self.in_flight = [0] * len(endpoints)
        self.index: dict[int, int] = {}
        self.everybody = (1 << len(endpoints)) - 1
        self.tokens = 0

    def open_call(self) -> Callable[[bytes], Sequence[bytes]]:
        return Exchange(self).receive

    def hash(self, model: str, prompt: bytes) -> list[int]:
        value = _digest(model.encode())
        hashes: list[int] = []
        for at in range(0, len(prompt) - BLOCK_BYTES + 1, BLOCK_BYTES):
            value = _digest(prompt[at : at + BLOCK_BYTES], value)
            hashes.append(value)
        return hashes

    def match(self, hashes: Sequence[int]) -> dict[int, int]:
        """Return for each endpoint how many of the first blocks it has."""
        depths: dict[int, int] = {}
        alive, known, depth = self.everybody, self.index.get, 0
        for value in hashes:
            left = alive & known(value, 0)
            if left != alive:
                _note(depths, alive & ~left, depth)
                alive = left
                if not alive:
                    return depths
            depth += 1
        _note(depths, alive, depth)
        return depths

    def pick(self, hashes: Sequence[int]) -> int:
        depths = self.match(hashes) if hashes else {}
        each = PREFIX_WEIGHT / (len(hashes) or 1)
        in_flight = self.in_flight
        best, chosen = -1e9, 0
        for at, score in enumerate(self.base):
            total = score + depths.get(at, 0) * each - in_flight[at] * IN_FLIGHT_WEIGHT
            if total > best:
                best, chosen = total, at
        return chosen

    def remember(self, hashes: Sequence[int], at: int) -> None:
        bit, index = 1 << at, self.index
        for value in hashes:
            seen = index.get(value, 0)
            if not seen & bit:
                index[value] = seen | bit
        if len(index) > INDEX_BLOCKS:
            index.clear()


def _note(depths: dict[int, int], mask: int, depth: int) -> None:
    while mask:
        bit = mask & -mask
        depths[bit.bit_length() - 1] = depth
        mask ^= bit


class Exchange:
    """One HTTP request, message by message."""

    __slots__ = ("at", "floor", "headers", "pieces", "streamed")

    def __init__(self, floor: Floor) -> None:
        self.floor = floor
        self.pieces: list[bytes] = []

    def receive(self, message: bytes) -> Sequence[bytes]:
        kind = message[0]
        if kind == RESPONSE_BODY:
            return self.answer_response(message)
        if kind == REQUEST_BODY:
            return self.answer_request(message)
        self.headers = read_headers(message)
        return () if kind == REQUEST_HEADERS else (RESPONSE_HEADERS_REPLY,)

    def answer_request(self, message: bytes) -> Sequence[bytes]:
        piece, end = read_body(message)
        if piece:
            self.pieces.append(piece)
        if not end:
            return ()
        body = self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
        self.pieces = []
        floor = self.floor
        chat = _read_chat(body)
        hashes = floor.hash(chat.model, "\n".join([each.role + each.content for each in chat.messages]).encode())
        self.streamed = chat.stream
        self.at = floor.pick(hashes)
        floor.in_flight[self.at] += 1
        floor.remember(hashes, self.at)
        return (floor.choices[self.at].reply(len(body)), *body_replies(body))

    def answer_response(self, message: bytes) -> Sequence[bytes]:
        piece, end = read_body(message)
        if self.streamed:
            if b'"usage":{' in piece:
                self.count(next(line[6:] for line in piece.split(b"\n") if line.startswith(b"data: {")))
        elif piece:
            self.pieces.append(piece)
        if end:
            if self.pieces:
                self.count(b"".join(self.pieces))
            self.floor.in_flight[self.at] -= 1
        return (body_reply(RESPONSE_BODY, piece, end=end),)

    def count(self, answer: bytes) -> None:
        usage = _read_answer(answer).usage
        if usage is not None:
            self.floor.tokens += usage.total_tokens
