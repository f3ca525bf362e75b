"""The peer from which more of a prompt can be fetched."""

import msgspec
import pytest

from shunter.picker import config
from shunter.picker.core.kinds import Decision, Verdict
from shunter.picker.core.prefix import Match
from shunter.picker.core.request import Request
from shunter.picker.plugins.peers import P2pSource
from shunter.snapshot import Endpoint

PEERS = tuple(Endpoint(slot=at, incarnation=1, name=f"pod-{at}", address=f"10.0.0.{at + 1}", port=8000) for at in range(3))


def source(share, *, tokens=4000, chosen=(0, 1), candidates=PEERS):
    request = Request(headers={}, prefix=Match((1, 2), tokens, dict.fromkeys(share, 1), share))
    headers, theirs = P2pSource().picked(request, Verdict(Decision(candidates, chosen)))
    assert not theirs
    return dict(headers).get("x-kv-cache-source-host-port")


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        ({}, None),
        ({0: 1.0, 1: 1.0}, None),  # the chosen one has all there is
        ({1: 0.4, 2: 0.9}, "10.0.0.3:8000"),
        ({0: 0.5, 1: 0.7}, None),  # 800 tokens more: sooner computed than fetched
        ({0: 0.5, 1: 0.8}, "10.0.0.2:8000"),
        ({7: 1.0}, None),  # no candidate
    ],
)
def test_the_one_with_most_is_named_if_it_is_worth_it(share, expected):
    assert source(share) == expected


def test_who_computes_the_prompt_fetches_it():
    share = {0: 0.9, 1: 0.1, 2: 0.5}
    request = Request(headers={}, prefix=Match((1, 2), 4000, dict.fromkeys(share, 1), share))
    verdict = Verdict(Decision(PEERS[:1], [0]), {"prefill": Decision(PEERS[1:], [0])})
    assert P2pSource(prefill_profile_name="default").picked(request, verdict) == ((), ())
    headers, _ = P2pSource(prefill_profile_name="prefill").picked(request, verdict)
    assert dict(headers) == dict.fromkeys(("x-llm-d-kv-cache-source-host-port", "x-kv-cache-source-host-port"), "10.0.0.1:8000")
    told = msgspec.structs.replace(verdict, prefill="prefill")
    assert P2pSource().picked(request, told) == P2pSource(prefill_profile_name="prefill").picked(request, verdict)


def test_where_nobody_is_left_to_prefill_the_endpoint_itself_fetches():
    share = {0: 0.1, 2: 0.9}
    request = Request(headers={}, prefix=Match((1, 2), 4000, dict.fromkeys(share, 1), share))
    verdict = Verdict(Decision(PEERS, [0]), {"prefill": Decision((), ())}, prefill="prefill")
    headers, _ = P2pSource().picked(request, verdict)
    assert dict(headers)["x-kv-cache-source-host-port"] == "10.0.0.3:8000"


def test_a_short_prompt_is_computed():
    assert source({1: 1.0}, tokens=1000) is None


def test_nobody_chosen_nobody_named():
    assert source({1: 1.0}, chosen=()) is None


def test_it_is_at_work_where_it_is_declared():
    text = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n- type: p2p-source-producer\n"
    policy = config.load(text).policy
    assert policy.prefixes
    assert [each.name for each in policy.others] == ["p2p-source-producer"]
