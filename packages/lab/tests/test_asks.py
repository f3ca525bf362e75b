"""Whatever a client sends is an `Ask` or an error in vLLM's words."""

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shunter.lab.core.answers import encode_error
from shunter.lab.core.asks import Ask, read_chat, read_completion
from shunter.lab.core.models import Models
from shunter.lab.core.tokens import tokenise
from shunter.lab.errors import ApiError, ParamsError

MODELS = Models(["tiny", "alias"], ["lora-a"])


def completion(**fields) -> Ask:
    return read_completion(msgspec.json.encode(fields), MODELS, 2048)


def chat(**fields) -> Ask:
    return read_chat(msgspec.json.encode(fields), MODELS, 2048)


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
OTHER = {"type": "image_url", "image_url": "data:image/png;base64,AAAB"}


def shown(*parts, media_tokens=5, model="tiny", context_tokens=2048) -> Ask:
    messages = [
        {"role": "user", "content": [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]}
    ]
    return read_chat(msgspec.json.encode({"messages": messages}), Models([model]), context_tokens, media_tokens)


def said(text):
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("hello world", (tokenise("hello world"),)),
        ([1, 2, 3], ((1, 2, 3),)),
        (["a", "b"], (tokenise("a"), tokenise("b"))),
        ([[1, 2], [3]], ((1, 2), (3,))),
    ],
)
def test_a_prompt_is_text_or_tokens_or_a_list_of_either(prompt, prompts):
    assert completion(prompt=prompt).prompts == prompts


def test_defaults_are_those_of_the_api():
    assert completion(prompt="x").max_tokens == 16
    assert chat(messages=said("x")).max_tokens is None
    assert completion(prompt="x").model == "tiny"
    assert not completion(prompt="x").stream


@pytest.mark.parametrize(("model", "adapter"), [("tiny", None), ("alias", None), ("lora-a", "lora-a"), ("", None)])
def test_a_model_name_is_the_base_or_an_adapter(model, adapter):
    assert completion(prompt="x", model=model).adapter == adapter


def test_max_completion_tokens_goes_before_max_tokens():
    assert chat(messages=said("x"), max_completion_tokens=3, max_tokens=5).max_tokens == 3


def test_a_longer_conversation_begins_with_the_shorter_one():
    short = chat(messages=said("hello there"))
    answer = "".join(short.scripts(2048, "")[0].pieces)
    longer = chat(messages=[*said("hello there"), {"role": "assistant", "content": answer}, *said("and?")])
    prefix = (*short.prompts[0], *tokenise(answer))
    assert longer.prompts[0][: len(prefix)] == prefix


def test_each_prompt_gets_as_many_choices_as_were_asked_for_and_they_differ():
    ask = completion(prompt=["a", "b"], n=2, seed=1)
    assert ask.prompt_of_each == (tokenise("a"),) * 2 + (tokenise("b"),) * 2
    texts = ["".join(script.pieces) for script in ask.scripts(2048, "")]
    assert len(set(texts)) == 4
    assert texts[0] == "".join(completion(prompt="a", seed=1).scripts(2048, "")[0].pieces)


def test_whoever_speaks_of_a_locomotive_is_answered_in_characters_of_several_bytes():
    text = "".join(completion(prompt="\N{STEAM LOCOMOTIVE}").scripts(2048, "")[0].pieces)
    assert len(text) == 16
    assert len(text.encode()) > 32


def test_content_may_come_in_parts():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert chat(messages=[{"role": "user", "content": parts}]).prompts == chat(messages=said("a\nb")).prompts


def test_a_picture_is_so_many_tokens_between_those_of_the_text():
    ask = shown("look:", PICTURE, "well?", OTHER)
    before, between = tokenise("<|user|>\nlook:\n"), tokenise("\nwell?\n")
    assert [(each.begin, each.tokens) for each in ask.media] == [(len(before), 5), (len(before) + 5 + len(between), 5)]
    (tokens,) = ask.prompts
    assert tokens[: len(before)] == before
    assert tokens[len(before) + 5 :][: len(between)] == between
    assert tokens[len(before) + 10 + len(between) :] == tokenise("\n<|assistant|>\n")


