"""A plan is complete: its files are what their readers accept, its commands are what the packages offer."""

import math
import re
import shlex

import msgspec
import pytest
from click.testing import CliRunner

from shunter.envoyconf import bootstrap, load_intent
from shunter.picker import config
from shunter.picker.config.tracing import TracingSettings, read_tracing
from shunter.picker.core.events import BodyMode, MoreTime
from shunter.picker.testing import FakeEnvoy, StubJudge
from shunter.scraper.shell.files import Files
from shunter.stack.core.plan import (
    Engine,
    Plan,
    Ports,
    commands,
    curl,
    endpoints_file,
    environment,
    envoy_intent,
    scrapes,
    stages_config,
)


@pytest.fixture
def plan():
    engines = (
        Engine(name="engine-0", address="127.0.0.1", port=8101, dialect="vllm", argv=("-m", "shunter.lab", "serve")),
        Engine(name="backend-1", address="::1", port=8102, dialect="sglang"),
    )
    ports = Ports(gateway=8080, picker=(9002, 9004), health=9003, admin=9090, collector=24224, envoy_admin=9901, scraper=9091)
    return Plan(directory="/run/shunter", profile="lean", model="m", ports=ports, engines=engines)


def test_the_scraper_accepts_the_endpoints_file(plan, tmp_path):
    path = tmp_path / "endpoints.yaml"
    path.write_bytes(endpoints_file(plan))
    cluster = Files(path).load()
    assert [(m.host, m.port, m.dialect.name) for m in cluster.members] == [("127.0.0.1", 8101, "vllm"), ("::1", 8102, "sglang")]
    assert [pool.name for pool in cluster.pools] == ["engines"]


def test_the_picker_accepts_the_configuration_of_stages():
    policy = config.load(stages_config()).policy
    assert policy.handler.name == "disagg-profile-handler"
    assert [(profile.name, profile.filters[0].name) for profile in policy.profiles] == [
        ("prefill", "prefill-filter"),
        ("decode", "decode-filter"),
    ]


def test_the_picker_accepts_the_configuration_with_a_stage_that_encodes():
    profiles = config.load(stages_config(encode=True)).policy.profiles
    assert [(profile.name, profile.filters[0].name) for profile in profiles][-1] == ("encode", "encode-filter")


def test_a_server_behind_a_sidecar_is_started_before_it(plan):
    decoder = msgspec.structs.replace(plan.engines[0], role="decode", behind=("-m", "server"))
    plan = msgspec.structs.replace(plan, engines=(decoder,))
    assert [*commands(plan, "/opt/envoy")][:2] == ["engine-0-server", "engine-0"]
    assert b"llm-d.ai/role: decode" in endpoints_file(plan)


@pytest.mark.parametrize("profile", ["lean", "usage", "full", "strict"])
def test_envoyconf_accepts_the_intent(plan, profile):
    plan = msgspec.structs.replace(plan, profile=profile)
    assert bootstrap(load_intent(envoy_intent(plan).decode()))["static_resources"]


@pytest.mark.parametrize(("ports", "sockets"), [((1,), [""]), ((1, 2), [".0", ".1"])])
def test_envoy_asks_at_the_sockets_at_which_the_picker_listens(plan, ports, sockets):
    plan = msgspec.structs.replace(plan, sockets=True, ports=msgspec.structs.replace(plan.ports, picker=ports))
    words = commands(plan, "envoy")["picker"]
    host, workers = (words[words.index(option) + 1] for option in ("--host", "--workers"))
    assert "--port" not in words
    [pool] = load_intent(envoy_intent(plan).decode()).pools
    assert [*pool.picker.addresses] == [f"{host}{suffix}" for suffix in sockets]
    assert int(workers) == len(ports)


def test_envoy_waits_as_long_as_the_picker_may_let_requests_wait(plan):
    for queue_s, wanted in ((0.0, (0, 300)), (60.0, (60, 300)), (600.0, (600, 602)), (float("inf"), (3598, 3600))):
        limits = load_intent(envoy_intent(msgspec.structs.replace(plan, queue_s=queue_s)).decode()).limits
        assert (limits.queue_seconds, limits.idle_timeout_seconds) == wanted


