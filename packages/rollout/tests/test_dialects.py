import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.rollout.core.desired import Adapter
from shunter.rollout.core.dialects import DIALECTS, find_dialect
from shunter.rollout.errors import ConfigError, ServerError

CARDS = (
    b'{"object":"list","data":[{"id":"tiny","root":"/m","parent":null},{"id":"a","root":"/l/a","parent":"tiny"},{"id":"b"}]}'
)
REPOSITORY = b'[{"name":"a","version":"1","state":"READY"},{"name":"b","state":"UNAVAILABLE","reason":"unloaded"},{"name":"c"}]'


def test_an_adapter_is_a_card_with_a_parent_and_comes_from_its_root():
    assert find_dialect("vllm").read(CARDS) == {"a": "/l/a"}
    assert find_dialect("sglang").read(CARDS) == {"a": "/l/a"}


def test_of_tritons_repository_what_is_ready_counts():
    assert find_dialect("triton-tensorrt-llm").read(REPOSITORY) == {"a": None}


@pytest.mark.parametrize(
    ("engine", "path", "body"),
    [
        ("vllm", "/v1/load_lora_adapter", {"lora_name": "a/b", "lora_path": "/l", "base_model_name": "tiny"}),
        ("sglang", "/load_lora_adapter", {"lora_name": "a/b", "lora_path": "/l", "base_model_name": "tiny"}),
        ("triton-tensorrt-llm", "/v2/repository/models/a%2Fb/load", {}),
    ],
)
def test_each_engine_is_asked_in_its_own_words(engine, path, body):
    call = find_dialect(engine).load(Adapter("a/b", "/l", "tiny"))
    assert (call.method, call.path, call.body) == ("POST", path, body)


def test_an_engine_that_loads_nothing_is_told_with_those_that_do():
    with pytest.raises(ConfigError, match=r"'tgi' loads no adapters while it runs.*sglang"):
        find_dialect("tgi")


@given(st.sampled_from(sorted(DIALECTS)), st.binary() | st.sampled_from([CARDS, REPOSITORY, b"{}", b"[[[[", b'{"data":[{}]}']))
def test_any_page_is_a_list_or_an_error(engine, page):
    try:
        listed = find_dialect(engine).read(page)
    except ServerError:
        return
    assert all(isinstance(each, str) for each in listed)
