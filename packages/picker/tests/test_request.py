import gzip
import json
from array import array

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shunter.picker.core.formats import FORMATS, OPENAI, SGLANG, Format, order
from shunter.picker.core.judgement import Refusal
from shunter.picker.core.request import read
from shunter.picker.core.splice import rewrite_model

CHAT = {":path": "/v1/chat/completions"}
COMPLETIONS = {":path": "/v1/completions"}
MESSAGES = [{"role": "user", "content": "hello"}]


def pack(*ids):
    return array("I", ids).tobytes()


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
        ("/v1/rerank", "/rerank"),
        ("/tokenize", "/tokenize"),
        ("/detokenize", "/detokenize"),
        ("/inference/v1/generate", "/inference/v1/generate"),
        ("/generate", None),
        ("/", None),
    ],
)
def test_the_longest_suffix_of_the_path_names_the_format(path, suffix):
    fields = {"model": "m", "messages": MESSAGES, "prompt": "p", "input": "i", "token_ids": [1]}
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
    request = read({":path": "/v1/elsewhere"}, b"\x00 not JSON")
    assert (request.format, request.model, len(request.prompt)) == (None, None, 0)


def post(path, **fields):
    return read({":path": path}, json.dumps(fields).encode(), formats=FORMATS + SGLANG)


@pytest.mark.parametrize(
    ("path", "fields", "prompt", "limit"),
    [
        ("/v1/responses", {"model": "m", "input": "hello", "max_output_tokens": 4}, b'"hello', 4),
        ("/v1/conversations", {"items": [{"role": "user"}]}, b'[{"role": "user"}', None),
        ("/v1/embeddings", {"model": "m", "input": ["a"]}, b'["a"', None),
        ("/v1/images/generations", {"model": "m", "prompt": "a cat"}, b'"a cat', None),
        ("/v1/images/edits", {"model": "m", "prompt": "a cat"}, b'"a cat', None),
        ("/v1/audio/speech", {"model": "m", "input": "say"}, b'"say', None),
        ("/v1/messages", {"model": "m", "messages": MESSAGES, "max_tokens": 5}, json.dumps(MESSAGES).encode()[:-1], 5),
        ("/inference/v1/generate", {"token_ids": [1, 2], "sampling_params": {"max_tokens": 6}}, pack(1, 2), 6),
        ("/generate", {"text": "hi", "sampling_params": {"max_new_tokens": 7}}, b'"hi', 7),
        ("/generate", {"input_ids": [[1], [2]], "sampling_params": [3]}, pack(1, 2), None),
        ("/generate", {"text": None, "input_ids": [1, 2]}, pack(1, 2), None),
        ("/score", {"text_2": "", "documents": ["d"]}, b'["d"', None),
        ("/generate", {}, b"", None),
        ("/v1/rerank", {"query": "q", "documents": ["a", "b"]}, b'["a", "b"', None),
        ("/score", {"text_1": "q", "text_2": ["a"]}, b'["a"', None),
        ("/classify", {"input": "x"}, b'"x', None),
        ("/pooling", {"messages": MESSAGES}, json.dumps(MESSAGES).encode()[:-1], None),
        ("/pooling", {}, b"", None),
    ],
)
def test_each_format_has_its_prompt_and_its_limit(path, fields, prompt, limit):
    request = post(path, **fields)
    assert (bytes(request.prompt), request.max_output_tokens) == (prompt, limit)


WORDS = "x" * 400


@pytest.mark.parametrize(
    ("path", "fields", "tokens"),
    [
        ("/v1/rerank", {"query": WORDS, "documents": [WORDS, WORDS]}, 400),
        ("/v1/rerank", {"query": WORDS, "documents": [{"text": WORDS}]}, 200),
        ("/v1/rerank", {"query": WORDS}, 100),
        ("/v1/rerank", {"query": None, "documents": [WORDS]}, 100),
        ("/score", {"text_1": WORDS, "text_2": WORDS}, 200),
        ("/score", {"text_1": WORDS, "text_2": [WORDS, WORDS, WORDS]}, 600),
        ("/score", {"text_1": [WORDS, WORDS], "text_2": [WORDS, WORDS]}, 400),
        ("/score", {"queries": WORDS, "documents": [WORDS, WORDS]}, 400),
        ("/score", {"text_1": WORDS}, 100),
        ("/v1/completions", {"model": "m", "query": WORDS, "prompt": [WORDS, WORDS]}, 200),
    ],
)
def test_a_query_is_computed_with_each_document(path, fields, tokens):
    assert post(path, **fields).prompt_tokens == pytest.approx(tokens, abs=10)


