"""GET /v1/models, answered by the picker and by the body router."""

import json
import random

import pytest

from shunter.picker import config
from shunter.picker.core.body_routing import ModelNamer
from shunter.picker.core.events import BodyMode
from shunter.picker.core.judge import FleetJudge
from shunter.picker.core.judgement import Ask, Pick
from shunter.picker.core.tables import COUNTERS_BYTES, Counters
from shunter.picker.testing import FakeEnvoy
from shunter.snapshot import InferenceModel, Pool, Rewrite, RewriteRule, Target

GET = {":method": "GET", ":path": "/v1/models"}


@pytest.fixture
def make_judge(make_view):
    def make(**options):
        rules = (RewriteRule(models=("chat",), targets=(Target(model="llama"),)), RewriteRule(targets=(Target(model="x"),)))
        view = make_view(
            {"running_adapters": ("food",), "waiting_adapters": ("code",)},
            {},
            endpoints=[{"pools": (0,), "models": ("llama", "org/llama")}, {"pools": (1,), "models": ("qwen",)}],
            pools=(Pool(name="a"), Pool(name="b")),
            rewrites=(Rewrite(name="r", pool="a", rules=rules),),
            models=(InferenceModel(name="im", pool="b", model="old"),),
        )
        return FleetJudge(config.load().policy, lambda _now_ns: view, random.Random(1), **options)

    return make


def names(answer):
    assert answer.status == 200
    return [model["id"] for model in json.loads(answer.content)["data"]]


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/", "/v1/models?limit=20"])
def test_all_that_clients_may_ask_for_is_listed_by_pool(make_judge, path):
    judge = make_judge(serve_models=True)
    ask = {pool: Ask(GET | {":path": path}, b"", has_body=False, pool=pool) for pool in (None, "a", "b")}
    assert names(judge.decide(ask[None], 1.0)) == ["chat", "code", "food", "llama", "old", "org/llama", "qwen"]
    assert names(judge.decide(ask["a"], 1.0)) == ["chat", "code", "food", "llama", "org/llama"]
    assert names(judge.decide(ask["b"], 1.0)) == ["old", "qwen"]
    assert judge.counters.tally().refusals == {}


@pytest.mark.parametrize(("path", "found"), [("org/llama", "org/llama"), ("org%2Fllama", "org/llama"), ("mistral", None)])
def test_one_model_is_told_of_by_its_name(make_judge, path, found):
    answer = make_judge(serve_models=True).decide(Ask(GET | {":path": f"/v1/models/{path}"}, b"", has_body=False), 1.0)
    if found is None:
        assert (answer.status, answer.message) == (404, "there is no model 'mistral'")
    else:
        assert json.loads(answer.content) == {"id": found, "object": "model", "created": 0, "owned_by": "shunter"}


@pytest.mark.parametrize(
    "headers", [{":path": "/v1/modelsx"}, {":path": "/health"}, {":method": "DELETE"}, {":method": "HEAD"}]
)
def test_what_is_no_such_question_goes_to_an_engine(make_judge, headers):
    assert isinstance(make_judge(serve_models=True).decide(Ask(GET | headers, b"", has_body=False), 1.0), Pick)


def test_unless_asked_to_the_picker_leaves_it_to_an_engine(make_judge):
    assert isinstance(make_judge().decide(Ask(GET, b"", has_body=False), 1.0), Pick)


@pytest.mark.parametrize("mode", BodyMode)
def test_a_body_router_lists_what_it_was_told_of(mode):
    counters = Counters(bytearray(COUNTERS_BYTES))
    counters.begin(1, pid=0, now_ns=0)
    namer = ModelNamer({"food": "llama", "llama": "llama"}, counters, serve_models=True)
    envoy = FakeEnvoy.before(namer, mode, BodyMode.NONE)
    envoy.request(GET.items())
    assert envoy.immediate.status == 200
    assert dict(envoy.immediate.headers) == {"content-type": "application/json"}
    assert [model["id"] for model in json.loads(envoy.immediate.body)["data"]] == ["food", "llama"]
