"""The parameters of a believable engine: what the imagined GPU costs, how much it holds, what it serves.

The defaults imagine one 24 GB card of the L4 class with an 8-billion-parameter model in 8-bit weights. Where they come from:

* one forward pass reads 8 GB of weights at 300 GB/s: `step_s` 27 ms, whatever the batch holds;
* 16 GFLOP a token at 60 % of 120 TFLOP/s: `prefill_token_s` 0.2 ms, about 4,500 prompt tokens a second;
* 131 KB of keys and values per context token (32 layers × 8 heads × 128 × 2 × 2 bytes) at 300 GB/s: `context_token_s` 0.44 µs;
* 0.52 MFLOP of attention for each pair of tokens (4 × 32 layers × 4,096) at the same rate: `attention_pair_s` 7 ns, which
  doubles the cost of a prompt token that 31,000 others precede;
* sampling and scheduling of one more sequence: `sequence_s` 0.1 ms;
* 8.6 GB left for keys and values: 4,096 blocks of 16 tokens;
* a picture of 576 tokens, of four patches each, through an encoder of 0.7 billion parameters at that rate: `encode_s` 45 ms.

They are round numbers for a plausible machine, not a calibration of a particular one.
"""

import difflib
from typing import Any

import msgspec

from shunter.lab.errors import ParamsError

__all__ = ["DEFAULT_MAX_MODEL_LEN", "EngineParams", "params_from"]

# What an 8B model is usually served with when one card must hold several conversations at once.
DEFAULT_MAX_MODEL_LEN = 8192

LEAST = {
    **dict.fromkeys(("max_num_seqs", "max_num_batched_tokens", "block_size", "max_loras", "max_num_queued_reqs"), 1),
    **dict.fromkeys(("media_tokens", "encoder_cache_size"), 0),
}


class EngineParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Capacity and speed of one engine; names are vLLM's where vLLM has the parameter."""

    max_num_seqs: int = 64
    """Sequences in one batch at most; the rest wait."""
    max_num_batched_tokens: int = 2048
    """Tokens of one forward pass at most; longer prompts are prefilled in chunks beside the decoding sequences."""
    block_size: int = 16
    """Tokens of one KV block."""
    num_blocks: int = 4096
    """KV blocks. One of them is vLLM's null block and never given out."""
    max_model_len: int | None = None
    """Prompt and output tokens of one request at most. None: `DEFAULT_MAX_MODEL_LEN`, or what the KV cache holds if less."""
    max_loras: int = 1
    """Distinct LoRA adapters in one batch at most; requests for further ones wait."""
    max_num_queued_reqs: int | None = None
    """Waiting requests at most; further ones are refused with 503. None: no limit."""
    enable_prefix_caching: bool = True
    speed: float = 1.0
    """Every duration is divided by this: 10 is a machine ten times as fast."""
    step_s: float = 0.027
    prefill_token_s: float = 0.00022
    sequence_s: float = 0.0001
    context_token_s: float = 0.00000044
    attention_pair_s: float = 0.000000007
    """Prompt tokens also attend to each token before them: this for every such pair, so that long prompts cost more a token."""
    lora_load_s: float = 0.0
    """A pass that begins with an adapter that is in none of the `max_loras` slots takes so much longer."""
    transfer_s: float = 0.002
    """Keys and values that were computed elsewhere take this, and `transfer_token_s` a token, to arrive. The defaults imagine
    131 KB a token over a link of 25 GB/s."""
    transfer_token_s: float = 0.0000052
    media_tokens: int = 0
    """Prompt tokens of one picture, clip or recording. 0: the model reads text only."""
    encode_s: float = 0.045
    """Encoding one takes so long, in the step that computes the first of its tokens."""
    encoder_cache_size: int | None = None
    """Tokens of media that stay encoded, at least those of one. None: `max_num_batched_tokens`."""
    mm_encoder_only: bool = False
    """It encodes for others and computes nothing else, so that no prompt is cached; its answers are worth nothing."""

    def __post_init__(self) -> None:
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise ParamsError(f"{name} must be at least {least}, got {value}")
        if self.num_blocks < 2:
            raise ParamsError(f"num_blocks must be at least 2 (one is the null block), got {self.num_blocks}")
        if not 0 < self.speed < float("inf"):
            raise ParamsError(f"speed must be a positive number, got {self.speed}")
        durations = ("step_s", "prefill_token_s", "sequence_s", "context_token_s", "attention_pair_s")
        for name in (*durations, "lora_load_s", "transfer_s", "transfer_token_s", "encode_s"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ParamsError(f"{name} must be a number of seconds and not negative, got {getattr(self, name)}")
        if self.mm_encoder_only and not self.media_tokens:
            raise ParamsError("mm_encoder_only: a model that reads text only encodes nothing; give media_tokens, too")
        if self.context_tokens < 2:
            raise ParamsError(f"a context of {self.context_tokens} has no room for one prompt and one output token")
        # A request that fits the window must fit the cache when it is alone, or preemption could go on for ever.
        if self.context_tokens > self.capacity_tokens:
            raise ParamsError(
                f"max_model_len {self.context_tokens} needs more KV cache than there is: {self.num_blocks} blocks of "
                f"{self.block_size} tokens, one of them reserved, hold {self.capacity_tokens}; "
                "raise num_blocks or lower max_model_len"
            )

    @property
    def capacity_tokens(self) -> int:
        """Tokens whose keys and values fit at once."""
        return (self.num_blocks - 1) * self.block_size

    @property
    def context_tokens(self) -> int:
        """The context window in force."""
        return min(DEFAULT_MAX_MODEL_LEN, self.capacity_tokens) if self.max_model_len is None else self.max_model_len

    @property
    def keeps_prefixes(self) -> bool:
        """Whether prompts are cached."""
        return self.enable_prefix_caching and not self.mm_encoder_only

    @property
    def encoder_room(self) -> int:
        """The size of the encoder cache in force."""
        size = self.max_num_batched_tokens if self.encoder_cache_size is None else self.encoder_cache_size
        return max(size, self.media_tokens)

    def pass_s(self, prefill_tokens: int, sequences: int, context_tokens: int, pairs: float = 0.0) -> float:
        """Seconds of one forward pass over a batch; pairs of prompt tokens and tokens before them as the last."""
        if self.mm_encoder_only:
            return self.sequence_s * sequences / self.speed
        return (
            self.step_s
            + self.prefill_token_s * prefill_tokens
            + self.sequence_s * sequences
            + self.context_token_s * context_tokens
            + self.attention_pair_s * pairs
        ) / self.speed


def params_from(values: dict[str, Any]) -> EngineParams:
    """Parameters from names and values; a name that does not exist is answered with the nearest that do."""
    for name in values:
        if name not in EngineParams.__struct_fields__:
            near = difflib.get_close_matches(name, EngineParams.__struct_fields__, n=3)
            raise ParamsError(
                f"{name}: no such engine parameter; " + (f"near: {', '.join(near)}" if near else "see EngineParams")
            )
    try:
        return msgspec.convert(values, EngineParams)
    except msgspec.ValidationError as error:
        raise ParamsError(str(error)) from error
