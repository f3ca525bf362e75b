"""Prefill and decode on engines of their own, chosen by the picker's judge in virtual time."""

import random

import pytest

from shunter.lab.core.arrivals import Arrival, Segment
from shunter.lab.core.fleet import Crash, Fleet
from shunter.lab.core.judges import JudgeChooser
from shunter.lab.core.params import EngineParams
from shunter.lab.core.simulation import simulate
from shunter.picker import config

ENGINES = (EngineParams(max_model_len=32_768, num_blocks=8192),) * 4
ROLES = tuple({"llm-d.ai/role": role} for role in ("prefill", "prefill", "decode", "decode"))
STAGES = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: always-disagg-pd-decider
- type: disagg-profile-handler
  parameters: {deciders: {prefill: always-disagg-pd-decider}}
- type: prefill-filter
- type: decode-filter
- type: active-request-scorer
- type: max-score-picker
schedulingProfiles:
- {name: prefill, plugins: [{pluginRef: prefill-filter}, {pluginRef: active-request-scorer}, {pluginRef: max-score-picker}]}
- {name: decode, plugins: [{pluginRef: decode-filter}, {pluginRef: active-request-scorer}, {pluginRef: max-score-picker}]}
"""


@pytest.fixture
def long_prompts():
    """One of 4,000 tokens a second, with answers of 150."""
    dice, at_s, arrivals = random.Random(1), 0.0, []
    for index in range(120):
        at_s += dice.expovariate(1.0)
        prompt = Segment(2 * index, max(64, int(dice.lognormvariate(0, 0.4) * 4000)))
        arrivals.append(Arrival(at_s=at_s, prompt=(prompt,), output=Segment(2 * index + 1, 150)))
    return arrivals


def run(arrivals, text, labels=(), failures=()):
    fleet = Fleet(engines=ENGINES, labels=labels, failures=failures)
    return simulate(arrivals, fleet, JudgeChooser(config.load(text).policy, fleet, random.Random(1))).finished


def worst_tpot_s(finished):
    return sorted(each.tpot_s for each in finished)[int(0.99 * (len(finished) - 1))]


def test_long_prompts_do_not_hold_up_the_answers_of_others(long_prompts):
    divided, whole = run(long_prompts, STAGES, ROLES), run(long_prompts, config.DEFAULT)
    assert all(each.prefilled_by in (0, 1) and each.endpoint in (2, 3) for each in divided)
    assert worst_tpot_s(divided) < 0.75 * worst_tpot_s(whole)


def test_every_request_is_answered_although_a_prefiller_dies(long_prompts):
    finished = run(long_prompts, STAGES, ROLES, (Crash(endpoint=0, at_s=20.0),))
    assert not any(each.failed or each.refused for each in finished)
    assert {each.output_tokens for each in finished} == {150}
