"""Values of other charts become values that Shunter's takes, and none of theirs is lost in silence."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from shunter.envoyconf import IntentError
from shunter.envoyconf.cli import main
from shunter.envoyconf.core.kube.chart_values import MOVES, convert

ROOT = Path(__file__).parents[3]
SCHEMA = json.loads((ROOT / "deploy" / "chart" / "values.schema.json").read_text())
CONFIG = {
    "apiVersion": "inference.networking.x-k8s.io/v1alpha1",
    "kind": "EndpointPickerConfig",
    "plugins": [{"type": "queue-scorer"}],
}

GIE = {
    "inferenceExtension": {
        "replicas": 3,
        "image": {"tag": "v1.5.0"},
        "failureMode": "FailClose",
        "pluginsConfigFile": "ours.yaml",
        "pluginsCustomConfig": {"ours.yaml": yaml.safe_dump(CONFIG), "theirs.yaml": "x: y"},
        "env": [{"name": "OTEL_SERVICE_NAME", "value": "epp"}, {"name": "SD_QUEUE_DEPTH_THRESHOLD", "value": "5"}],
        "flags": {"drain-timeout": "1m30s", "secure-serving": False, "enable-pprof": False},
        "monitoring": {"interval": "10s", "prometheus": {"enabled": True, "auth": {"enabled": True}}},
        "tracing": {"enabled": True, "otelExporterEndpoint": "http://otel:4317", "sampling": {"samplerArg": "0.25"}},
    },
    "inferencePool": {"targetPorts": [{"number": 8000}, {"number": 8001}], "modelServers": {"matchLabels": {"app": "vllm"}}},
    "provider": {"name": "istio"},
}
OURS = {
    "picker": {
        "replicas": 3,
        "config": CONFIG,
        "extraEnv": [{"name": "OTEL_SERVICE_NAME", "value": "epp"}],
        "tracing": {"endpoint": "http://otel:4318", "samplePercent": 25},
        "drainSeconds": 90,
    },
    "pool": {"failureMode": "FailClose", "targetPorts": [8000, 8001], "selector": {"app": "vllm"}},
    "tls": {"enabled": False},
    "monitoring": {"intervalSeconds": 10, "podMonitor": True},
}
ROUTER = {
    "router": {
        "epp": {"replicas": 2, "resources": {"requests": {"cpu": "8"}}},
        "modelServers": {"matchLabels": {"app": "vllm"}, "targetPorts": [8000], "protocol": "grpc", "type": "vllm"},
        "inferencePool": {"create": True, "failureMode": "FailOpen"},
        "inferenceObjectives": [{"name": "urgent", "priority": 10}],
        "proxy": {"enabled": True, "mode": "service", "replicas": 2},
    }
}


def lines(values):
    return convert(yaml.safe_dump(values), "values.yaml").notes


def test_values_of_the_inference_pool_chart():
    assert convert(yaml.safe_dump(GIE), "values.yaml").values == OURS


def test_values_of_the_router_charts():
    assert convert(yaml.safe_dump(ROUTER), "values.yaml").values == {
        "picker": {"replicas": 2},
        "pool": {
            "selector": {"app": "vllm"},
            "targetPorts": [8000],
            "appProtocol": "kubernetes.io/h2c",
            "create": True,
            "failureMode": "FailOpen",
        },
        "objectives": [{"name": "urgent", "priority": 10}],
        "gateway": {"enabled": True, "replicas": 2},
    }


@pytest.mark.parametrize("values", [GIE, ROUTER])
def test_each_is_told_where_it_went_or_why_it_did_not(values):
    def leaves(value, path=()):
        if isinstance(value, dict):
            return [leaf for name, below in value.items() for leaf in leaves(below, (*path, name))]
        return [".".join(path)]

    told = [note.split()[1] for note in lines(values)]
    assert all(any(leaf == name or leaf.startswith(f"{name}.") for name in told) for leaf in leaves(values))
    assert any("provider is left out: `shunter envoyconf generate`" in note for note in lines(GIE))
    assert any("flags.enable-pprof is left out: options of `shunter picker run` differ" in note for note in lines(GIE))


def test_a_part_of_all_traces_is_a_percentage_as_people_write_it():
    values = {"inferenceExtension": {"tracing": {"sampling": {"samplerArg": "0.07"}}}}
    assert convert(yaml.safe_dump(values), "values.yaml").values == {"picker": {"tracing": {"samplePercent": 7}}}


def test_what_is_not_understood_is_said_with_its_line():
    (note,) = lines({"inferenceExtension": {"replicas": "many"}})
    assert note == "values.yaml:2: inferenceExtension.replicas is left out: not understood"


@pytest.mark.parametrize("text", ["replicaCount: 1", "", "a: 1\n---\nrouter: {}", "[1]", "\tno"])
def test_other_values_are_refused(text):
    with pytest.raises(IntentError, match=r"values\.yaml"):
        convert(text, "values.yaml")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("ab:/.-1sm", max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "value", "number", "priority", "x"]), inner)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(sorted(MOVES)), anything, min_size=1, max_size=6))
def test_whatever_theirs_say_the_chart_takes_ours(settings):
    values = {}
    for name, value in settings.items():
        *above, last = name.split(".")
        inner = values
        for step in above:
            inner = inner.setdefault(step, {})
        inner[last] = value
    jsonschema.validate(convert(json.dumps(values), "values.yaml").values, SCHEMA)


def test_the_command_prints_values_and_tells_the_rest_beside(tmp_path):
    (tmp_path / "values.yaml").write_text(yaml.safe_dump(GIE))
    done = CliRunner().invoke(main, ["migrate-values", "-f", str(tmp_path / "values.yaml")])
    assert not done.exit_code
    assert yaml.safe_load(done.stdout) == OURS
    assert "inferenceExtension.replicas is picker.replicas" in done.stderr
    assert CliRunner().invoke(main, ["migrate-values"], input="a: 1").exit_code == 2


def test_the_page_shows_what_is_printed():
    page = (ROOT / "docs" / "migrate-charts.md").read_text()
    (theirs,) = re.findall(r"```yaml\n# gie.yaml\n(.*?)```", page, re.DOTALL)
    (said, ours) = re.search(r"> values.yaml\n(.*?)\$ cat values.yaml\n(.*?)\$ helm", page, re.DOTALL).groups()
    conversion = convert(theirs, "gie.yaml")
    assert said.splitlines() == list(conversion.notes)
    assert yaml.safe_load(ours) == conversion.values
