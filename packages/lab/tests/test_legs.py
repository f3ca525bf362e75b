"""What the engines are asked for one request: bodies and headers, and what is read of their answers."""

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shunter.lab.core.legs import LIMITS, encoder_bodies, prefill_body, read_addresses, read_body, read_prefilled, tell_cached


@pytest.mark.parametrize("path", LIMITS)
def test_a_prefiller_computes_one_token_at_most(path):
    body = {
        "model": "m",
        "stream": True,
        "stream_options": {},
        "min_tokens": 5,
        "x": 1,
        "sampling_params": {"max_tokens": 9, "a": 1},
    }
    leg = prefill_body(path, body)
    assert leg.items() >= {"model": "m", "x": 1, "stream": False, "min_tokens": 1}.items()
    assert "stream_options" not in leg
    assert all(leg[name] == 1 for name in LIMITS[path])
    assert leg["sampling_params"] == {"max_tokens": 1, "min_tokens": 1, "a": 1}
    assert leg["kv_transfer_params"].items() >= {"do_remote_decode": True, "do_remote_prefill": False}.items()
    assert body["stream"] is True, "the client's body is left as it is"


def test_cached_tokens_in_a_text_are_the_texts_own():
    said = json.dumps(
        {"text": '"cached_tokens": 7, "cached_tokens":7', "usage": {"prompt_tokens_details": {"cached_tokens": 7}}}
    )
    told = json.loads(tell_cached(said.encode(), 3))
    assert told["text"] == '"cached_tokens": 7, "cached_tokens":7'
    assert told["usage"]["prompt_tokens_details"]["cached_tokens"] == 3


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["prompt", "n", "usage", "a"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.binary(max_size=40) | JSON.map(lambda value: json.dumps(value).encode()))
def test_foreign_bytes_are_read_or_not(data):
    for read in (read_body, read_prefilled):
        read(data)
    tell_cached(data, 5)


@given(st.text(max_size=40))
def test_whatever_a_header_is_it_is_a_list(header):
    assert all(each == each.strip() and "," not in each and each for each in read_addresses(header))


CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
PICTURE = {
    CHAT: {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
    MESSAGES: {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
    RESPONSES: {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
}


def user(*parts):
    return {"role": "user", "content": [*parts]}


@pytest.mark.parametrize(
    ("path", "member", "asked"),
    [
        (CHAT, "messages", {"max_tokens": 1}),
        (MESSAGES, "messages", {"max_tokens": 1}),
        (RESPONSES, "input", {"max_output_tokens": 1, "store": False}),
    ],
)
def test_who_encodes_is_asked_in_the_words_of_the_same_api(path, member, asked):
    picture = PICTURE[path]
    words = {"type": "text", "text": "What is it?"}
    body = {"model": "m", "mm_processor_kwargs": {"a": 1}, "stream": True, "temperature": 1, "system": "Be brief."}
    body[member] = [user(words, picture), {"role": "assistant", "content": "A wagon."}, user(picture)]
    shown = {member: [user(picture)]}
    assert encoder_bodies(path, body) == [{"model": "m", "mm_processor_kwargs": {"a": 1}, "stream": False} | asked | shown]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"messages": [{"role": "tool", "content": [PICTURE[CHAT]]}]}),
        (MESSAGES, {"messages": [user({"type": "tool_result", "tool_use_id": "x", "content": [PICTURE[MESSAGES]]})]}),
        (RESPONSES, {"input": [{"type": "function_call_output", "call_id": "x", "output": [PICTURE[RESPONSES]]}]}),
    ],
)
def test_what_a_tool_shows_is_encoded_as_well(path, body):
    (leg,) = encoder_bodies(path, body)
    assert user(PICTURE[path]) in (leg.get("messages") or leg.get("input"))


@pytest.mark.parametrize("path", PICTURE)
@pytest.mark.parametrize("foreign", PICTURE)
def test_what_the_api_does_not_have_is_not_encoded(path, foreign):
    message = [user(PICTURE[foreign])]
    assert len(encoder_bodies(path, {"messages": message, "input": message})) == (path == foreign)


PARTS = st.recursive(
    st.none() | st.integers() | st.sampled_from(["image_url", "image", "input_image", "tool_result", "text", "user"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "content", "output", "role", "x"]), inner)
    ),
)


@example([{"content": [{"type": "tool_result", "content": [{"type": []}]}, {"type": {}}]}], MESSAGES)
@given(PARTS, st.sampled_from([*LIMITS]))
def test_whatever_messages_are_only_pictures_are_encoded(messages, path):
    for leg in encoder_bodies(path, {"messages": messages, "input": messages, "model": "m"}):
        (part,) = (leg.get("messages") or leg.get("input"))[0]["content"]
        assert part["type"] == PICTURE[path]["type"]
