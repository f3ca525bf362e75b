"""Random weights of a small Llama, the same on every machine, made without numpy or a deep-learning framework.

A bfloat16 is two bytes: sign and exponent, and seven bits of mantissa. So random bytes, their bits set by a table, are random
numbers of one octave and of both signs, 100 million of them in a second. The bytes are SHAKE-128's of the tensor's name: a
standard, which no version of a library changes.

What such a model says is nonsense, but well-behaved nonsense:

* Only words have weights in the output layer; every other token has a logit of zero, and the best of so many random logits is
  above it. So greedy decoding never ends an answer early, and never says half a character, which a stream would hold back.
* Queries, keys and what attention adds are scaled up until the answer depends on the whole prompt.
"""

import hashlib
import math
from collections.abc import Iterator

import msgspec

from shunter.conformance.shell.launching.tokens import SPOKEN, TOKENS

__all__ = ["BFLOAT16_BYTES", "HEAD", "MEDIUM", "SMALL", "TINY", "Shape", "Tensor", "noise", "tensors", "widen"]

BFLOAT16_BYTES = 2
EXPONENT_BIAS = 127
ONE = b"\x80\x3f"

# Every engine has kernels for heads of this width.
HEAD = 64

# Root mean square of numbers spread evenly over one octave, in units of its lower end.
OCTAVE_RMS = math.sqrt(7 / 3)

# Factors on the usual size of a layer, 1/√inputs.
SHARPNESS, LOUDNESS, CERTAINTY = 2.0, 2.0, 5.0


class Shape(msgspec.Struct, frozen=True):
    """The size of a model: as wide as some heads, as deep as some layers."""

    name: str
    heads: int
    layers: int
    context_tokens: int = 4096

    @property
    def width(self) -> int:
        """Numbers that stand for a token between layers."""
        return HEAD * self.heads

    @property
    def inner(self) -> int:
        """The width inside a feed-forward layer."""
        return 3 * self.width


TINY = Shape("shunter-tiny", heads=2, layers=2)
"""0.7 million parameters: as fast as its server."""

MEDIUM = Shape("shunter-medium", heads=4, layers=8)
"""7 million parameters: a token takes 3 ms on one core."""

SMALL = Shape("shunter-small", heads=8, layers=12)
"""42 million parameters: a token takes 10 to 20 ms on two cores, long enough for gauges to be looked at."""


class Tensor(msgspec.Struct, frozen=True):
    """Weights as little-endian bfloat16, row by row, under the name that Hugging Face's Llama has for them."""

    name: str
    rows: int
    columns: int
    data: bytes

    @property
    def flat(self) -> bool:
        """Whether it is a vector."""
        return self.rows == 1


def noise(name: str, rows: int, columns: int, scale: float = 1.0) -> Tensor:
    """Random weights that keep the size of what goes through them, times `scale`."""
    exponent = EXPONENT_BIAS + round(math.log2(scale / math.sqrt(columns) / OCTAVE_RMS))
    raw = hashlib.shake_128(name.encode()).digest(BFLOAT16_BYTES * rows * columns)
    data = bytearray(len(raw))
    data[0::2] = raw[0::2].translate(bytes((exponent & 1) << 7 | byte & 0x7F for byte in range(256)))
    data[1::2] = raw[1::2].translate(bytes(byte & 0x80 | exponent >> 1 for byte in range(256)))
    return Tensor(name, rows, columns, bytes(data))


def tensors(shape: Shape) -> Iterator[Tensor]:
    """All weights of a model, one after the other."""
    width, inner = shape.width, shape.inner
    yield noise("model.embed_tokens.weight", len(TOKENS), width, math.sqrt(width))
    for layer in range(shape.layers):
        block = f"model.layers.{layer}."
        yield _ones(f"{block}input_layernorm.weight", width)
        yield noise(f"{block}self_attn.q_proj.weight", width, width, SHARPNESS)
        yield noise(f"{block}self_attn.k_proj.weight", width, width, SHARPNESS)
        yield noise(f"{block}self_attn.v_proj.weight", width, width)
        yield noise(f"{block}self_attn.o_proj.weight", width, width, LOUDNESS)
        yield _ones(f"{block}post_attention_layernorm.weight", width)
        yield noise(f"{block}mlp.gate_proj.weight", inner, width)
        yield noise(f"{block}mlp.up_proj.weight", inner, width)
        yield noise(f"{block}mlp.down_proj.weight", width, inner)
    yield _ones("model.norm.weight", width)
    yield _output("lm_head.weight", width)


def _ones(name: str, width: int) -> Tensor:
    return Tensor(name, 1, width, ONE * width)


def _output(name: str, width: int) -> Tensor:
    row_bytes = BFLOAT16_BYTES * width
    spoken = noise(name, len(SPOKEN), width, CERTAINTY).data
    data = bytearray(len(TOKENS) * row_bytes)
    for at, word in enumerate(SPOKEN):
        number = TOKENS.index(word)
        data[number * row_bytes : (number + 1) * row_bytes] = spoken[at * row_bytes : (at + 1) * row_bytes]
    return Tensor(name, len(TOKENS), width, bytes(data))


def widen(data: bytes) -> bytes:
    """Turn bfloat16 into float32, of which it is the upper half."""
    wide = bytearray(2 * len(data))
    wide[2::4], wide[3::4] = data[0::2], data[1::2]
    return bytes(wide)
