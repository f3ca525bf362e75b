"""The body of a completion or chat request → an `Ask`, or the error that vLLM 0.32 answers.

Unknown fields are ignored, as vLLM does. What this server cannot do (`echo`) is refused rather than answered wrongly.
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from shunter.lab.core.logprobs import MOST_ALTERNATIVES
from shunter.lab.core.media import MEDIA, MOST_MEDIA, Illustrated, Medium, media_key
from shunter.lab.core.models import Models
from shunter.lab.core.tokens import Script, write
from shunter.lab.errors import ApiError

__all__ = ["COMPLETION_MAX_TOKENS", "Ask", "parse_json", "read_chat", "read_completion"]

# OpenAI's and vLLM's default for /v1/completions; a chat answer may fill the context window.
COMPLETION_MAX_TOKENS = 16
# vLLM has no limit to speak of; choices are requests to the engine, and one client must not fill it with a word.
_MOST_CHOICES = 128
# Token ids are 32 bits, like those of the stand-in tokeniser.
_LARGEST_TOKEN_ID = 2**32 - 1
_Kind = TypeVar("_Kind")


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class _Transfer(msgspec.Struct):
    """vLLM's `kv_transfer_params`, as NixlConnector has them; where the blocks are is of no interest here."""

    do_remote_decode: bool | None = None
    do_remote_prefill: bool | None = None


class _Body(msgspec.Struct, kw_only=True):
    """What both kinds of request share; names are the API's."""

    model: str | None = None
    max_tokens: int | None = None
    min_tokens: int = 0
    n: int | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    stop: str | list[str] | None = None
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    temperature: float | None = None
    seed: int | None = None
    cache_salt: str | None = None
    echo: bool | None = None
    kv_transfer_params: _Transfer | None = None


class _CompletionBody(_Body):
    prompt: str | list[int | str | list[int]] | None = None
    logprobs: int | None = None


class _Source(msgspec.Struct):
    """Where a medium is, or what; of two members only one is the API's for each type of part."""

    url: str = ""
    data: str = ""


class _Part(msgspec.Struct):
    type: str
    text: str = ""
    image_url: _Source | str | None = None
    video_url: _Source | str | None = None
    audio_url: _Source | str | None = None
    input_audio: _Source | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None


