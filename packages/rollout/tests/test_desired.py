import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.rollout.core.desired import read_desired
from shunter.rollout.errors import ConfigError

SIDECARS = b"""\
vLLMLoRAConfig:
  name: vllm-llama3-8b-instruct
  host: localhost
  port: 8001
  defaultBaseModel: meta-llama/Llama-3.1-8B-Instruct
  ensureExist:
    models:
    - base-model: meta-llama/Llama-3.1-8B
      id: food-review
      source: Kawon/llama3.1-food-finetune_v14_r8
    - id: cad-fabricator
      source: redcathode/fabricator
  ensureNotExist:
    models:
    - id: food-review-v0
      source: old/one
"""


def test_a_file_of_the_references_sidecar_loads_unchanged():
    desired = read_desired("c", SIDECARS)
    assert [(each.id, each.source, each.base_model) for each in desired.wanted] == [
        ("food-review", "Kawon/llama3.1-food-finetune_v14_r8", "meta-llama/Llama-3.1-8B"),
        ("cad-fabricator", "redcathode/fabricator", "meta-llama/Llama-3.1-8B-Instruct"),
    ]
    assert desired.unwanted == ("food-review-v0",)
    assert desired.server == "http://localhost:8001"


def test_what_both_lists_name_is_left_alone():
    text = SIDECARS.replace(b"food-review-v0", b"food-review")
    desired = read_desired("c", text)
    assert desired.conflicts == ("food-review",)
    assert [each.id for each in desired.wanted] == ["cad-fabricator"]
    assert desired.unwanted == ()


def test_an_ipv6_host_is_put_in_brackets():
    assert read_desired("c", SIDECARS.replace(b"localhost", b"'::1'")).server == "http://[::1]:8001"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b"source: redcathode", b"sourze: redcathode", "models[1].sourze: unknown field; did you mean source?"),
        (b"      source: redcathode/fabricator\n", b"", "models[1].source: say where cad-fabricator is to be loaded from"),
        (b"cad-fabricator", b"food-review", "food-review is there twice, from Kawon/llama3.1-food-finetune_v14_r8 too"),
        (b"port: 8001", b"port: 80000", "$.vLLMLoRAConfig.port: Expected `int` <= 65535"),
        (b"id: cad-fabricator", b"id: 'a,b'", "$.vLLMLoRAConfig.ensureExist.models[1].id"),
        (b"  port: 8001", b"  port: 8001\n  port: 8002", "line 5: not YAML: the key 'port' stands twice"),
        (b"vLLMLoRAConfig:", b"vllmLoraConfig:", "$.vllmLoraConfig: unknown field; did you mean vLLMLoRAConfig?"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_a_remedy(old, new, words):
    with pytest.raises(ConfigError) as caught:
        read_desired("c.yaml", SIDECARS.replace(old, new))
    assert str(caught.value).startswith("c.yaml")
    assert words in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"- a", b"a: [", b"\xff\xfe\x00", b"[" * 100_000, b"a" * (1 << 21)])
def test_what_is_no_configuration_is_told(text):
    with pytest.raises(ConfigError, match=r"c\.yaml"):
        read_desired("c.yaml", text)


@given(
    st.binary() | st.text().map(str.encode) | st.builds(lambda at, more: SIDECARS[:at] + more, st.integers(0, 500), st.binary())
)
def test_no_bytes_are_anything_but_a_configuration_or_an_error(text):
    with contextlib.suppress(ConfigError):
        read_desired("c", text)
