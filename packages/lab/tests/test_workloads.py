"""Traffic is what its parameters say, the same for a seed, and the same but faster at another rate."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_hexdigest

from shunter.lab.core.arrivals import Segment
from shunter.lab.core.ceiling import ceiling
from shunter.lab.core.statistics import window
from shunter.lab.errors import TraceError
from shunter.lab.workloads import WORKLOADS, find_workload
from shunter.lab.workloads.draws import Lengths, Pace, pick, streams, zipf
from shunter.lab.workloads.traffic import Conversations, Mixture, SharedPrefix

SMALL = SharedPrefix(groups=5, shared=Lengths(100), questions=2, own=Lengths(30), output=Lengths(10))
TALKS = Conversations(own=Lengths(50), turns=Lengths(3), user=Lengths(10), output=Lengths(20), think_s=4.0)


@pytest.mark.parametrize("workload", WORKLOADS.values(), ids=list(WORKLOADS))
def test_every_workload_fits_its_fleet_and_says_the_same_twice(workload):
    arrivals = workload.traffic.arrivals(3, workload.guess_qps, 300)
    assert arrivals == workload.traffic.arrivals(3, workload.guess_qps, 300)
    assert arrivals != workload.traffic.arrivals(4, workload.guess_qps, 300)
    longest = max(arrival.prompt_tokens + arrival.output.tokens for arrival in arrivals)
    assert longest <= min(engine.context_tokens for engine in workload.fleet.engines)


@pytest.mark.parametrize("workload", [*WORKLOADS.values(), find_workload("unseen-7")], ids=lambda workload: workload.name)
def test_one_segment_has_one_length(workload):
    lengths: dict[int, int] = {}
    for arrival in workload.traffic.arrivals(1, 5.0, 400):
        for segment in (*arrival.prompt, arrival.output):
            assert lengths.setdefault(segment.id, segment.tokens) == segment.tokens > 0


@pytest.mark.parametrize("name", ["b2b-saas", "chat", "unseen-3"])
def test_another_rate_is_the_same_traffic_faster(name):
    traffic = find_workload(name).traffic
    slow, fast = traffic.arrivals(5, 2.0, 400), traffic.arrivals(5, 8.0, 400)
    assert [arrival.prompt for arrival in slow] == [arrival.prompt for arrival in fast]
    assert window(slow)[1] == pytest.approx(4 * window(fast)[1], rel=0.2)  # bursts have a period of their own


@pytest.mark.parametrize("pace", [Pace(), Pace(burst=0.25, peak=2.5)], ids=["poisson", "bursts"])
def test_the_rate_in_the_window_is_the_rate(pace):
    traffic = SharedPrefix(own=Lengths(10), output=Lengths(1), pace=pace)
    arrivals = traffic.arrivals(1, 50.0, 40_000)
    begin_s, end_s = window(arrivals)
    inside = sum(begin_s <= arrival.at_s <= end_s for arrival in arrivals)
    assert inside / (end_s - begin_s) == pytest.approx(50.0, rel=0.03)


def test_bursts_are_bursts():
    pace = Pace(burst=0.25, peak=2.5, period_s=20.0)
    times = [at_s for at_s in pace.starts(streams(1)[0], 50.0, 40_000) if at_s > 400]
    crowded = sum(at_s % 20.0 < 5.0 for at_s in times)
    assert crowded / len(times) == pytest.approx(0.25 * 2.5, rel=0.05)


def test_a_poisson_process_has_exponential_gaps():
    times = [at_s for at_s in Pace().starts(streams(2)[0], 10.0, 40_000) if at_s > 2_000]
    gaps = [after - before for before, after in pairwise(times)]
    mean = sum(gaps) / len(gaps)
    assert mean == pytest.approx(0.1, rel=0.05)
    assert sum((gap - mean) ** 2 for gap in gaps) / len(gaps) == pytest.approx(mean**2, rel=0.1)


@given(mean=st.floats(1, 1e5), deviation=st.floats(0, 1e5), least=st.integers(1, 100), seed=st.integers(0, 1000))
def test_lengths_keep_their_bounds(mean, deviation, least, seed):
    lengths = Lengths(mean, deviation, least, least + 500, skewed=seed % 2 == 0)
    drawn = [lengths.draw(streams(seed)[0]) for _ in range(3)]
    assert all(least <= each <= least + 500 for each in drawn) or not deviation


@pytest.mark.parametrize("skewed", [False, True])
def test_lengths_have_their_mean_and_deviation(skewed):
    dice = streams(1)[0]
    drawn = [Lengths(5000, 1000, skewed=skewed).draw(dice) for _ in range(20_000)]
    mean = sum(drawn) / len(drawn)
    assert mean == pytest.approx(5000, rel=0.01)
    assert (sum((each - mean) ** 2 for each in drawn) / len(drawn)) ** 0.5 == pytest.approx(1000, rel=0.05)


def test_popularity_is_drawn_as_skewed():
    shares, dice = zipf(4, 1.0), streams(1)[0]
    counts = [0] * 4
    for _ in range(20_000):
        counts[pick(shares, dice)] += 1
    whole = 1 + 1 / 2 + 1 / 3 + 1 / 4
    assert [count / 20_000 for count in counts] == pytest.approx([1 / n / whole for n in (1, 2, 3, 4)], rel=0.1)


def test_members_of_a_group_begin_alike_and_ask_its_questions():
    arrivals = SMALL.arrivals(1, 1.0, 200)
    assert len({arrival.prompt[0] for arrival in arrivals}) == 5
    assert len({arrival.prompt for arrival in arrivals}) == 10
    assert len({arrival.session for arrival in arrivals}) == 5
    assert all(arrival.prompt_tokens == 130 and arrival.output.tokens == 10 for arrival in arrivals)


def test_a_turn_repeats_all_that_was_said_and_comes_after_the_answer():
    arrivals = TALKS.arrivals(1, 1.0, 30)
    for index, arrival in enumerate(arrivals):
        if arrival.after is None:
            continue
        before = arrivals[arrival.after]
        assert arrival.after == index - 1
        assert arrival.session == before.session
        assert arrival.prompt[:-1] == (*before.prompt, before.output)
        assert 2.0 <= arrival.think_s <= 6.0
    assert sum(arrival.after is None for arrival in arrivals) == 10


def test_a_conversation_ends_before_its_context_is_full():
    talks = Conversations(turns=Lengths(50), user=Lengths(100), output=Lengths(100), think_s=1.0, context=1_000)
    assert max(arrival.prompt_tokens + arrival.output.tokens for arrival in talks.arrivals(1, 1.0, 100)) == 1_000


def test_a_mixture_has_its_parts_and_nobody_shares_by_accident():
    arrivals = Mixture(parts=((SMALL, 3.0), (TALKS, 1.0))).arrivals(1, 1.0, 6_000)
    single = [arrival for arrival in arrivals if arrival.session.startswith("part-0/")]
    talking = [arrival for arrival in arrivals if arrival.session.startswith("part-1/")]
    assert len(single) / (len(talking) / 3) == pytest.approx(3.0, rel=0.1)
    theirs = {segment.id for arrival in talking for segment in (*arrival.prompt, arrival.output)}
    assert not theirs & {segment.id for arrival in single for segment in (*arrival.prompt, arrival.output)}


def test_adapters_have_their_parts():
    arrivals = find_workload("lora-mix").traffic.arrivals(1, 1.0, 10_000)
    popular = sum(arrival.adapter in {f"adapter-{at}" for at in range(5)} for arrival in arrivals)
    assert popular / len(arrivals) == pytest.approx(0.6, abs=0.02)


@pytest.mark.parametrize(
    ("name", "prompt", "output", "share"), [("toolagent", 8_600, 182, 0.59), ("conversation", 12_035, 343, 0.366)]
)
def test_what_is_like_mooncake_has_its_sizes_and_its_reuse(name, prompt, output, share):
    # The published figures of the traces: mean lengths, and the part of the prompts that a perfect cache finds.
    for seed in range(3):
        arrivals = find_workload(f"mooncake-{name}").traffic.arrivals(seed, 10.0, 12_000)
        tokens = sum(arrival.prompt_tokens for arrival in arrivals)
        assert tokens / len(arrivals) == pytest.approx(prompt, rel=0.1)
        assert sum(arrival.output.tokens for arrival in arrivals) / len(arrivals) == pytest.approx(output, rel=0.1)
        assert sum(ceiling(arrivals, 16)) / tokens == pytest.approx(share, abs=0.06)


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_whatever_the_number_an_unseen_workload_can_be_served(number):
    workload = find_workload(f"unseen-{number}")
    arrivals = workload.traffic.arrivals(0, workload.guess_qps, 100)
    longest = max(arrival.prompt_tokens + arrival.output.tokens for arrival in arrivals)
    assert longest <= min(engine.context_tokens for engine in workload.fleet.engines)
    assert workload.slo.ttft_s > 0 < workload.slo.tpot_s
    assert 0 < workload.guess_qps < 10_000


@pytest.mark.parametrize(
    ("name", "what"), [("b2b-sas", "did you mean b2b-saas"), ("unseen-x", "unseen"), ("nowhere.ndjson", "No such file")]
)
def test_a_workload_that_is_not_there_is_said_to_be_so(name, what):
    with pytest.raises(TraceError, match=what):
        find_workload(name)


def test_what_could_be_cached_is_what_was_sent_or_answered_before():
    first = TALKS.arrivals(1, 1.0, 3)
    # 50 own and 10 of the user are 60 tokens; the second turn repeats them and the answer of 20, and adds 10.
    assert ceiling(first, 1) == [0, 80, 110]
    assert ceiling(first, 16) == [0, 80, 96]
    assert ceiling([first[0], first[0]], 1) == [0, 59]  # the last token is computed again
    assert ceiling([], 16) == []


def test_another_adapter_shares_nothing():
    arrivals = SharedPrefix(shared=Lengths(64), own=Lengths(1), output=Lengths(1), adapters=(("a", 0.5), ("b", 0.5))).arrivals(
        1, 1.0, 30
    )
    found = dict.fromkeys("ab", 0)
    for arrival, cached in zip(arrivals, ceiling(arrivals, 16), strict=True):
        assert cached == (64 if found[arrival.adapter] else 0)
        found[arrival.adapter] += 1


def test_segments_are_compared_by_number():
    assert Segment(1, 5) == Segment(1, 5) != Segment(2, 5)


def test_a_seed_means_the_same_on_every_python():
    # Times to the microsecond: the last bit of a logarithm is the C library's.
    traffic = Mixture(
        parts=((SMALL, 1.0), (TALKS, 1.0), (find_workload("agents").traffic, 0.5)), pace=Pace(burst=0.25, peak=2.0)
    )
    told = [
        (round(each.at_s * 1e6), [(part.id, part.tokens) for part in each.prompt], each.output.tokens, each.after)
        for each in traffic.arrivals(7, 3.0, 500)
    ]
    assert xxh3_64_hexdigest(msgspec.json.encode(told)) == "2b02d8a68fdc39a7"
