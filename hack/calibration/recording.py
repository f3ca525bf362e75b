"""What was recorded of a model server: answers with the time of every token, and looks at its metrics."""

import gzip
import random
from pathlib import Path

import msgspec

__all__ = ["Answer", "Ask", "Look", "Recording", "Server"]


# Token ids that no tokenizer of a test model treats specially: bytes of a byte-level vocabulary.
FIRST_TOKEN, LAST_TOKEN = 3, 300


def tokens_of(name: str, length: int) -> list[int]:
    """The first tokens of a named stream: the same in every process, and unlike those of any other stream."""
    dice = random.Random(name)
    return [dice.randint(FIRST_TOKEN, LAST_TOKEN) for _ in range(length)]


class Ask(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request: when it is sent, the streams its prompt is cut from (name, tokens), and how many tokens it gets."""

    at_s: float
    prompt: list[tuple[str, int]]
    output: int
    group: str = ""
    """Probes of one group are sent together, after everything of the group before has been answered."""

    @property
    def prompt_tokens(self) -> int:
        return sum(length for _, length in self.prompt)

    def tokens(self) -> list[int]:
        return [token for name, length in self.prompt for token in tokens_of(name, length)]


class Server(msgspec.Struct, frozen=True, tag="server", tag_field="kind"):
    """Who answered. Seconds of the other records count from the beginning of the recording."""

    version: str
    model: str
    engine: dict[str, int]
    """Its capacities, by the names of `EngineParams`."""


class Answer(msgspec.Struct, frozen=True, tag="answer", tag_field="kind"):
    """One request, and the moments its tokens reached the client."""

    ask: Ask
    sent_s: float
    tokens_s: list[float]
    cached: int
    """Of its prompt, the tokens that the server says came from the prefix cache."""

    @property
    def ttft_s(self) -> float:
        return self.tokens_s[0] - self.sent_s

    @property
    def e2e_s(self) -> float:
        return self.tokens_s[-1] - self.sent_s


class Look(msgspec.Struct, frozen=True, tag="look", tag_field="kind"):
    """One scrape: when its page was there, how long that took, and values by the short names of `record.METRICS`."""

    at_s: float
    took_s: float
    values: dict[str, float]


class Recording(msgspec.Struct, frozen=True):
    """One run against one server: answers in the order they were asked for, looks in the order they were taken."""

    server: Server
    answers: list[Answer]
    looks: list[Look]

    def write(self, path: Path) -> None:
        """Compressed JSON lines; equal recordings give equal bytes."""
        lines = [msgspec.json.encode(record) for record in (self.server, *self.answers, *self.looks)]
        path.write_bytes(gzip.compress(b"\n".join(lines), mtime=0))

    @staticmethod
    def read(path: Path) -> "Recording":
        """Raises msgspec.ValidationError for lines that are none of the three kinds."""
        decoder = msgspec.json.Decoder(Server | Answer | Look)
        server, *records = map(decoder.decode, gzip.decompress(path.read_bytes()).splitlines())
        if not isinstance(server, Server):
            raise msgspec.ValidationError(f"{path}: the first line must be the server")
        answers = [record for record in records if isinstance(record, Answer)]
        return Recording(server, answers, [record for record in records if isinstance(record, Look)])