def test_envoy_grants_whatever_the_picker_asks_for(plan):
    for wait_s in (60.0, 3550.0, math.inf):
        envoy = FakeEnvoy.before(StubJudge(park_s=wait_s), BodyMode.BUFFERED)
        envoy.request(pieces=[b"{}"])
        (asked,) = [reply.timeout_s for reply in envoy.replies if isinstance(reply, MoreTime)]
        intent = load_intent(envoy_intent(msgspec.structs.replace(plan, queue_s=wait_s)).decode())
        text = msgspec.json.encode(bootstrap(intent)).decode()
        (granted,) = {float(found) for found in re.findall(r'"max_message_timeout":"([0-9.]+)s"', text)}
        assert asked <= granted, "what is too much is not granted in part"


def test_only_what_is_ours_is_started(plan):
    started = commands(plan, "/opt/envoy")
    assert list(started) == ["engine-0", "scraper", "picker", "control-plane", "envoy"]
    assert started["envoy"][0] == "/opt/envoy"


@pytest.mark.parametrize("name", ["scraper", "picker", "control-plane"])
def test_the_commands_take_these_options(plan, name):
    import importlib

    _, module, *arguments = commands(plan, "envoy")[name]
    main = importlib.import_module(f"{module}.cli").main
    result = CliRunner().invoke(main, [*arguments, "--help"])
    assert result.exit_code == 0, result.output


def test_the_picker_is_told_what_else_is_wanted_of_it(plan):
    told = commands(msgspec.structs.replace(plan, picker_options=("--log-decisions=1",)), "envoy")["picker"]
    assert told[-1] == "--log-decisions=1"


def test_the_picker_watches_a_configuration_of_the_users_and_no_other(plan):
    followed = msgspec.structs.replace(plan, originals={"picker.yaml": "/etc/my.yaml"})
    assert "--watch-config" in commands(followed, "envoy")["picker"]
    assert "--watch-config" not in commands(plan, "envoy")["picker"]


def test_prometheus_scrapes_everybody_and_is_there_only_if_it_is_asked_for(plan):
    watched = msgspec.structs.replace(plan, ports=msgspec.structs.replace(plan.ports, prometheus=9999))
    assert "prometheus" not in commands(plan, "envoy", prometheus="prom")
    program, *arguments = commands(watched, "envoy", prometheus="prom")["prometheus"]
    assert program == "prom"
    assert "--web.listen-address=127.0.0.1:9999" in arguments
    jobs = {
        job["job_name"]: job["static_configs"][0]["targets"] for job in msgspec.yaml.decode(scrapes(watched))["scrape_configs"]
    }
    assert jobs["picker"] == [f"127.0.0.1:{plan.ports.admin}"]
    assert jobs["engines"] == [engine.authority for engine in plan.engines]
    assert {*jobs} == {"picker", "scraper", "envoy", "engines"}


def test_the_curl_is_one_line_that_a_shell_reads_back(plan):
    line = curl(plan)
    assert line.startswith("curl ")
    assert "\n" not in line
    words = shlex.split(line)
    assert msgspec.json.decode(words[-1])["model"] == "m"


def test_who_is_told_where_spans_go(plan):
    traced = msgspec.structs.replace(plan, ports=msgspec.structs.replace(plan.ports, otlp_grpc=4317, otlp_http=4318))
    assert not plan.traces
    assert not environment(plan, "picker")
    told = {name: environment(traced, name) for name in commands(traced, "envoy", "jaeger")}
    assert {name for name, each in told.items() if each} == {"picker", "engine-0"}
    assert {each["OTEL_EXPORTER_OTLP_ENDPOINT"] for each in told.values() if each} == {"http://127.0.0.1:4318"}
    assert read_tracing(told["picker"]) == TracingSettings(share=0.0)
    assert load_intent(envoy_intent(traced).decode()).observability.tracing.collector == "127.0.0.1:4317"
    assert "traces" not in commands(plan, "envoy", "jaeger")
    assert "jaeger" not in commands(traced, "envoy")