class _ChatBody(_Body):
    messages: list[_Message]
    logprobs: bool | None = None
    top_logprobs: int | None = None
    max_completion_tokens: int | None = None


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A valid request: what to answer, how much, and in which form."""

    chat: bool
    model: str
    adapter: str | None
    prompts: tuple[tuple[int, ...], ...]
    media: tuple[Medium, ...] = ()
    """In the prompt of a chat."""
    max_tokens: int | None
    """None: as many as the context window leaves."""
    min_tokens: int
    ignore_eos: bool
    stop: tuple[str, ...]
    keep_stop: bool
    greedy: bool
    seed: int | None
    cache_salt: str
    stream: bool
    include_usage: bool
    continuous_usage: bool
    choices: int = 1
    """Answers to each prompt (`n`)."""
    logprobs: int | None = None
    """So many of the likeliest tokens are told with each token; 0: the chosen one alone. None: no log-probabilities."""
    gives: bool = False
    """Somebody else decodes, and fetches what is computed here."""
    takes: bool = False
    """The prompt was computed by somebody else, and is fetched."""

    @property
    def prompt_of_each(self) -> tuple[tuple[int, ...], ...]:
        """The prompt that each choice answers, in the order of their indices."""
        return tuple(prompt for prompt in self.prompts for _ in range(self.choices))

    def scripts(self, context_tokens: int, nonce: str) -> list[Script]:
        """Each choice. The nonce makes sampled answers without a seed differ from call to call."""
        seed = "" if self.greedy else nonce if self.seed is None else str(self.seed)
        return [
            write(
                prompt,
                context_tokens - len(prompt) if self.max_tokens is None else self.max_tokens,
                adapter=self.adapter,
                seed=f"{seed}+{nth}" if nth else seed,
                min_tokens=self.min_tokens,
                ignore_eos=self.ignore_eos,
                stop=self.stop,
                keep_stop=self.keep_stop,
            )
            for prompt in self.prompts
            for nth in range(self.choices)
        ]


def read_completion(body: bytes, models: Models, context_tokens: int) -> Ask:
    """`POST /v1/completions`: the prompt is a text, a list of token ids, or a list of either."""
    parsed = parse_json(body, _CompletionBody)
    if not parsed.prompt:
        raise _refuse("Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)", "prompt")
    adapter = models.resolve(parsed.model)
    prompts: list[Sequence[int] | Illustrated] = []
    if isinstance(parsed.prompt, str):
        prompts.append(Illustrated((parsed.prompt,)))
    else:
        singles = [item for item in parsed.prompt if isinstance(item, int)]
        several = [
            Illustrated((item,)) if isinstance(item, str) else item for item in parsed.prompt if not isinstance(item, int)
        ]
        prompts = [singles] if singles else [*several]
        if singles and len(singles) != len(parsed.prompt):
            raise _refuse("prompt must be a text, token ids, a list of texts or a list of token id lists", "prompt")
    return _ask(
        parsed,
        models,
        adapter,
        prompts,
        chat=False,
        max_tokens=COMPLETION_MAX_TOKENS if parsed.max_tokens is None else parsed.max_tokens,
        logprobs=parsed.logprobs,
        context_tokens=context_tokens,
    )


def read_chat(body: bytes, models: Models, context_tokens: int, media_tokens: int = 0) -> Ask:
    """`POST /v1/chat/completions`: a longer conversation begins with the tokens of a shorter one.

    A picture is `media_tokens`; 0: there must be none.
    """
    parsed = parse_json(body, _ChatBody)
    if not parsed.messages:
        raise _refuse("Cannot apply chat template to an empty conversation. Provide at least one message.", None)
    adapter = models.resolve(parsed.model)
    if parsed.top_logprobs and not parsed.logprobs:
        raise _refuse("when using `top_logprobs`, `logprobs` must be set to true.", "top_logprobs")
    prompt = _illustrated(parsed.messages, models.names[0], media_tokens)
    limits = (parsed.max_completion_tokens, parsed.max_tokens)
    return _ask(
        parsed,
        models,
        adapter,
        [prompt],
        chat=True,
        max_tokens=next((limit for limit in limits if limit is not None), None),
        logprobs=(parsed.top_logprobs or 0) if parsed.logprobs else None,
        context_tokens=context_tokens,
    )


def _illustrated(messages: Sequence[_Message], model: str, media_tokens: int) -> Illustrated:
    pages: list[list[str]] = [[]]
    keys: list[str] = []
    for message in messages:
        pages[-1].append(f"<|{message.role}|>\n")
        content = message.content or ""
        for at, part in enumerate(content if isinstance(content, list) else [_Part("text", content)]):
            pages[-1].append("\n" if at else "")
            if part.type in {"text", "input_text"}:
                pages[-1].append(part.text)
            elif media_tokens and part.type in MEDIA:
                keys.append(_key(part, model))
                pages.append([])
            else:
                reads = "text and media" if media_tokens else "text"
                raise _refuse(f"This model reads {reads} only, not parts of type {part.type!r}.", "messages")
        pages[-1].append("\n")
    if len(keys) > MOST_MEDIA:
        raise _refuse(f"At most {MOST_MEDIA} image(s) may be provided in one prompt.", "messages")
    pages[-1].append("<|assistant|>\n")
    return Illustrated(tuple(map("".join, pages)), tuple(keys), media_tokens)


def _key(part: _Part, model: str) -> str:
    source: _Source | str | None = getattr(part, part.type)
    named = source.data or source.url if isinstance(source, _Source) else source
    if not named:
        raise _refuse(f"A part of type {part.type!r} has nothing in its {part.type!r}.", "messages")
    return media_key(part.type, named, model)


def _ask(
    body: _Body,
    models: Models,
    adapter: str | None,
    prompts: Sequence[Sequence[int] | Illustrated],
    *,
    chat: bool,
    max_tokens: int | None,
    logprobs: int | None,
    context_tokens: int,
) -> Ask:
    _check_options(body, max_tokens, logprobs, context_tokens)
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    options = body.stream_options or _StreamOptions()
    transfer = body.kv_transfer_params or _Transfer()
    read = [_tokens(prompt, max_tokens, context_tokens) for prompt in prompts]
    return Ask(
        chat=chat,
        model=body.model or models.names[0],
        adapter=adapter,
        prompts=tuple(tokens for tokens, _ in read),
        media=tuple(medium for _, media in read for medium in media),
        max_tokens=max_tokens,
        min_tokens=body.min_tokens,
        ignore_eos=body.ignore_eos,
        stop=tuple(filter(None, stop)),
        keep_stop=body.include_stop_str_in_output,
        greedy=body.temperature == 0,
        seed=body.seed,
        cache_salt=body.cache_salt or "",
        stream=bool(body.stream),
        include_usage=bool(options.include_usage),
        continuous_usage=bool(options.continuous_usage_stats),
        choices=1 if body.n is None else body.n,
        logprobs=logprobs,
        gives=bool(transfer.do_remote_decode),
        takes=bool(transfer.do_remote_prefill),
    )


def _check_options(body: _Body, max_tokens: int | None, logprobs: int | None, context_tokens: int) -> None:
    if body.n is not None and not 1 <= body.n <= _MOST_CHOICES:
        raise _refuse(f"n must be at least 1 and at most {_MOST_CHOICES}, got {body.n}.", "n")
    if body.n is not None and body.n > 1 and body.temperature == 0:
        raise _refuse(f"n must be 1 when using greedy sampling, got {body.n}.", "n")
    if logprobs is not None and logprobs < 0:
        raise _refuse(f"logprobs must be non-negative, got {logprobs}.", "logprobs")
    if logprobs is not None and logprobs > MOST_ALTERNATIVES:
        raise _refuse(
            f"Requested sample logprobs of {logprobs}, which is greater than max allowed: {MOST_ALTERNATIVES}", "logprobs"
        )
    if body.echo:
        raise _refuse("This server has no echo.", "echo")
    if body.stream_options is not None and not body.stream:
        raise _refuse("Stream options can only be defined when `stream=True`.", "stream_options")
    if body.temperature is not None and not body.temperature >= 0:
        raise _refuse(f"temperature must be non-negative, got {body.temperature}.", "temperature")
    if max_tokens is not None and max_tokens < 1:
        raise _refuse(
            f"max_tokens must be at least 1, got {max_tokens}. (parameter=max_tokens, value={max_tokens})", "max_tokens"
        )
    if max_tokens is not None and max_tokens > context_tokens:
        raise _refuse(
            f"max_tokens={max_tokens} cannot be greater than max_model_len={context_tokens}. "
            f"Please request fewer output tokens. (parameter=max_tokens, value={max_tokens})",
            "max_tokens",
        )
    if body.min_tokens < 0 or body.min_tokens > (context_tokens if max_tokens is None else max_tokens):
        raise _refuse(f"min_tokens must be between 0 and max_tokens, got {body.min_tokens}.", "min_tokens")


def _tokens(
    prompt: Sequence[int] | Illustrated, max_tokens: int | None, context_tokens: int
) -> tuple[tuple[int, ...], tuple[Medium, ...]]:
    output, media = 1 if max_tokens is None else max_tokens, tuple[Medium, ...]()
    if isinstance(prompt, Illustrated):
        # A text that cannot fit whatever its tokens are is not tokenised: 10 MB would hold the event loop for a second.
        least = prompt.least_tokens
        tokens, media = prompt.tokens() if least + output <= context_tokens else (None, ())
    else:
        for token in prompt:
            if not 0 <= token <= _LARGEST_TOKEN_ID:
                raise _refuse(f"Token id {token} is out of vocabulary", "prompt")
        least, tokens = len(prompt), tuple(prompt)
    if tokens is not None and not tokens:
        raise _refuse("The prompt must not be empty.", "prompt")
    length = least if tokens is None else len(tokens)
    if tokens is None or length + output > context_tokens:
        raise _refuse(
            f"This model's maximum context length is {context_tokens} tokens. However, you requested {output} output "
            f"tokens and your prompt contains at least {length} input tokens, for a total of at least "
            f"{length + output} tokens. Please reduce the length of the input prompt or the number of requested "
            "output tokens.",
            "input_tokens",
        )
    return tokens, media


def parse_json(body: bytes, kind: type[_Kind]) -> _Kind:
    """The body as a value of that kind, or vLLM's validation error."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        field = path.rstrip("`").lstrip(".") or None
        detail: dict[str, Any] = {"type": "invalid", "loc": f"body.{field}" if field else "body", "msg": message}
        raise ApiError(400, f"1 validation error:\n  {detail}", kind="Bad Request", param=field) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        detail = {"type": "json_invalid", "loc": "body", "msg": "JSON decode error", "ctx": {"error": str(error)}}
        raise ApiError(400, f"1 validation error:\n  {detail}", kind="Bad Request", param="body") from error
    except RecursionError as error:
        raise ApiError(400, "The body is nested too deeply.", kind="Bad Request", param="body") from error


def _refuse(message: str, param: str | None) -> ApiError:
    return ApiError(400, message, param=param)