def test_what_a_picture_shows_makes_its_tokens_wherever_it_stands_and_however_it_is_told():
    def tokens(ask):
        (prompt,), media = ask.prompts, ask.media
        return [(each.key, prompt[each.begin : each.end]) for each in media]

    again = {"type": "image_url", "image_url": "data:image/jpeg;base64,AAAA"}
    one, two = tokens(shown(PICTURE, "x", again))
    assert one == two == tokens(shown("elsewhere", PICTURE))[0]
    assert one != tokens(shown(OTHER))[0]
    assert shown(PICTURE).scripts(2048, "")[0] != shown(OTHER).scripts(2048, "")[0]


def test_models_do_not_share_what_they_encode():
    assert shown(PICTURE).media[0].key != shown(PICTURE, model="another").media[0].key


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://127.0.0.1/cat.png"}},
        {"type": "video_url", "video_url": {"url": "http://127.0.0.1/cat.mp4"}},
        {"type": "audio_url", "audio_url": {"url": "data:audio/wav;base64,AAAA"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
    ],
    ids=lambda part: part["type"],
)
def test_clips_and_recordings_are_read_as_pictures_are(part):
    assert [each.tokens for each in shown(part).media] == [5]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([{"type": "image_url"}], "A part of type 'image_url' has nothing in its 'image_url'."),
        ([{"type": "image_url", "image_url": {"url": "data:,x"}}], "Only base64 data URLs are supported for now."),
        ([{"type": "image_url", "image_url": "file:///etc/passwd"}], "The URL must be either a HTTP or data URL."),
        ([{"type": "image_url", "image_url": "data:;base64,AA*AA"}], "What should be base64 is not: "),
        ([{"type": "input_audio", "input_audio": {"data": "\u00e9"}}], "What should be base64 is not: "),
        ([{"type": "file", "file": {}}], "This model reads text and media only, not parts of type 'file'."),
        ([PICTURE] * 1000, "At most 999 image(s) may be provided in one prompt."),
        ([PICTURE] * 400, "This model's maximum context length is 2048 tokens."),
    ],
)
def test_a_picture_that_is_none_and_too_many_are_refused(parts, message):
    with pytest.raises(ApiError) as caught:
        shown(*parts)
    assert caught.value.status == 400
    assert caught.value.message.startswith(message)


def test_a_picture_counts_in_the_context():
    room = len(shown(PICTURE).prompts[0]) + 1
    assert shown(PICTURE, context_tokens=room)
    with pytest.raises(ApiError, match=f"at least {room} input tokens"):
        shown(PICTURE, media_tokens=6, context_tokens=room)


def test_greedy_and_seeded_answers_repeat_and_sampled_ones_do_not():
    def text(nonce, **fields):
        return completion(prompt="x", **fields).scripts(2048, nonce)[0].pieces

    assert text("1", temperature=0) == text("2", temperature=0)
    assert text("1", seed=5) == text("2", seed=5) != text("1", seed=6)
    assert text("1") != text("2")


