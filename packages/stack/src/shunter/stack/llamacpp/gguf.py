"""A tiny random Llama, written as a GGUF file whose every byte is the same on every machine.

The file is made here, in milliseconds, from integers: nothing is downloaded and no deep-learning framework is needed.
Weights come from PCG64's raw integers, whose stream numpy guarantees for ever (NEP 19); its floating-point
distributions have no such promise.

What the model says is nonsense but well-behaved nonsense, on purpose:

* Only whole English words have weights in the output layer. All other tokens have a logit of exactly zero, so greedy
  decoding never says them: no half of a UTF-8 character that a stream would hold back, and no end of text, so that an
  answer is as long as `max_tokens`.
* Queries and keys are scaled up until attention is sharp: the answer depends on the whole prompt, not only on its end.

The tokenizer is byte-level BPE (GPT-2's alphabet). The merges spell `WORDS` from left to right, so a listed word with
its leading space is one token and any other text falls apart into prefixes of words and single bytes.

Importing this module needs the extra `llamacpp`.
"""

import os
import tempfile
from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

__all__ = ["CONTEXT_TOKENS", "FILE_NAME", "WORDS", "write_model"]

Weights = NDArray[np.float32]

# The number counts recipes: change it whenever the bytes change, or an old file in the cache is taken for the new one.
FILE_NAME = "shunter-tiny-1.gguf"

# Rotary positions cost no weights, so this is only what the header promises; memory follows the server's own context size.
CONTEXT_TOKENS = 131_072

SEED = 9002
LAYERS = 2
WIDTH = 128
HEADS = 2
FEED_FORWARD = 256
# Scale of queries and keys, and of what attention adds. At 1 and 0.5, 60 different prompts had only 14 different greedy
# answers; at 2 and 2 they had 60.
SHARPNESS = 2.0
LOUDNESS = 2.0
# Scale of the output layer: high enough that the tokens it never says (logit zero) stay improbable in sampling too.
CERTAINTY = 5.0

WORDS = (  # noqa: SIM905 - prose reads better than a hundred quotes
    "the of to and a in is it that for was on are as with at be this from have or by one had not but what all were "
    "when we there can an your which their if do will each how them then many some so these would other into has more "
    "two like him see time could no make than first been its who now people my made over did down only way find use "
    "may water long little very after words called just where most know train track wagon signal yard switch engine "
    "rail station driver lamp brake steam load route queue line north south morning"
).split()

CONTROL = ("<unk>", "<s>", "</s>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def write_model(directory: Path) -> Path:
    """Return the model's path in `directory`, writing it first if it is not there; OSError where that cannot be written.

    Any number of processes may do so at once: each writes a file of its own and renames it over the same bytes.
    """
    path = directory / FILE_NAME
    if path.exists():
        return path
    directory.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(prefix=f".{FILE_NAME}.", dir=directory)
    os.close(descriptor)
    try:
        _write(Path(partial))
        Path(partial).replace(path)
    finally:
        Path(partial).unlink(missing_ok=True)
    return path


def _write(path: Path) -> None:
    tokens, merges = _vocabulary()
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("shunter-tiny")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if token in CONTROL else gguf.TokenType.NORMAL for token in tokens])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(CONTROL.index("<s>"))
    writer.add_eos_token_id(CONTROL.index("</s>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    for name, weights in _weights(tokens).items():
        writer.add_tensor(name, weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _vocabulary() -> tuple[list[str], list[str]]:
    """Tokens by id (control, bytes, spelled prefixes of the words) and the merges in the order that spells them."""
    prefixes: dict[str, str] = {}
    for word in WORDS:
        spaced = _byte_letter(ord(" ")) + word
        for shorter, longer in pairwise(spaced[: n + 1] for n in range(len(spaced))):
            prefixes[longer] = f"{shorter} {longer[-1]}"
    return [*CONTROL, *map(_byte_letter, range(256)), *prefixes], list(prefixes.values())


def _byte_letter(byte: int) -> str:
    """GPT-2's printable letter for a byte: itself if Latin-1 prints it, else the next free one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    if byte in printable:
        return chr(byte)
    return chr(0x100 + sum(other not in printable for other in range(byte)))


def _weights(tokens: list[str]) -> dict[str, Weights]:
    dice = np.random.PCG64(SEED)

    def uniform(rows: int, columns: int, scale: float) -> Weights:
        """`scale` times uniform values of variance one, thinned by the number of inputs so that activations keep their size."""
        numerators = (dice.random_raw(rows * columns) >> 40).astype(np.float32)  # 24 bits: exact in a float32
        symmetric = numerators * np.float32(2.0**-23) - np.float32(1)
        return (symmetric * np.float32(scale * (3 / columns) ** 0.5)).reshape(rows, columns)

    weights = {"token_embd.weight": uniform(len(tokens), WIDTH, WIDTH**0.5)}
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        weights |= {
            f"{block}attn_norm.weight": np.ones(WIDTH, np.float32),
            f"{block}attn_q.weight": uniform(WIDTH, WIDTH, SHARPNESS),
            f"{block}attn_k.weight": uniform(WIDTH, WIDTH, SHARPNESS),
            f"{block}attn_v.weight": uniform(WIDTH, WIDTH, 1),
            f"{block}attn_output.weight": uniform(WIDTH, WIDTH, LOUDNESS),
            f"{block}ffn_norm.weight": np.ones(WIDTH, np.float32),
            f"{block}ffn_gate.weight": uniform(FEED_FORWARD, WIDTH, 1),
            f"{block}ffn_up.weight": uniform(FEED_FORWARD, WIDTH, 1),
            f"{block}ffn_down.weight": uniform(WIDTH, FEED_FORWARD, 1),
        }
    weights["output_norm.weight"] = np.ones(WIDTH, np.float32)
    words = {_byte_letter(ord(" ")) + word for word in WORDS}
    spoken = np.array([[token in words] for token in tokens], np.float32)
    weights["output.weight"] = uniform(len(tokens), WIDTH, CERTAINTY) * spoken
    return weights
