"""Log-probabilities have the API's shapes, whole and in pieces, and belong to the tokens of the text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.lab.core.logprobs import chat_logprobs, completion_logprobs
from shunter.lab.testing import lab_server

TOKENS = st.lists(st.text(min_size=1, max_size=5), max_size=5)
SAID = [{"role": "user", "content": "hello"}]


@given(TOKENS, st.integers(0, 20))
def test_every_token_has_a_place_a_likelihood_and_less_likely_others(tokens, most):
    told = completion_logprobs(tokens, 3, most)
    assert told["tokens"] == tokens
    assert told["text_offset"] == [3 + len("".join(tokens[:index])) for index in range(len(tokens))]
    for token, logprob, likeliest in zip(tokens, told["token_logprobs"], told["top_logprobs"], strict=True):
        assert likeliest[token] == logprob == max(likeliest.values()) < 0
        assert len(likeliest) == max(1, most)


@given(TOKENS, st.integers(0, 20))
def test_a_chat_has_the_bytes_of_its_tokens(tokens, most):
    content = chat_logprobs(tokens, most)["content"]
    assert [bytes(each["bytes"]).decode() for each in content] == tokens
    assert all(len(each["top_logprobs"]) == most for each in content)


@pytest.mark.parametrize("path", ["completions", "chat/completions"])
async def test_a_stream_tells_the_same_as_a_whole_answer(http, path):
    async with lab_server(speed=1000) as server:
        url = f"{server.url}/v1/{path}"
        asked = (
            {"prompt": "hello", "logprobs": 2}
            if path == "completions"
            else {"messages": SAID, "logprobs": True, "top_logprobs": 2}
        )
        body = {**asked, "max_tokens": 4, "temperature": 0}
        async with http.post(url, json=body) as response:
            (whole,) = (await response.json())["choices"]
        async with http.post(url, json={**body, "stream": True}) as response:
            lines = (await response.text()).split("\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line and "[DONE]" not in line]
    told = [chunk["choices"][0]["logprobs"] for chunk in chunks if chunk["choices"][0]["logprobs"]]
    joined = {key: [each for piece in told for each in piece[key]] for key in told[0]}
    assert joined == whole["logprobs"]
    assert "content" in joined or "".join(joined["tokens"]) == whole["text"]


async def test_several_choices_come_whole_and_as_a_stream(http):
    async with lab_server(speed=1000) as server:
        body = {"prompt": ["a", "b"], "n": 2, "max_tokens": 4, "seed": 7}
        async with http.post(f"{server.url}/v1/completions", json=body) as response:
            whole = await response.json()
        async with http.post(f"{server.url}/v1/completions", json={**body, "stream": True}) as response:
            lines = (await response.text()).split("\n\n")
    assert [choice["index"] for choice in whole["choices"]] == [0, 1, 2, 3]
    assert whole["usage"] == {**whole["usage"], "prompt_tokens": 2, "completion_tokens": 16}
    choices = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines if line and "[DONE]" not in line]
    for choice in whole["choices"]:
        assert "".join(each["text"] for each in choices if each["index"] == choice["index"]) == choice["text"]
