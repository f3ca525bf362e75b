"""The models that the exam makes: the same everywhere, and in the formats that engines read."""

import hashlib
import json
import struct

import pytest

from shunter.conformance.shell.launching.checkpoint import write_adapters, write_checkpoint
from shunter.conformance.shell.launching.gguf import write_gguf
from shunter.conformance.shell.launching.tokens import MERGES, SPOKEN, TOKENS
from shunter.conformance.shell.launching.weights import TINY, noise, widen


def values(data):
    """Bfloat16 as numbers."""
    return struct.unpack(f"<{len(data) // 2}f", widen(data))


def tensors(path):
    """What a safetensors file holds, by its own header."""
    raw = path.read_bytes()
    (length,) = struct.unpack_from("<Q", raw)
    header = json.loads(raw[8 : 8 + length])
    header.pop("__metadata__")
    body = raw[8 + length :]
    assert max(each["data_offsets"][1] for each in header.values()) == len(body)
    return {name: (each["shape"], body[slice(*each["data_offsets"])]) for name, each in header.items()}


def test_weights_keep_the_size_of_what_goes_through_them():
    numbers = values(noise("some.weight", 64, 256).data)
    mean_square = sum(number * number for number in numbers) / len(numbers)
    assert 0.5 / 256 < mean_square < 2 / 256
    assert abs(sum(numbers)) / len(numbers) < 0.1 / 16


def test_weights_are_the_same_on_every_machine(tmp_path):
    written = write_gguf(tmp_path, TINY).read_bytes()
    assert hashlib.sha256(written).hexdigest() == "21e964f59af7ef00409b6f599434aa90c1823689b6ea8767b2237b0c8470e183"


def test_a_checkpoint_is_whole(tmp_path):
    home = write_checkpoint(tmp_path, TINY)
    weights = tensors(home / "model.safetensors")
    config = json.loads((home / "config.json").read_text())
    assert len(weights) == 3 + 9 * config["num_hidden_layers"]
    assert weights["lm_head.weight"][0] == [config["vocab_size"], config["hidden_size"]] == [len(TOKENS), TINY.width]
    for shape, data in weights.values():
        assert len(data) == 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)


def test_only_words_are_ever_said(tmp_path):
    _, data = tensors(write_checkpoint(tmp_path, TINY) / "model.safetensors")["lm_head.weight"]
    row = 2 * TINY.width
    said = {TOKENS[at // row] for at in range(0, len(data), row) if any(data[at : at + row])}
    assert said == set(SPOKEN)


def test_merges_spell_every_word_and_each_token_has_one_number():
    assert len(set(TOKENS)) == len(TOKENS)
    assert set(SPOKEN) <= set(MERGES)
    assert not [word for word in SPOKEN for other in SPOKEN if other != word and other.startswith(word)]
    for merged, (left, right) in MERGES.items():
        assert merged == left + right
        assert TOKENS.index(left) < TOKENS.index(merged)


def test_adapters_are_different_and_fit(tmp_path):
    adapters = write_adapters(tmp_path, TINY)
    texts = {(tmp_path / each.name / "adapter_model.safetensors").read_bytes() for each in adapters}
    assert len(texts) == len(adapters) > 2
    weights = tensors(tmp_path / adapters[0].name / "adapter_model.safetensors")
    assert {tuple(shape) for shape, _ in weights.values()} == {(8, TINY.width), (TINY.width, 8)}


def test_engines_of_others_read_the_model(tmp_path):
    gguf = pytest.importorskip("gguf")
    reader = gguf.GGUFReader(write_gguf(tmp_path, TINY))
    shapes = {each.name: [int(size) for size in each.shape] for each in reader.tensors}
    assert shapes["token_embd.weight"] == [TINY.width, len(TOKENS)]
    assert len(shapes) == 3 + 9 * TINY.layers
