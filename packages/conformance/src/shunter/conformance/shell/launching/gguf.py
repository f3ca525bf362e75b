"""Models as a GGUF file, which llama.cpp loads."""

import struct
from pathlib import Path

from shunter.conformance.shell.launching.tokens import BEGIN, CHAT_TEMPLATE, END, MERGES, TOKENS, UNKNOWN
from shunter.conformance.shell.launching.weights import BFLOAT16_BYTES, HEAD, Shape, Tensor, tensors, widen

__all__ = ["write_gguf"]

MAGIC, VERSION = b"GGUF", 3
ALIGNMENT_BYTES = 32

# Numbers of the format for types of values, for float32 tensors, and for kinds of tokens.
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
TENSOR_FLOAT32 = 0
NORMAL, CONTROL = 1, 3

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}
ROTATED = ("self_attn.q_proj.weight", "self_attn.k_proj.weight")


def write_gguf(directory: Path, shape: Shape) -> Path:
    """Write a model with its tokenizer; returns the file."""
    path = directory / f"{shape.name}.gguf"
    weights = [_convert(each) for each in tensors(shape)]
    facts = b"".join(_string(name) + value for name, value in _facts(shape).items())
    header = MAGIC + struct.pack("<IQQ", VERSION, len(weights), len(_facts(shape))) + facts
    offset = 0
    for each in weights:
        sizes = (each.columns,) if each.flat else (each.columns, each.rows)  # the fastest first
        header += _string(each.name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, TENSOR_FLOAT32, offset)
        offset += len(_padded(each.data))
    with path.open("wb") as file:
        file.write(_padded(header))
        file.writelines(_padded(each.data) for each in weights)
    return path


def _convert(tensor: Tensor) -> Tensor:
    """Rename a tensor and widen it; rows of queries and keys go in the order in which llama.cpp rotates them."""
    _, _, inside = tensor.name.partition("layers.")
    layer, _, part = inside.partition(".")
    name = f"blk.{layer}.{NAMES[part]}" if inside else NAMES[tensor.name]
    data = _interleaved(tensor) if part in ROTATED else tensor.data
    return Tensor(name, tensor.rows, tensor.columns, widen(data))


def _interleaved(tensor: Tensor) -> bytes:
    """Pair row i of each head's first half with row i of its second: Hugging Face rotates halves, llama.cpp neighbours."""
    row_bytes = BFLOAT16_BYTES * tensor.columns
    rows = [tensor.data[at : at + row_bytes] for at in range(0, len(tensor.data), row_bytes)]
    return b"".join(
        rows[head + half * HEAD // 2 + at] for head in range(0, tensor.rows, HEAD) for at in range(HEAD // 2) for half in (0, 1)
    )


def _facts(shape: Shape) -> dict[str, bytes]:
    special = (UNKNOWN, BEGIN, END)
    return {
        "general.architecture": _text("llama"),
        "general.name": _text(shape.name),
        "llama.context_length": _count(shape.context_tokens),
        "llama.embedding_length": _count(shape.width),
        "llama.block_count": _count(shape.layers),
        "llama.feed_forward_length": _count(shape.inner),
        "llama.attention.head_count": _count(shape.heads),
        "llama.attention.head_count_kv": _count(shape.heads),
        "llama.attention.layer_norm_rms_epsilon": struct.pack("<If", FLOAT32, 1e-5),
        "llama.rope.dimension_count": _count(HEAD),
        "llama.rope.freq_base": struct.pack("<If", FLOAT32, 10000.0),
        "llama.vocab_size": _count(len(TOKENS)),
        "tokenizer.ggml.model": _text("gpt2"),
        "tokenizer.ggml.pre": _text("gpt-2"),
        "tokenizer.ggml.tokens": _array(STRING, [_string(token) for token in TOKENS]),
        "tokenizer.ggml.token_type": _array(
            INT32, [struct.pack("<i", CONTROL if token in special else NORMAL) for token in TOKENS]
        ),
        "tokenizer.ggml.merges": _array(STRING, [_string(" ".join(pair)) for pair in MERGES.values()]),
        "tokenizer.ggml.bos_token_id": _count(TOKENS.index(BEGIN)),
        "tokenizer.ggml.eos_token_id": _count(TOKENS.index(END)),
        "tokenizer.ggml.add_bos_token": struct.pack("<I?", BOOL, False),
        "tokenizer.chat_template": _text(CHAT_TEMPLATE),
    }


def _string(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _text(text: str) -> bytes:
    return struct.pack("<I", STRING) + _string(text)


def _count(number: int) -> bytes:
    return struct.pack("<II", UINT32, number)


def _array(kind: int, items: list[bytes]) -> bytes:
    return struct.pack("<IIQ", ARRAY, kind, len(items)) + b"".join(items)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT_BYTES)
