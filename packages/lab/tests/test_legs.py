"""What the engines are asked for one request: bodies and headers, and what is read of their answers."""

import json

import pytest
from hypothesis import given
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


PARTS = st.recursive(
    st.none() | st.integers() | st.sampled_from(["image_url", "text", "user"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "content", "role", "x"]), inner),
)


@given(PARTS)
def test_whatever_messages_are_only_pictures_are_encoded(messages):
    for leg in encoder_bodies("/v1/chat/completions", {"messages": messages, "model": "m"}):
        assert leg["messages"][0]["content"][0]["type"] == "image_url"
