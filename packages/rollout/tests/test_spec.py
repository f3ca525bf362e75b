import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.rollout.core.spec import Rollout, fraction_of, read_rollout, seconds_of
from shunter.rollout.core.telling import outline
from shunter.rollout.errors import ConfigError


def test_a_rollout_survives_being_written_down(make_rollout):
    rollout = make_rollout("analysis: {latency: 2, errorRate: 5%}", "steps: [{percent: 5, pause: 1m}, 100]", without=["steps"])
    assert msgspec.json.decode(msgspec.json.encode(rollout), type=Rollout) == rollout
    assert [(stage.percent, stage.pause) for stage in rollout.stages] == [(5, "1m"), (100, "")]


@pytest.mark.parametrize(
    ("without", "line", "words"),
    [
        (["pickers"], 'pickers: ["http://127.0.0.1:99999"]', "$.pickers: http://127.0.0.1:99999: Port out of range"),
        (["pickers"], 'pickers: ["http://[::1:9090"]', "$.pickers: http://[::1:9090: "),
        (["steps"], "steps: [10, 5, 100]", "$.steps: percents rise and end at 100, found [10, 5, 100]"),
        (["steps"], "steps: [1, 50]", "$.steps: percents rise and end at 100, found [1, 50]"),
        (["steps"], "steps: [0, 100]", "$.steps[0]: Expected `int` >= 1, found '0'"),
        (["pause"], "pause: soon", "found 'soon'"),
        (["model"], "modle: review", "$.modle: unknown field; did you mean model?"),
        (["model"], "", "$.model: say what clients ask for"),
        (["model"], "model: review-v2", "$.model: 'review-v2' names a version"),
        (["to"], "to: {model: review-v1}", "$.to.model: it is 'review-v1', which $.from.model is too"),
        (["to"], "to: {source: /a}", "$.to.model: $.traffic.rewriteFile moves traffic between models: say which"),
        (["traffic"], "traffic: {}", "$.traffic: give one of rewriteFile, rewrite and httpRoute, found none"),
        (["traffic"], "traffic: {rewriteFile: a, httpRoute: b}", "found rewriteFile, httpRoute"),
        (["traffic"], "traffic: {httpRoute: r}", "$.from.pool: $.traffic.httpRoute moves traffic between pools: say which"),
        (["pickers"], "", "$.pickers: they tell where review-v1 is and how it does"),
        (["pickers"], "pickers: [127.0.0.1:9090]", "$.pickers[0]: "),
        (
            ["pool"],
            "pool: prod/engines",
            "$.traffic.namespace: it is 'default', but a rewrite has to be where its pool is: prod",
        ),
        (["traffic", "pool"], "traffic: {rewrite: review}", "$.pool: an InferenceModelRewrite is of one InferencePool"),
        (
            ["traffic", "from", "to"],
            "traffic: {httpRoute: r}\nfrom: {pool: a}\nto: {pool: b}",
            "$.pickers: http://127.0.0.1:9090 counts the requests of both pools together",
        ),
        ([], "analysis: {errorrate: 1%}", "$.analysis.errorrate: unknown field; did you mean errorRate?"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_a_remedy(make_rollout, without, line, words):
    with pytest.raises(ConfigError) as caught:
        make_rollout(line, without=without)
    assert words in str(caught.value)
    assert str(caught.value).startswith("rollout.yaml: ")


def test_two_pools_need_no_models(make_rollout):
    rollout = make_rollout(
        'from: {pool: llama-v1, pickers: ["http://v1-pickers:9090"]}',
        'to: {pool: llama-v2, pickers: ["http://v2-pickers:9090"]}',
        "traffic: {httpRoute: llm}",
        without=["from", "to", "traffic", "model", "pool"],
    )
    assert (rollout.from_.title, rollout.to.title) == ("llama-v1", "llama-v2")


@pytest.mark.parametrize(("text", "seconds"), [("500ms", 0.5), ("60s", 60), ("5m", 300), ("1.5h", 5400), ("7", 7)])
def test_durations(text, seconds):
    assert seconds_of(text) == seconds


def test_fractions():
    assert fraction_of("2%") == fraction_of("0.02") == 0.02


def test_what_is_going_to_be_done_is_told_step_by_step(make_rollout):
    assert outline(make_rollout()).splitlines() == [
        "load review-v2 from /a/v2 wherever it is missing",
        "  1 % review-v2, for 60s or more",
        " 10 % review-v2, for 60s or more",
        "100 % review-v2, for 60s or more",
        "      judged by 100 requests; rollback if 2% more fail, or the first token takes 1.5 times as long (at 0.9)",
        "wait until nothing of review-v1 runs",
        "unload review-v1",
    ]


@given(st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_no_bytes_are_anything_but_a_rollout_or_an_error(text):
    with contextlib.suppress(ConfigError):
        read_rollout("r", text)
