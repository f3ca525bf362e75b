"""Profiles recognise their servers and excuse no more than they say."""

import lzma
from pathlib import Path

import pytest

from shunter.conformance.core.signals import Role, Signal, parse_signals
from shunter.conformance.errors import UsageError
from shunter.conformance.exposition import read_page
from shunter.conformance.sections.servers.profiles import PROFILES, detect, find_profile, undetected

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize(
    ("page", "owners", "name", "why"),
    [
        ("# HELP vllm:x y\n# TYPE vllm:x gauge\n", (), "vllm", "its metrics page has vllm: families"),
        ("up 1\nllamacpp:requests_deferred 0\n", ("vllm",), "llama.cpp", "its metrics page has llamacpp: families"),
        ("", ("somebody", "llamacpp"), "llama.cpp", "its model list says owned_by llamacpp"),
        ("sglang:token_usage 0\n", (), "sglang", "sglang: families"),
        ("", ("sglang",), "sglang", "owned_by sglang"),
        ('nv_trt_llm_request_metrics{request_type="waiting"} 0\n', (), "triton-tensorrt-llm", "nv_trt_llm_ families"),
        ("trtllm_num_requests_waiting 0\n", (), "trtllm-serve", "trtllm_ families"),
        ("tgi_queue_size 0\n", (), "tgi", "tgi_ families"),
        ("jetstream_prefill_backlog_size 0\n", (), "jetstream", "jetstream_ families"),
        (
            'vllm:gpu_cache_usage_perc{x="y"} 0\n',
            (),
            "vllm",
            "its kv gauge is vllm:gpu_cache_usage_perc, the name of vLLM before",
        ),
    ],
)
def test_a_server_is_recognised(page, owners, name, why):
    profile, reason = detect(page, owners)
    assert profile.name == name
    assert why in reason


@pytest.mark.parametrize(("page", "why"), [("not_vllm:x 1\n", "neither its metric families"), ("", "it gave no metrics page")])
def test_a_server_of_no_kind_is_not_recognised(page, why):
    assert detect(page, ("somebody", "")) is None
    assert why in undetected(page)


def test_both_names_of_a_gauge_are_no_news():
    _, reason = detect("vllm:gpu_cache_usage_perc 0\nvllm:kv_cache_usage_perc 0\n", ())
    assert reason == "its metrics page has vllm: families"


def test_a_gauge_under_its_former_name_is_told_with_both_remedies():
    vllm = find_profile("vllm")
    assert vllm.absent(Role.KV, {"vllm:num_requests_running"}) == "the page has none"
    told = vllm.absent(Role.KV, {"vllm:gpu_cache_usage_perc"})
    assert "upgrade the server" in told
    assert "--metric kv=vllm:gpu_cache_usage_perc" in told


@pytest.mark.parametrize(
    ("recording", "name"),
    [
        ("vllm-under-load", "vllm"),
        ("vllm-with-lora", "vllm"),
        ("llamacpp-under-load", "llama.cpp"),
        ("sglang-under-load", "sglang"),
        ("triton-under-load", "triton-tensorrt-llm"),
    ],
)
def test_the_names_of_a_profile_are_those_of_the_real_server(recording, name):
    body = lzma.decompress((DATA / f"{recording}.txt.xz").read_bytes())
    profile, _ = detect(body.decode(), ())
    assert profile.name == name
    page = read_page(body)
    for signal in profile.signals.values():
        (series,) = page.find(signal)
        assert page.types[signal.family] == "gauge"
        assert not profile.model_label or series.labels[profile.model_label] in {"tiny", "tensorrt_llm"}
        assert not profile.engine_label or series.labels.get(profile.engine_label, "0") == "0"
    for signal in profile.counters.values():
        assert page.find(signal)
        assert page.types[signal.family] == "counter"


def test_a_named_gauge_is_no_longer_lacking():
    generic = find_profile("generic")
    assert "--metric queue=FAMILY" in generic.lack((Role.QUEUE.feature,))
    named = generic.with_signals({Role.QUEUE: Signal("my_queue")})
    assert named.lack((Role.QUEUE.feature,)) is None
    assert named.lack((Role.QUEUE.feature, Role.KV.feature)) == generic.lack((Role.KV.feature,))


def test_an_unknown_profile_is_answered_with_a_near_one():
    with pytest.raises(UsageError, match=r"did you mean llama\.cpp"):
        find_profile("llamacpp")


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_each_gauge_is_mapped_or_its_absence_explained(profile):
    for role in Role:
        assert (role in profile.signals) != (profile.lack((role.feature,)) is not None)


@pytest.mark.parametrize(
    ("text", "signal"),
    [
        ("queue=waiting", Signal("waiting")),
        (
            'queue = a:b{ kind = waiting , x="y z" }'.replace("queue =", "queue="),
            Signal("a:b", {"kind": "waiting", "x": "y z"}),
        ),
        ("queue=a{}", Signal("a")),
    ],
)
def test_a_signal_is_read(text, signal):
    assert parse_signals([text, "kv=usage"]) == {Role.QUEUE: signal, Role.KV: Signal("usage")}


@pytest.mark.parametrize("text", ["waiting", "depth=a", "queue=", "queue=a-b", "queue=a{b", "queue=a{b=c=d}", "queue=a}"])
def test_a_wrong_signal_is_refused(text):
    with pytest.raises(UsageError, match="--metric"):
        parse_signals([text])


def test_a_gauge_is_named_once():
    with pytest.raises(UsageError, match="'queue=b': queue is a already"):
        parse_signals(["queue=a", "queue=b"])
