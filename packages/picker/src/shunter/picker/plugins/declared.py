"""Plugins that a configuration declares and other parts of the picker carry out: parsers, producers, the profile handler.

They hold parameters and have no method of their own.
"""

from typing import Annotated, Any, ClassVar

from msgspec import Meta

from shunter.picker.core.formats import ANTHROPIC, OPENAI, SGLANG, VLLM, Format
from shunter.picker.core.prefix import BLOCK_FLOOR_TOKENS, PrefixSettings
from shunter.picker.plugins.catalogue import Kind, Plugin, register

__all__ = [
    "AnthropicParser",
    "ApproxPrefixCache",
    "OpenAiParser",
    "Passthrough",
    "SglangHttpParser",
    "SingleProfile",
    "Tokens",
    "VllmHttpParser",
]

Positive = Annotated[int, Meta(ge=1)]
Count = Annotated[int, Meta(ge=0)]

# Where neither blocks nor tokens are limited: longer than any context window, and still a bounded list of boundaries.
LONGEST_PROMPT_TOKENS = 4_000_000


@register("single-profile-handler", Kind.HANDLER)
class SingleProfile(Plugin, frozen=True):
    """There is one profile, and every request runs it."""


@register("approx-prefix-cache-producer", Kind.PRODUCER)
class ApproxPrefixCache(Plugin, frozen=True):
    """Guesses who has which prefix cached from who was sent what: see ``core.prefix``.

    With ``autoTune`` blocks are as large as the largest of those that engines export, and an engine that exports the size of
    its cache is believed, too; else ``blockSizeTokens`` and ``lruCapacityPerServer`` count. Blocks smaller than 64 tokens are
    taken to be 64, and all endpoints together have 200,000. The reference takes the size of blocks from the first endpoint:
    here prompts are cut before it is known who may serve them.
    """

    auto_tune: bool = True
    block_size_tokens: Positive = 16
    max_prefix_blocks_to_match: Count = 2048
    max_prefix_tokens_to_match: Count = 131_072  # 0: maxPrefixBlocksToMatch counts
    lru_capacity_per_server: Positive = 31_250

    gives_prefix: ClassVar[bool] = True

    @property
    def settings(self) -> PrefixSettings:
        """The parameters as the index takes them."""
        block_tokens = max(BLOCK_FLOOR_TOKENS, self.block_size_tokens)
        max_tokens = self.max_prefix_tokens_to_match or self.max_prefix_blocks_to_match * block_tokens
        return PrefixSettings(
            block_tokens=block_tokens,
            max_tokens=max_tokens or LONGEST_PROMPT_TOKENS,
            capacity_blocks=self.lru_capacity_per_server,
            auto_tune=self.auto_tune,
        )


@register("token-producer", Kind.PRODUCER)
class Tokens(Plugin, frozen=True):
    """How long a prompt is and of which tokens: estimated (``core.media``), and for precise prefixes asked of the engines.

    Declaring it changes nothing: the reference asks one server, ``vllm``, on the way of each request; here an engine is asked
    beside it, the one that was given the request. Its estimate of media can be told other sizes, this one reads them from
    images themselves. Source: llm-d's plugin of that name.
    """

    model_name: str = ""
    estimate: dict[str, Any] | None = None
    vllm: dict[str, Any] | None = None
    uds_tokenizer_config: dict[str, Any] | None = None


@register("openai-parser", Kind.PARSER)
class OpenAiParser(Plugin, frozen=True):
    """Reads OpenAI's bodies: chat, completions, responses, conversations, embeddings, images, audio."""

    formats: ClassVar[tuple[Format, ...]] = OPENAI


@register("anthropic-parser", Kind.PARSER)
class AnthropicParser(Plugin, frozen=True):
    """Reads Anthropic's bodies: messages and messages/count_tokens."""

    formats: ClassVar[tuple[Format, ...]] = ANTHROPIC


@register("vllmhttp-parser", Kind.PARSER)
class VllmHttpParser(Plugin, frozen=True):
    """Reads vLLM's own bodies: inference/v1/generate, rerank, score, classify, pooling, tokenize, detokenize."""

    formats: ClassVar[tuple[Format, ...]] = VLLM


@register("sglanghttp-parser", Kind.PARSER)
class SglangHttpParser(Plugin, frozen=True):
    """Reads SGLang's own body: generate. Not among the defaults, since other servers have another body at that path."""

    formats: ClassVar[tuple[Format, ...]] = SGLANG


@register("passthrough-parser", Kind.PARSER)
class Passthrough(Plugin, frozen=True):
    """Passes every other body on unread; without it such requests are refused."""

    formats: ClassVar[tuple[Format, ...]] = ()
