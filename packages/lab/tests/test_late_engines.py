from collections import Counter
from heapq import heappop, heappush
from random import Random

from shunter.lab.core.arrivals import Arrival, Finished, Segment
from shunter.lab.core.fleet import Fleet
from shunter.lab.core.judges import JudgeChooser
from shunter.lab.core.params import EngineParams
from shunter.picker import config
from shunter.snapshot import Health, LoadRow

QUESTIONS = [(Segment(at, 400),) for at in range(1, 9)]


def drive(chooser, start_s, *, from_s, to_s, served):
    """Let requests with few prompts come, whose first tokens take so long on each endpoint; count where they go."""
    went, ends, now_s, index = Counter(), [], from_s, int(from_s * 1000)
    while now_s < to_s:
        rows = [
            LoadRow(slot=at, incarnation=1, health=Health.FRESH, sampled_ns=int((now_s + 1000) * 1e9), waiting=0.0, running=1.0)
            for at in range(len(start_s))
        ]
        chooser.scraped(rows, now_s)
        while ends and ends[0][0] <= now_s:
            ended_s, at, finished = heappop(ends)
            chooser.ended(at, finished, ended_s)
        prompt = QUESTIONS[index % len(QUESTIONS)]
        endpoint = chooser.choose(Arrival(prompt=prompt, output=Segment(99, 20)), index, now_s)
        went[endpoint] += 1
        compute_s = 0.0 if (endpoint, prompt) in served else 0.05
        served.add((endpoint, prompt))
        first_s = now_s + start_s[endpoint] + compute_s
        finished = Finished(
            index=index,
            endpoint=endpoint,
            arrived_s=now_s,
            first_s=first_s,
            ended_s=first_s + 0.4,
            prompt_tokens=400,
            output_tokens=20,
        )
        heappush(ends, (finished.ended_s, index, finished))
        now_s, index = now_s + 0.1, index + 1
    while ends:
        ended_s, at, finished = heappop(ends)
        chooser.ended(at, finished, ended_s)
    return went


def test_engines_that_answer_late_what_they_have_cached_lose_their_traffic_and_get_it_back():
    fleet = Fleet(engines=(EngineParams(),) * 3)
    chooser, served = JudgeChooser(config.load(config.DEFAULT).policy, fleet, Random(1)), set()
    well, late = [0.03, 0.03, 0.03], [0.83, 0.83, 0.03]
    drive(chooser, well, from_s=0, to_s=20, served=served)
    drive(chooser, late, from_s=20, to_s=40, served=served)
    went = drive(chooser, late, from_s=40, to_s=100, served=served)
    assert went[0] + went[1] < 0.1 * went.total()
    drive(chooser, well, from_s=100, to_s=250, served=served)
    went = drive(chooser, well, from_s=250, to_s=310, served=served)
    assert went[0] > 0.1 * went.total()
    assert went[1] > 0.1 * went.total()
