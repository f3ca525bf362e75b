import gzip
import json

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shunter.picker.core.judgement import Refusal
from shunter.picker.core.request import OPENAI, read, rewrite_model

CHAT = {":path": "/v1/chat/completions"}
COMPLETIONS = {":path": "/v1/completions"}
MESSAGES = [{"role": "user", "content": "hello"}]


def chat(**fields):
    return json.dumps({"model": "m", "messages": MESSAGES} | fields).encode()


def test_a_chat_is_read():
    request = read(CHAT, chat(max_completion_tokens=7, max_tokens=9, stream=True))
    assert (request.model, request.max_output_tokens, request.stream) == ("m", 7, True)
    assert json.loads(bytes(request.prompt) + b"]") == MESSAGES


def test_a_longer_conversation_extends_the_prompt():
    turns = [*MESSAGES, {"role": "assistant", "content": "hi"}]
    assert bytes(read(CHAT, chat(messages=turns)).prompt).startswith(bytes(read(CHAT, chat()).prompt))


@pytest.mark.parametrize("prompt", ["hello", ["a", "b"], [1, 2, 3], [[1], [2]]])
def test_a_completion_may_have_any_kind_of_prompt(prompt):
    request = read(COMPLETIONS, json.dumps({"model": "m", "prompt": prompt, "max_tokens": 3}).encode())
    assert request.max_output_tokens == 3
    assert len(request.prompt) > 0


@pytest.mark.parametrize(
    ("path", "suffix"),
    [
        ("/v1/chat/completions", "/chat/completions"),
        ("/v1/chat/completions?api-version=1", "/chat/completions"),
        ("/prefix/v1/completions", "/completions"),
        ("/v1/chat/completions/render", "/chat/completions/render"),
        ("/v1/completions/render", "/completions/render"),
        ("/v1/messages", "/messages"),
        ("/v1/messages/count_tokens", "/messages/count_tokens"),
        ("/v1/notcompletions", None),
        ("/v1/audio/transcriptions", None),
        ("/", None),
    ],
)
def test_the_longest_suffix_of_the_path_names_the_format(path, suffix):
    fields = {"model": "m", "messages": MESSAGES, "prompt": "p", "input": "i"}
    request = read({":path": path}, json.dumps(fields).encode())
    assert (request.format and request.format.suffix) == suffix


@pytest.mark.parametrize(
    ("headers", "suffix"),
    [
        ({}, "/completions"),
        ({"x-original-path": "/v1/chat/completions"}, "/chat/completions"),
        ({"x-forwarded-path": "/v1/embeddings"}, "/embeddings"),
        ({"x-original-path": "/v1/responses", "x-forwarded-path": "/v1/embeddings"}, "/responses"),
        ({":path": "/v1/embeddings", "x-original-path": "/v1/responses"}, "/embeddings"),
    ],
)
def test_without_a_path_other_headers_name_it(headers, suffix):
    fields = {"model": "m", "messages": MESSAGES, "prompt": "p", "input": "i"}
    assert read(headers, json.dumps(fields).encode()).format.suffix == suffix


@pytest.mark.parametrize(
    ("headers", "body", "message"),
    [
        (CHAT, b"", "request body is not the JSON expected here: Input data was truncated"),
        (CHAT, b"{", "request body is not the JSON expected here: Input data was truncated"),
        (CHAT, b"[]", "request body is not the JSON expected here: Expected `object`, got `array`"),
        (CHAT, b'{"model":"\xff"}', "request body is not the JSON expected here: 'utf-8' codec can't decode"),
        (CHAT, chat(model=5), "request body is not the JSON expected here: Expected `str | null`, got `int` - at `$.model`"),
        (CHAT, b'{"messages":[1]}', "model not found in request body"),
        (CHAT, chat(model=""), "model not found in request body"),
        (CHAT, chat(model=None), "model not found in request body"),
        (CHAT, b'{"model":"m"}', "messages must be a list and not empty"),
        (CHAT, chat(messages=[]), "messages must be a list and not empty"),
        (CHAT, b'{"model":"m","messages":[ \n ]}', "messages must be a list and not empty"),
        (CHAT, chat(messages="hello"), "messages must be a list and not empty"),
        (CHAT, chat(messages=None), "messages must be a list and not empty"),
        (COMPLETIONS, b'{"model":"m"}', "prompt must be a string or a list and not empty"),
        (COMPLETIONS, b'{"model":"m","prompt":""}', "prompt must be a string or a list and not empty"),
        (COMPLETIONS, b'{"model":"m","prompt":7}', "prompt must be a string or a list and not empty"),
    ],
)
def test_a_bad_body_is_refused_in_words(headers, body, message):
    refusal = read(headers, body)
    assert (refusal.status, refusal.code) == (400, "BadRequest")
    assert refusal.message.startswith(message)


@pytest.mark.parametrize("field", ["messages", "model", "other", "stream"])
@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
def test_a_million_nested_brackets_are_a_bad_request(field, opening):
    closing = b"]" if opening == b"[" else b"}"
    deep = opening * 1_000_000 + b"1" + closing * 1_000_000
    refusal = read(CHAT, b'{"model":"m","messages":[1],"' + field.encode() + b'":' + deep + b"}")
    assert refusal.status == 400


def test_a_path_of_no_format_is_passed_on_unread():
    request = read({":path": "/v1/audio/transcriptions"}, b"\x00 not JSON")
    assert (request.format, request.model, len(request.prompt)) == (None, None, 0)


def test_without_a_fallback_a_path_of_no_format_is_refused():
    assert read({":path": "/v1/messages"}, b"{}", formats=OPENAI, passthrough=False).status == 400


