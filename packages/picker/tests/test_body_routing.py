import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.config.base_models import read_base_models
from shunter.picker.core.body_routing import ModelNamer
from shunter.picker.core.events import BodyMode
from shunter.picker.core.tables import COUNTERS_BYTES, Counters
from shunter.picker.errors import ConfigError
from shunter.picker.testing import JSON_POST, FakeEnvoy

BASES = {"llama": "llama", "food-review": "llama"}
SEES_BODY = [BodyMode.FULL_DUPLEX_STREAMED, BodyMode.BUFFERED]
CLIENTS_OWN = [("x-gateway-model-name", "stolen"), ("x-gateway-base-model-name", "stolen")]
NO_RESPONSE = BodyMode.NONE


@pytest.fixture
def counters():
    counters = Counters(bytearray(COUNTERS_BYTES))
    counters.begin(1, pid=0, now_ns=0)
    return counters


@pytest.fixture
def route(counters):
    def route(body=None, mode=BodyMode.BUFFERED, headers=JSON_POST, pieces=(), trailers=False):
        envoy = FakeEnvoy.before(ModelNamer(BASES, counters), mode, NO_RESPONSE)
        pieces = pieces or (None if body is None else [body])
        envoy.request([*headers, *CLIENTS_OWN], pieces=pieces, trailers=trailers)
        return envoy

    return route


def told(envoy):
    headers = envoy.upstream_headers
    return headers.get("x-gateway-model-name"), headers.get("x-gateway-base-model-name")


@pytest.mark.parametrize("trailers", [False, True])
@pytest.mark.parametrize("mode", SEES_BODY)
@pytest.mark.parametrize(("model", "base"), [("food-review", "llama"), ("llama", "llama"), ("unknown", ""), ("モデル", "")])
def test_the_model_and_its_base_stand_in_headers(route, mode, model, base, trailers):
    body = json.dumps({"model": model, "prompt": "x" * 100_000}, ensure_ascii=False).encode()
    envoy = route(mode=mode, pieces=[body[:7], body[7:]], trailers=trailers)
    assert told(envoy) == (model.encode().decode("latin-1"), base)
    assert (envoy.upstream_body, envoy.endpoints) == (body, ())


@pytest.mark.parametrize("mode", SEES_BODY)
def test_the_route_is_chosen_again(route, mode):
    mutations = [reply.mutation for reply in route(b'{"model": "m"}', mode).replies if getattr(reply, "mutation", None)]
    assert any(mutation.clear_route_cache for mutation in mutations)


@pytest.mark.parametrize("mode", SEES_BODY)
@pytest.mark.parametrize("body", [b"{}", b'{"model": null}', b'{"model": ""}', None])
def test_without_a_model_a_request_passes_and_the_clients_own_words_do_not(route, mode, body):
    envoy = route(body, mode)
    assert (told(envoy), envoy.upstream_body) == ((None, None), body or b"")


@pytest.mark.parametrize("mode", [BodyMode.STREAMED, BodyMode.NONE])
def test_a_mode_that_hides_the_body_names_no_model(route, mode):
    assert told(route(b'{"model": "m"}', mode)) == (None, None)


def test_what_another_picker_will_read_stays(route):
    envoy = route(b'{"model": "m"}', headers=[*JSON_POST, ("x-llm-d-inference-objective", "o")])
    assert envoy.upstream_headers["x-llm-d-inference-objective"] == "o"


@pytest.mark.parametrize("mode", SEES_BODY)
@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"model": 5}', b'{"model": "a\\nb"}', b"\xff", b'{"model":' + b"[" * 100_000]
)
def test_what_should_be_json_and_is_not_is_refused(route, mode, body):
    envoy = route(body, mode)
    assert envoy.immediate.status == 400
    assert b"BadRequest" in envoy.immediate.body


def test_a_form_names_its_model_too(route):
    form = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nfood-review\r\n--b--'
    headers = [(":method", "POST"), (":path", "/v1/audio/transcriptions"), ("content-type", "multipart/form-data; boundary=b")]
    assert told(route(form, headers=headers)) == ("food-review", "llama")


def test_json_is_read_also_if_curl_calls_it_a_form(route):
    headers = [(":method", "POST"), (":path", "/"), ("content-type", "application/x-www-form-urlencoded")]
    assert told(route(b'{"model": "food-review"}', headers=headers)) == ("food-review", "llama")


def test_what_says_that_it_is_no_json_passes(route):
    headers = [(":method", "POST"), (":path", "/"), ("content-type", "application/grpc")]
    assert told(route(b"\0\0\0", headers=headers)) == (None, None)


def test_everything_is_counted(route, counters):
    for body in (b'{"model": "m"}', b'{"model": "m"}', b"{}", b"no"):
        route(body)
    tally = counters.tally()
    assert (tally.named, tally.nameless, tally.refusals) == (2, 1, {"BadRequest": 1})


@given(st.binary())
def test_any_bytes_are_named_or_refused(body):
    counters = Counters(bytearray(COUNTERS_BYTES))
    counters.begin(1, pid=0, now_ns=0)
    envoy = FakeEnvoy.before(ModelNamer({}, counters), BodyMode.FULL_DUPLEX_STREAMED, NO_RESPONSE)
    envoy.request(body=body)
    assert envoy.immediate or envoy.upstream_body == body


CONFIG_MAP = """\
apiVersion: v1
kind: ConfigMap
metadata: {name: %s, labels: {inference.networking.k8s.io/bbr-managed: "%s"}}
data:
  baseModel: %s
  adapters: %r
---
"""


def test_base_models_come_from_config_maps_with_the_label():
    text = CONFIG_MAP % ("a", "true", "llama", "- food\n- ' '\n- code") + CONFIG_MAP % ("b", "true", "llama", "- travel")
    text += CONFIG_MAP % ("c", "false", "other", "- food") + "kind: Secret\ndata: {baseModel: x}\n---\n"
    assert read_base_models(text) == {"llama": "llama", "food": "llama", "code": "llama", "travel": "llama"}
    assert read_base_models("") == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "not YAML documents: "),
        ("- a", "document 1 is no manifest: Expected `object`, got `array`"),
        ("kind: [ConfigMap]", "document 1 is no manifest: Expected `str`, got `array` - at `$.kind`"),
        (CONFIG_MAP % ("a", "true", "''", ""), "ConfigMap a: data.baseModel is ''; it must be the name of a model"),
        (CONFIG_MAP % ("a", "true", "5", ""), "ConfigMap a: data.baseModel is 5; it must be the name of a model"),
        (
            CONFIG_MAP % ("a", "true", "m", "one: two"),
            "ConfigMap a: data.adapters is 'one: two'; it must be text that is a YAML list of names",
        ),
        (CONFIG_MAP % ("a", "true", "m", "- 2001-99-99"), "ConfigMap a: data.adapters is '- 2001-99-99'; it must be"),
        (
            CONFIG_MAP % ("a", "true", "m", "- x") + CONFIG_MAP % ("b", "true", "n", "- x"),
            "ConfigMap b: 'x' belongs to 'm' already, here it is of 'n'; keep one",
        ),
    ],
)
def test_a_mistake_is_named(text, message):
    with pytest.raises(ConfigError) as caught:
        read_base_models(text)
    assert str(caught.value).startswith(message)
