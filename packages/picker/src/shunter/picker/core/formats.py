"""The bodies that are read: per path, where a request has its prompt, its limit of output and its media.

A format is claimed by a parser of the configuration. The reference knows OpenAI's, Anthropic's and the native ones of vLLM and
SGLang; audio, images by form, rerank, score, classify, pooling and the tokenizer are ours.
"""

from collections.abc import Iterable

import msgspec

__all__ = ["ANTHROPIC", "FORMATS", "OPENAI", "SGLANG", "VLLM", "Format", "order"]


class Format(msgspec.Struct, frozen=True):
    """One kind of body, and the path suffix that announces it."""

    suffix: str
    prompt: tuple[str, ...] = ()  # the fields that may hold the prompt: the first one that is not empty counts
    query: tuple[str, ...] = ()  # the fields that may hold what is computed once more with each part of the prompt
    output_limits: tuple[str, ...] = ()  # the same of the limit
    sampling_limit: str = ""  # the limit's name inside ``sampling_params``, where native bodies have it
    text: bool = True  # may the prompt be a string
    parts: bool = False  # may the prompt be messages with parts of other media than text
    model: bool = True  # must it name a model; servers of a single one do not ask for it
    prompted: bool = True  # must there be a prompt
    computed: bool = True  # does the engine run a model; else the prompt is neither load nor cached
    form: bool = False  # may it be multipart/form-data
    audio: bool = False  # is its load the length of a recording


_CHAT = ("max_completion_tokens", "max_tokens")

OPENAI = (
    Format("/chat/completions", ("messages",), output_limits=_CHAT, text=False, parts=True),
    Format("/chat/completions/render", ("messages",), text=False, computed=False),
    Format("/completions", ("prompt",), output_limits=("max_tokens",)),
    Format("/completions/render", ("prompt",), computed=False),
    Format("/responses", ("input",), output_limits=("max_output_tokens",), parts=True),
    Format("/conversations", ("items",), text=False, parts=True, model=False),
    Format("/embeddings", ("input",)),
    Format("/images/generations", ("prompt",)),
    Format("/images/edits", ("prompt",), prompted=False, form=True),
    Format("/images/variations", prompted=False, form=True),
    Format("/audio/speech", ("input",)),
    Format("/audio/transcriptions", prompted=False, form=True, audio=True),
    Format("/audio/translations", prompted=False, form=True, audio=True),
)
ANTHROPIC = (
    Format("/messages", ("messages",), output_limits=("max_tokens",), text=False, parts=True),
    Format("/messages/count_tokens", ("messages",), text=False, computed=False),
)
VLLM = (
    Format("/inference/v1/generate", ("token_ids",), sampling_limit="max_tokens", text=False, model=False),
    Format("/rerank", ("documents",), ("query",), model=False, prompted=False),
    Format("/score", ("text_2", "documents", "text_1", "queries"), ("text_1", "queries"), model=False, prompted=False),
    Format("/classify", ("input", "messages"), model=False, prompted=False),
    Format("/pooling", ("input", "messages"), model=False, prompted=False),
    Format("/detokenize", model=False, prompted=False, computed=False),
    Format("/tokenize", ("prompt", "messages"), model=False, prompted=False, computed=False),
)
SGLANG = (Format("/generate", ("text", "input_ids"), sampling_limit="max_new_tokens", model=False, prompted=False),)


def order(formats: Iterable[Format]) -> tuple[Format, ...]:
    """Return the formats so that the first fit is the longest: each before those whose suffix it ends with."""
    formats = tuple(formats)
    return tuple(sorted(formats, key=lambda form: sum(each.suffix.endswith(form.suffix) for each in formats)))


FORMATS = order(OPENAI + ANTHROPIC + VLLM)
"""What is read unless the configuration says otherwise. TGI has a ``/generate`` too, so SGLang's must be asked for."""
