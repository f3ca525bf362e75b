"""Engines of well-known machines: one model on one kind of accelerator, as parameters with the origin of every number.

What has been published about a machine is taken from there; the rest is a roofline, which says how fast it could be if nothing
but arithmetic and memory mattered, times the share of that which engines reach:

* a step reads the weights once: `step_s` = weight bytes / (`BANDWIDTH_SHARE` × memory bandwidth), plus two all-reduces a layer
  when the model is split over several cards;
* a decoding sequence reads its keys and values once: `context_token_s` = KV bytes of a token / the same bandwidth;
* a prompt token costs 2 FLOP a parameter: prefill rate = `FLOP_SHARE` × FLOP/s / (2 × parameters), unless one was measured;
* it attends to each token before it: `attention_pair_s` = 4 FLOP × layers × heads × head size / (`FLOP_SHARE` × FLOP/s).

A measured prefill rate (the tokens a second of one model server whose batches are full of prompt) is met exactly: a step that
is full of the first `max_num_batched_tokens` of one prompt takes as long as the rate says, weights and attention included.

| name | published | roofline |
| --- | --- | --- |
| llama3-8b-l4 | nothing: the defaults of `EngineParams` | everything |
| qwen3-32b-h100-tp2 | prefill 15,928 tok/s, KV cache 307,328 tokens, 8,192 tokens a step (llm-d) | decoding |
| qwen3-32b-tpu-v6e | prefill 26,290 tok/s (llm-d; on how many chips it does not say, here four) | decoding, KV cache |
| qwen3-32b-a100-tp2 | nothing | everything |
| gpt-oss-120b-h100 | prefill 39,065 tok/s (llm-d) | decoding, KV cache |
| llama3-70b-h100-tp4 | KV cache 461,376 tokens (llm-d-benchmark) | prefill, decoding |

llm-d has published 15,928 to 20,480 tok/s for Qwen3-32B on two H100; the lower one is what it ships. The TPU is the *faster*
machine for prompts; whoever wants a slower one beside the H100 takes the A100, or divides with `speed`.
"""

import msgspec

from shunter.lab.core.params import EngineParams

__all__ = ["A100", "GPT_OSS_120B", "H100", "LLAMA3_70B", "MACHINES", "QWEN3_32B", "TPU_V6E", "Card", "Model", "roofline"]

# Of the memory bandwidth on the data sheet, engines reach about this much when they stream weights.
BANDWIDTH_SHARE = 0.8
# Of the dense FLOP/s on the data sheet, in prefill: what 15,928 tok/s of Qwen3-32B are on two H100.
FLOP_SHARE = 0.53
# Of the memory, what vLLM takes unless told otherwise (`--gpu-memory-utilization`); the rest is the runtime's.
MEMORY_SHARE = 0.9
# One all-reduce of a decode step between cards of one host: latency, the data is small.
ALL_REDUCE_S = 0.00001
# Scheduling and sampling of one more sequence, mostly hidden behind the forward pass by asynchronous scheduling.
SEQUENCE_S = 0.00003
BLOCK_TOKENS = 16


class Card(msgspec.Struct, frozen=True):
    """One accelerator, from its data sheet."""

    flops_s: float
    """Dense FLOP/s in bfloat16."""
    bandwidth_bytes_s: float
    memory_bytes: float
    max_num_batched_tokens: int
    """vLLM's default for its OpenAI server on this card, as the next one."""
    max_num_seqs: int


class Model(msgspec.Struct, frozen=True):
    """What a model costs, from its published configuration."""

    parameters: float
    """Those that compute one token: all, unless it is a mixture of experts."""
    weight_bytes: float
    layers: int
    kv_bytes: float
    """Keys and values of one token that a decode step reads and the cache holds."""
    pair_flop: float
    """Attention of one token to one other, in all layers."""
    step_share: float = 1.0
    """Part of the weights that a step of a typical batch reads."""


H100 = Card(989e12, 3.35e12, 80e9, 8192, 1024)
A100 = Card(312e12, 2.04e12, 80e9, 2048, 256)
TPU_V6E = Card(918e12, 1.64e12, 32e9, 8192, 256)

# 64 layers × 8 KV heads × 128 × keys and values × 2 bytes; 64 query heads.
QWEN3_32B = Model(32.8e9, 65.6e9, 64, 64 * 8 * 128 * 2 * 2, 4 * 64 * 64 * 128)
LLAMA3_70B = Model(70.6e9, 141.2e9, 80, 80 * 8 * 128 * 2 * 2, 4 * 80 * 64 * 128)
# 36 layers × 8 × 64 × 2 × 2 bytes, every other layer with a window of 128 tokens. MXFP4 weights; a token uses 4 of 128 experts,
# a batch of 32 therefore 1 − (124/128)³² = 64 % of them.
GPT_OSS_120B = Model(5.1e9, 63e9, 36, 18 * 8 * 64 * 2 * 2, 4 * 18 * 64 * 64, step_share=0.65)

# Long enough for every published workload; the KV caches below hold at least one such request.
CONTEXT_TOKENS = 131_072


def roofline(
    model: Model, card: Card, cards: int = 1, *, prefill_tokens_s: float | None = None, kv_tokens: float | None = None
) -> EngineParams:
    """The engine of a model on so many cards; measured numbers win over computed ones."""
    bandwidth_bytes_s = BANDWIDTH_SHARE * card.bandwidth_bytes_s * cards
    all_reduce_s = 2 * model.layers * ALL_REDUCE_S if cards > 1 else 0.0
    step_s = model.step_share * model.weight_bytes / bandwidth_bytes_s + all_reduce_s
    flops_s = FLOP_SHARE * card.flops_s * cards
    rate = prefill_tokens_s or flops_s / (2 * model.parameters)
    pair_s = model.pair_flop / flops_s
    full = card.max_num_batched_tokens
    if kv_tokens is None:
        kv_tokens = (MEMORY_SHARE * card.memory_bytes * cards - model.weight_bytes) / model.kv_bytes
    return EngineParams(
        max_num_seqs=card.max_num_seqs,
        max_num_batched_tokens=full,
        block_size=BLOCK_TOKENS,
        num_blocks=int(kv_tokens / BLOCK_TOKENS),
        max_model_len=CONTEXT_TOKENS,
        step_s=step_s,
        prefill_token_s=1 / rate - step_s / full - pair_s * full / 2,
        sequence_s=SEQUENCE_S,
        context_token_s=model.kv_bytes / bandwidth_bytes_s,
        attention_pair_s=pair_s,
    )


MACHINES: dict[str, EngineParams] = {
    "llama3-8b-l4": EngineParams(),
    "qwen3-32b-h100-tp2": roofline(QWEN3_32B, H100, 2, prefill_tokens_s=15_928, kv_tokens=307_328),
    "qwen3-32b-tpu-v6e": roofline(QWEN3_32B, TPU_V6E, 4, prefill_tokens_s=26_290),
    "qwen3-32b-a100-tp2": roofline(QWEN3_32B, A100, 2),
    "gpt-oss-120b-h100": roofline(GPT_OSS_120B, H100, prefill_tokens_s=39_065),
    "llama3-70b-h100-tp4": roofline(LLAMA3_70B, H100, 4, kv_tokens=461_376),
}
"""Engine parameters by model and machine."""
