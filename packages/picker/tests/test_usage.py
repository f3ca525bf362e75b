"""Token usage out of real and cut responses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.core.usage import MAX_USAGE_BYTES, Usage, UsageReader


def read(*pieces):
    reader = UsageReader()
    for piece in pieces:
        reader.feed(piece)
    return reader.usage


SAMPLES = {
    "openai": (
        (
            b'{"choices": [], "usage": {"prompt_tokens": 9, "total_tokens": 21, "completion_tokens": 12, '
            b'"prompt_tokens_details": {"cached_tokens": 4}}, "id": "x"}'
        ),
        Usage(9, 12, 4),
    ),
    "vllm": (
        b'{"usage":{"prompt_tokens":9,"total_tokens":21,"completion_tokens":12,"prompt_tokens_details":null}}',
        Usage(9, 12),
    ),
    "responses": (
        (
            b'event: response.created\ndata: {"response":{"usage":null}}\n\nevent: response.completed\n'
            b'data: {"response":{"usage":{"input_tokens":3,"input_tokens_details":{"cached_tokens":0},"output_tokens":5}}}\n\n'
        ),
        Usage(3, 5, 0),
    ),
    "anthropic": (
        (
            b'data: {"type":"message_start","message":{"usage":{"input_tokens":10,"cache_creation_input_tokens":2,'
            b'"cache_read_input_tokens":30,"output_tokens":1}}}\n\n'
            b'data: {"type":"message_delta","usage":{"output_tokens":15}}\n\n'
        ),
        Usage(42, 15, 30),
    ),
    "continuous": (
        (
            b'data: {"usage":{"prompt_tokens":2,"completion_tokens":1}}\n\n'
            b'data: {"usage":{"prompt_tokens":2,"completion_tokens":2}}\n\n'
        ),
        Usage(2, 2),
    ),
    "embeddings": (b'{"data":[{"embedding":[0.1]}],"usage":{"prompt_tokens":8,"total_tokens":8}}', Usage(8)),
    "rerank": (b'{"id": "rerank-1", "usage": {"total_tokens": 56}, "results": []}', Usage(56)),
    "numbers as text": (b'{"usage": {"prompt_tokens": "8", "completion_tokens": "9"}}', Usage(8, 9)),
    "generated text": (b'{"text": "\\"usage\\": {\\"prompt_tokens\\": 1}", "usage": {"prompt_tokens": 2}}', Usage(2)),
    "somebody else's": (b'{"usage": {"prompt_tokens": [1]}, "x": {"usage": "none"}}', Usage()),
    "negative": (b'{"usage": {"prompt_tokens": -1}}', Usage()),
    "none": (b'{"usage": null}', Usage()),
    "not UTF-8": (b'{"usage": {"prompt_tokens": "\xff", "\xff": "\xff"}}', Usage()),
    "too large": (b'{"usage": {"prompt_tokens": 1, "x": "' + b"y" * MAX_USAGE_BYTES + b'"}}', Usage()),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_each_dialect(name):
    body, usage = SAMPLES[name]
    assert read(body) == usage


@pytest.mark.parametrize("size", [1, 2, 7, 50])
@pytest.mark.parametrize("name", SAMPLES)
def test_however_it_is_cut(name, size):
    body, usage = SAMPLES[name]
    assert read(*(body[at : at + size] for at in range(0, len(body), size))) == usage


@pytest.mark.parametrize("size", [1, 50, MAX_USAGE_BYTES])
def test_what_is_nested_deeply_is_read_or_unknown(size):
    """How deep is too deep depends on the Python: 1,000 on 3.11, more than fits on 3.13."""
    body = b'{"usage": {"prompt_tokens": 1, "x": ' + b"[" * 2000 + b"]" * 2000 + b"}}"
    usage = read(*(body[at : at + size] for at in range(0, len(body), size)))
    assert usage in (Usage(), Usage(prompt_tokens=1))


words = st.sampled_from([b'"usage"', b":", b" ", b"{", b"}", b'"prompt_tokens"', b"1", b'"', b"usage", b"null", b",", b"\\"])


@given(st.lists(words | st.binary(max_size=3), max_size=60))
def test_any_bytes_read_whole_and_cut_give_the_same_and_nothing_is_raised(parts):
    assert read(*parts) == read(b"".join(parts))


def test_nothing_is_kept_of_a_large_body():
    reader = UsageReader()
    for _ in range(100):
        reader.feed(b'{"usage": {' + b"x" * 100_000)
    assert len(reader._kept) <= MAX_USAGE_BYTES