@pytest.mark.parametrize(
    ("path", "fields", "message"),
    [
        ("/inference/v1/generate", {"model": "m"}, "token_ids must be a list and not empty"),
        ("/inference/v1/generate", {"token_ids": "text"}, "token_ids must be a list and not empty"),
        ("/v1/responses", {"model": "m"}, "input must be a string or a list and not empty"),
        ("/v1/conversations", {"model": "m"}, "items must be a list and not empty"),
        ("/v1/embeddings", {"input": "i"}, "model not found in request body"),
        ("/v1/images/generations", {"model": "m"}, "prompt must be a string or a list and not empty"),
        ("/v1/audio/speech", {"model": "m"}, "input must be a string or a list and not empty"),
    ],
)
def test_what_a_format_needs_must_be_there(path, fields, message):
    assert post(path, **fields).message == message


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/completions/render", {"model": "m", "prompt": "x" * 400}),
        ("/v1/messages/count_tokens", {"model": "m", "messages": MESSAGES}),
        ("/tokenize", {"model": "m", "prompt": "x" * 400}),
        ("/detokenize", {"tokens": [1, 2]}),
    ],
)
def test_what_no_model_computes_is_neither_load_nor_cached(path, fields):
    request = post(path, **fields)
    assert (request.model, bytes(request.prompt), request.prompt_tokens) == (fields.get("model"), b"", 0)


@pytest.mark.parametrize(
    ("prompt", "packed"),
    [
        ([1, 2, 4_294_967_295], pack(1, 2, 4_294_967_295)),
        ([[1, 2], [3]], pack(1, 2, 3)),
        ([[]], b""),
        ([4_294_967_296], None),
        ([-1], None),
        ([1, "a"], None),
        ([1.5], None),
        (["1"], None),
        ([["1"]], None),
    ],
)
def test_token_ids_are_four_bytes_each_or_else_hashed_as_they_are_spelt(prompt, packed):
    request = post("/v1/completions", model="m", prompt=prompt)
    expected = json.dumps(prompt).encode()[:-1] if packed is None else packed
    assert (bytes(request.prompt), request.token_ids) == (expected, packed is not None)
    assert request.prompt_tokens == len(expected) // 4


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1), st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", ": ")]))
def test_white_space_between_token_ids_changes_nothing(ids, separators):
    body = json.dumps({"model": "m", "prompt": ids}, separators=separators).encode()
    assert bytes(read(COMPLETIONS, body).prompt) == pack(*ids)


@pytest.mark.parametrize(
    "shape", [lambda ids: ids, lambda ids: [ids], lambda ids: [ids[at : at + 100] for at in range(0, len(ids), 100)]]
)
def test_of_very_many_token_ids_the_first_are_read_and_the_others_estimated(shape):
    ids = [at * 7919 % 128_000 for at in range(400_000)]
    request = post("/v1/completions", model="m", prompt=shape(ids))
    read_ids = len(request.prompt) // 4
    assert 131_072 <= read_ids <= 262_144
    assert bytes(request.prompt) == pack(*ids[:read_ids])
    assert request.prompt_tokens == pytest.approx(len(ids), rel=0.01)


def multipart(*fields, boundary="b0undary"):
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n\r\n'.encode() + value + b"\r\n"
        for name, extra, value in fields
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


RECORDING = ("file", '; filename="a.wav"\r\nContent-Type: audio/wav', b"RIFF\0\r\n--b0und\r\n\xff" * 50)
FORM = {":path": "/v1/audio/transcriptions", "content-type": 'multipart/form-data; boundary="b0undary"'}


def test_a_form_names_its_model_and_lasts_as_long_as_told():
    body = multipart(RECORDING, ("model", "", "whisper-é".encode()))
    assert (read(FORM, body).model, read(FORM, body).prompt_tokens) == ("whisper-é", 250)
    assert read(FORM | {"x-llm-d-audio-duration-seconds": "60"}, body).prompt_tokens == 1500


def test_a_forms_model_is_rewritten_in_place():
    body = multipart(RECORDING, ("model", "", b"whisper"), ("prompt", "", b"whisper"))
    assert rewrite_model(body, "tiny", FORM["content-type"]) == multipart(
        RECORDING, ("model", "", b"tiny"), ("prompt", "", b"whisper")
    )


@pytest.mark.parametrize("body", [b"", multipart(RECORDING), multipart(("model", "", b"")), multipart(("model", "", b"\xff"))])
def test_a_form_without_a_model_is_refused(body):
    assert read(FORM, body).status == 400


def test_plugins_read_what_they_want_to_know_of_the_client():
    request = read(
        CHAT | {"x-llm-d-slo-ttft-ms": "200", "x-slo-tpot-ms": "12.5"},
        chat(user="u", prompt_cache_key="k", session_id="s"),
    )
    assert (request.user, request.prompt_cache_key, request.session_id) == ("u", "k", "s")
    assert (request.slo_ttft_ms, request.slo_tpot_ms) == (200, 12.5)
    assert read(CHAT | {"x-session-id": "h"}, chat(session_id="s")).session_id == "h"


@pytest.mark.parametrize("value", ["", "nan", "inf", "-1", "soon"])
def test_what_is_no_answer_to_a_plugin_is_none(value):
    request = read(CHAT | {"x-llm-d-slo-ttft-ms": value}, chat(user=7, session_id=None, prompt_cache_key=""))
    assert (request.user, request.session_id, request.prompt_cache_key, request.slo_ttft_ms) == (None, None, None, None)


def test_the_longer_suffix_comes_first_whatever_the_order():
    generic, native, other = Format("/generate"), Format("/inference/v1/generate"), Format("/other")
    assert order([generic, other, native]) == (other, native, generic)


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