def test_a_compressed_body_is_refused_by_its_name():
    refusal = read(CHAT | {"content-encoding": "gzip"}, gzip.compress(chat()))
    assert (refusal.status, refusal.message) == (400, "request body has content-encoding gzip; send it as plain JSON")


def test_a_request_without_a_body_is_passed_on():
    assert read({":path": "/v1/completions"}, b"", has_body=False, passthrough=False).model is None


def test_engines_judge_what_does_not_decide():
    body = b'{"model":"m","messages":[1],"stream":"yes","max_tokens":1e999,"cache_salt":[{}],"tools":7,"n":-0.0}'
    request = read(CHAT, body)
    assert (request.stream, request.max_output_tokens) == (False, None)


def test_an_absurd_limit_is_no_limit():
    body = b'{"model":"m","messages":[1],"max_tokens":' + b"9" * 10_000 + b"}"
    assert read(CHAT, body).max_output_tokens is None


def test_salt_tools_and_system_change_the_seed():
    seeds = [
        read(CHAT, chat(**fields)).seed
        for fields in ({}, {"cache_salt": "a"}, {"cache_salt": "b"}, {"tools": "a"}, {"system": "a"}, {"instructions": "a"})
    ]
    assert len(set(seeds)) == len(seeds)


def test_the_new_name_of_a_control_header_wins():
    headers = CHAT | {
        "x-llm-d-inference-objective": "new",
        "x-gateway-inference-objective": "old",
        "x-gateway-inference-fairness-id": "tenant",
        "x-gateway-model-name-rewrite": "other",
        "x-request-id": "id",
    }
    request = read(headers, chat())
    assert (request.objective, request.fairness_id, request.rewrite, request.request_id) == ("new", "tenant", "other", "id")


def test_without_a_fairness_header_the_flow_is_the_default_one():
    assert read(CHAT, chat()).fairness_id == "default-flow"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
spellings = st.fixed_dictionaries(
    {
        "ensure_ascii": st.booleans(),
        "indent": st.none() | st.integers(0, 3),
        "separators": st.none() | st.just((" ,  ", "\t:\n")),
    }
)
names = st.text(min_size=1).filter(lambda name: name.encode("utf-8", "ignore").decode() == name)


@given(names, st.lists(json_values, min_size=1), st.dictionaries(st.text(), json_values), spellings)
def test_every_json_client_is_read_alike(model, messages, others, spelling):
    whole = others | {"messages": messages, "model": model, "stream": True, "max_tokens": 12}
    whole.pop("max_completion_tokens", None)
    body = json.dumps(whole, **spelling).encode("utf-8", "surrogatepass")
    request = read(CHAT, body)
    assert (request.model, request.stream, request.max_output_tokens) == (model, True, 12)
    assert json.loads((bytes(request.prompt) + b"]").decode("utf-8", "surrogatepass")) == messages


TOKENS = [b"{", b"}", b"[", b"]", b'"model"', b'"messages"', b":", b",", b'"m"', b"1", b" ", b"\\", b'"', b"null", b"\xff"]


@given(st.binary() | st.lists(st.sampled_from(TOKENS)).map(b"".join))
@example(b'{"model":"m","messages":[1]}')
def test_any_bytes_are_read_or_refused(body):
    for headers in (CHAT, COMPLETIONS):
        read_or_refused = read(headers, body)
        if not isinstance(read_or_refused, Refusal):
            assert json.loads(body.decode("utf-8", "replace"))["model"] == read_or_refused.model


@given(names, names, json_values, st.dictionaries(st.text(), json_values), spellings)
def test_a_rewritten_model_is_all_that_changes(model, target, messages, others, spelling):
    whole = {"a": model, **others, "messages": [messages, {"model": model}], "model": model, "z": f'"{model}"', "y": [model]}
    body = json.dumps(whole, **spelling).encode("utf-8", "surrogatepass")
    rewritten = rewrite_model(body, target)
    assert json.loads(rewritten.decode("utf-8", "surrogatepass")) == whole | {"model": target}
    value = msgspec.json.encode(target)
    at = rewritten.find(value)
    while at >= 0:  # one of the places where the new name stands is where the body was cut
        if body.startswith(rewritten[:at]) and body.endswith(rewritten[at + len(value) :]):
            return
        at = rewritten.find(value, at + 1)
    pytest.fail("bytes outside the model's value changed")


@pytest.mark.parametrize(
    ("body", "rewritten"),
    [
        (b'{"model":"a","model":"b"}', b'{"model":"a","model":"X"}'),
        (b'{"model":"b","model":"b"}', b'{"model":"b","model":"X"}'),
        (b'{"x":{"model":"b"},"mod\\u0065l":"b"}', b'{"x":{"model":"b"},"mod\\u0065l":"X"}'),
        (b'{"prompt":"the \\"model\\": \\"b\\"","model":"b"}', b'{"prompt":"the \\"model\\": \\"b\\"","model":"X"}'),
        (b' { "model" : "b" , "b":"b" } ', b' { "model" : "X" , "b":"b" } '),
        (b'{"b":"b","model":"\\u0062"}', b'{"b":"b","model":"X"}'),
        (b'{"model":"\xc3\xa9","z":"\xc3\xa9"}', b'{"model":"X","z":"\xc3\xa9"}'),
        (b'{"n":' + b"9" * 5000 + b',"b":"b","model":"b"}', b'{"n":' + b"9" * 5000 + b',"b":"b","model":"X"}'),
    ],
)
def test_the_last_model_at_the_top_is_the_one(body, rewritten):
    assert rewrite_model(body, "X") == rewritten
