"""Media and bursts: requests that follow what others had before them."""

import random

import msgspec
import pytest

from shunter.picker.core.kinds import Decision, Named, Profile, Verdict
from shunter.picker.core.media import Media
from shunter.picker.core.policy import Crew, Policy
from shunter.picker.core.prefix import NO_MATCH
from shunter.picker.core.request import Request
from shunter.picker.plugins.bursts import BurstPrefix
from shunter.picker.plugins.multimodal import EncodedMedia, EncoderCache
from shunter.picker.plugins.pickers import MaxScore, Turns

MS = 1_000_000


def at_work(plugin, tell=lambda *_: None):
    policy = Policy(profiles=(Profile("default", MaxScore()),), others=(Named("it", plugin),))
    return Crew(policy, random.Random(1), tell).find("it")


def showing(*items, **facts):
    media = tuple(Media("image", memoryview(name.encode()), tokens) for name, tokens in items)
    return Request(headers={}, media=media, facts=facts)


def see(encoders, fleet, at, *items, others=None):
    """Let an endpoint be sent these items."""
    request = showing(*items)
    request.facts["it"] = encoders.produce(request, fleet)
    encoders.picked(request, Verdict(Decision(fleet.endpoints, [at]), others or {}))


def scored(encoders, fleet, *items):
    request = showing(*items)
    request.facts["it"] = encoders.produce(request, fleet)
    return EncoderCache(producer_name="it").score(request, fleet)


def test_media_score_by_their_tokens(make_fleet):
    fleet, encoders = make_fleet({}, {}, {}), at_work(EncodedMedia())
    see(encoders, fleet, 1, ("a", 30), ("b", 10))
    see(encoders, fleet, 2, ("b", 10))
    assert scored(encoders, fleet, ("a", 30), ("b", 10), ("b", 10)) == {1: 1.0, 2: 0.25}
    assert scored(encoders, fleet, ("c", 5)) == scored(encoders, fleet) == {}
    assert EncoderCache(producer_name="it").score(showing(it="something else"), fleet) == {}


def test_only_so_many_items_are_remembered_of_each(make_fleet):
    fleet, encoders = make_fleet({}), at_work(msgspec.convert({"cacheSizeInMBPerServer": 4}, EncodedMedia))
    for name in ("a", "b", "a", "c"):
        see(encoders, fleet, 0, (name, 1))
    assert [scored(encoders, fleet, (name, 1)) for name in "abc"] == [{0: 1.0}, {}, {0: 1.0}]


def test_who_encodes_remembers(make_fleet):
    fleet, encoders = make_fleet({}, {}, {}), at_work(EncodedMedia())
    see(
        encoders,
        fleet,
        0,
        ("a", 1),
        others={"encode": Decision(fleet.endpoints, [2]), "prefill": Decision(fleet.endpoints, [1])},
    )
    assert scored(encoders, fleet, ("a", 1)) == {2: 1.0}


def test_a_new_owner_has_encoded_nothing_and_other_workers_are_told(make_fleet):
    fleet, other = make_fleet({}, {}), at_work(EncodedMedia())
    encoders = at_work(EncodedMedia(), lambda _, data: other.hear(data))
    see(encoders, fleet, 1, ("a", 1))
    assert scored(other, fleet, ("a", 1)) == {1: 1.0}
    renewed = make_fleet({}, {}, endpoints=[{}, {"incarnation": 2}])
    assert scored(other, renewed, ("a", 1)) == {}
    see(other, renewed, 1, ("b", 1))
    assert scored(other, renewed, ("a", 1), ("b", 1)) == {1: 0.5}


def asking(prompt, at_ms=0, model="m"):
    return Request(headers={}, prompt=memoryview(prompt), target_model=model, prompt_tokens=9, at_ns=at_ms * MS)


def follow(bursts, fleet, at, *requests):
    for request in requests:
        bursts.picked(request, Verdict(Decision(fleet.endpoints, [at])))


def goes(bursts, request, fleet):
    return next(iter(bursts.produce(request, fleet).share), None)


def test_equal_prompts_of_a_window_follow_the_first(make_fleet):
    fleet, bursts = make_fleet({}, {}), at_work(BurstPrefix())
    assert bursts.produce(asking(b"p"), fleet) == NO_MATCH
    follow(bursts, fleet, 1, asking(b"p"))
    assert bursts.produce(asking(b"p", 100), fleet).share == {1: 1.0}
    for request in (asking(b"p", 101), asking(b"q"), asking(b"p", model="n"), asking(b"")):
        assert bursts.produce(request, fleet) == NO_MATCH


def test_a_replica_gets_so_many_of_a_group(make_fleet):
    fleet, bursts = make_fleet({}, {}), at_work(BurstPrefix(max_per_replica=2))
    follow(bursts, fleet, 0, asking(b"p"))
    assert goes(bursts, asking(b"p"), fleet) == 0
    follow(bursts, fleet, 0, asking(b"p"))
    assert goes(bursts, asking(b"p"), fleet) is None
    follow(bursts, fleet, 1, asking(b"p"))
    assert goes(bursts, asking(b"p"), fleet) == 1


def test_a_shared_beginning_may_be_enough(make_fleet):
    fleet, bursts = make_fleet({}, {}), at_work(BurstPrefix(min_colocate_blocks=2, block_size_tokens=1))
    follow(bursts, fleet, 1, asking(b"12345678and so on"))
    assert goes(bursts, asking(b"12345678but not"), fleet) == 1
    assert goes(bursts, asking(b"1234567"), fleet) is None
    assert goes(bursts, asking(b"1234567x"), fleet) is None


def test_a_new_owner_of_a_slot_has_no_part_in_a_burst(make_fleet):
    bursts = at_work(BurstPrefix())
    follow(bursts, make_fleet({}, {}), 1, asking(b"p"))
    assert goes(bursts, asking(b"p"), make_fleet({}, {}, endpoints=[{}, {"incarnation": 2}])) is None


def test_workers_follow_each_other(make_fleet):
    fleet, other = make_fleet({}, {}), at_work(BurstPrefix())
    follow(at_work(BurstPrefix(), lambda _, data: other.hear(data)), fleet, 1, asking(b"p"))
    assert goes(other, asking(b"p"), fleet) == 1


@pytest.mark.parametrize("count", [1, 2])
def test_equals_take_turns(count):
    turns = at_work(MaxScore(max_num_of_endpoints=count))
    assert isinstance(turns, Turns)
    firsts = [turns.pick([1.0, 0.0, 1.0, 1.0], None)[0] for _ in range(6)]
    assert sorted(firsts[:3]) == [0, 2, 3]
    assert firsts[:3] == firsts[3:]
    assert at_work(MaxScore(tie="random")) == MaxScore(tie="random")


def test_profiles_that_share_a_picker_have_turns_of_their_own():
    profiles = [Profile(name, MaxScore(), picker_name="it") for name in ("decode", "prefill")]
    crew = Crew(Policy(profiles=tuple(profiles)), random.Random(1), lambda *_: None)
    pickers = [crew.staff(each).picker for each in profiles]
    chosen = [[picker.pick([1.0, 1.0], None)[0] for picker in pickers] for _ in range(2)]
    assert [set(firsts) for firsts in zip(*chosen, strict=True)] == [{0, 1}, {0, 1}]


def test_equals_take_turns_whoever_comes_behind_them():
    turns = at_work(MaxScore(max_num_of_endpoints=3))
    assert {turns.pick([1.0, 1.0, 0.5, 0.5], None)[0] for _ in range(2)} == {0, 1}