@pytest.mark.parametrize(
    ("read", "fields", "expected"),
    [
        (completion, {"model": "nope", "prompt": "x"}, (404, "NotFoundError", "model")),
        (completion, {"model": "tiny"}, (400, "BadRequestError", "prompt")),
        (completion, {"prompt": ""}, (400, "BadRequestError", "prompt")),
        (completion, {"prompt": ["a", 1]}, (400, "BadRequestError", "prompt")),
        (completion, {"prompt": [[]]}, (400, "BadRequestError", "prompt")),
        (completion, {"prompt": [-1]}, (400, "BadRequestError", "prompt")),
        (completion, {"prompt": [2**40]}, (400, "BadRequestError", "prompt")),
        (completion, {"prompt": "x", "max_tokens": -1}, (400, "BadRequestError", "max_tokens")),
        (completion, {"prompt": "x", "max_tokens": 999999}, (400, "BadRequestError", "max_tokens")),
        (completion, {"prompt": "x", "max_tokens": "five"}, (400, "Bad Request", "max_tokens")),
        (completion, {"prompt": "x", "min_tokens": 17}, (400, "BadRequestError", "min_tokens")),
        (completion, {"prompt": list(range(2048)), "max_tokens": 1}, (400, "BadRequestError", "input_tokens")),
        (completion, {"prompt": "x" * 10_000_000}, (400, "BadRequestError", "input_tokens")),
        (completion, {"prompt": "x", "n": 0}, (400, "BadRequestError", "n")),
        (completion, {"prompt": "x", "n": 2, "temperature": 0}, (400, "BadRequestError", "n")),
        (completion, {"prompt": "x", "logprobs": -1}, (400, "BadRequestError", "logprobs")),
        (completion, {"prompt": "x", "logprobs": 21}, (400, "BadRequestError", "logprobs")),
        (chat, {"messages": said("x"), "top_logprobs": 1}, (400, "BadRequestError", "top_logprobs")),
        (completion, {"prompt": "x", "echo": True}, (400, "BadRequestError", "echo")),
        (completion, {"prompt": "x", "stream_options": {}}, (400, "BadRequestError", "stream_options")),
        (completion, {"prompt": "x", "temperature": -1}, (400, "BadRequestError", "temperature")),
        (chat, {}, (400, "Bad Request", None)),
        (chat, {"messages": []}, (400, "BadRequestError", None)),
        (chat, {"messages": said([{"type": "image_url"}])}, (400, "BadRequestError", "messages")),
    ],
)
def test_bad_requests_get_the_status_type_and_param_that_vllm_answers(read, fields, expected):
    with pytest.raises(ApiError) as caught:
        read(**fields)
    assert (caught.value.status, caught.value.kind, caught.value.param) == expected
    body = msgspec.json.decode(encode_error(caught.value))
    assert body["error"] == {"message": caught.value.message, "type": expected[1], "param": expected[2], "code": expected[0]}


@pytest.mark.parametrize(
    ("read", "fields", "message"),
    [
        (completion, {"model": "nope", "prompt": "x"}, "The model `nope` does not exist. Valid aliases: tiny, alias."),
        (
            completion,
            {"model": "tiny"},
            "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)",
        ),
        (
            completion,
            {"prompt": "x", "max_tokens": -1},
            "max_tokens must be at least 1, got -1. (parameter=max_tokens, value=-1)",
        ),
        (
            chat,
            {"messages": []},
            "Cannot apply chat template to an empty conversation. Provide at least one message.",
        ),
    ],
)
def test_messages_are_the_recorded_ones(read, fields, message):
    with pytest.raises(ApiError) as caught:
        read(**fields)
    assert caught.value.message == message


def test_exactly_the_context_window_fits():
    assert completion(prompt=list(range(2047)), max_tokens=1).max_tokens == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["model", "prompt", "messages", "max_tokens", "min_tokens", "stop", "stream", "stream_options", "n", "seed"]


@given(st.binary(max_size=200))
@example(b"[" * 100_000)
@example(b'{"prompt": "\\ud800"}')
@example(b'{"prompt": "\xff"}')
@example(b'{"prompt": "x", "temperature": NaN}')
@example(b'{"prompt": "x", "max_tokens": 1e400}')
def test_any_bytes_are_an_ask_or_an_api_error(body):
    for read in (read_completion, read_chat):
        try:
            read(body, MODELS, 2048)
        except ApiError as error:
            encode_error(error)


@given(st.dictionaries(st.sampled_from(FIELDS), JSON))
def test_any_json_fields_are_an_ask_or_an_api_error(fields):
    for read in (read_completion, read_chat):
        try:
            read(msgspec.json.encode(fields), MODELS, 2048).scripts(2048, "")
        except ApiError as error:
            encode_error(error)


@pytest.mark.parametrize(
    ("names", "adapters"), [([], []), ([""], []), (["m"], ["m"]), (["m"], ["a", "a"]), (["m"], ["a,b"]), (["m", "m"], [])]
)
def test_impossible_names_are_refused_at_start(names, adapters):
    with pytest.raises(ParamsError):
        Models(names, adapters)
