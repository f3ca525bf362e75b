"""Profiles recognise their servers and excuse no more than they say."""

import lzma
from pathlib import Path

import pytest

from shunter.conformance.core.signals import Role, Signal, parse_signals
from shunter.conformance.errors import UsageError
from shunter.conformance.exposition import read_page
from shunter.conformance.sections.servers.profiles import PROFILES, detect, find_profile

DATA = Path(__file__).parent / "data"


@pytest.mark.parametrize(
    ("page", "owners", "name", "why"),
    [
        ("# HELP vllm:x y\n# TYPE vllm:x gauge\n", (), "vllm", "its metrics page has vllm: families"),
        ("up 1\nllamacpp:requests_deferred 0\n", ("vllm",), "llama.cpp", "its metrics page has llamacpp: families"),
        ("", ("somebody", "llamacpp"), "llama.cpp", "its model list says owned_by llamacpp"),
        ("not_vllm:x 1\n", ("somebody", ""), "generic", "neither"),
        ("", ("somebody",), "generic", "it gave no metrics page"),
    ],
)
def test_a_server_is_recognised(page, owners, name, why):
    profile, reason = detect(page, owners)
    assert profile.name == name
    assert why in reason


@pytest.mark.parametrize(
    ("recording", "name"),
    [
        ("vllm-under-load", "vllm"),
        ("vllm-with-lora", "vllm"),
        ("llamacpp-under-load", "llama.cpp"),
        ("sglang-under-load", "generic"),
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
        assert not profile.model_label or series.labels[profile.model_label] == "tiny"
        assert not profile.engine_label or series.labels[profile.engine_label] == "0"


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
