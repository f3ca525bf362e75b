"""The Helm chart, rendered by Helm and judged by a real Kubernetes API."""

import json
import re
import subprocess
from urllib.parse import urlsplit

import pytest
import yaml
from click.testing import CliRunner
from hack.kube import images
from hack.kube.stage import CHART

from shunter.envoyconf.core.intent import Intent, Picker, PickerTls, Pool, Profile
from shunter.envoyconf.core.intent import Kubernetes as Place
from shunter.envoyconf.core.kube.install import installation
from shunter.envoyconf.errors import KubernetesRefusedError, ToolMissingError
from shunter.envoyconf.shell.envoy import tools_dir
from shunter.envoyconf.testing_kube import find_crds, find_tool, running_kube
from shunter.picker.cli import main as picker
from shunter.picker.config.service_levels import read_service_levels
from shunter.picker.config.tracing import read_tracing
from shunter.rollout.cli import main as rollout_commands
from shunter.rollout.core.desired import read_desired
from shunter.rollout.core.spec import read_rollout
from shunter.scraper.cli import main as scraper

MINIMAL = {"pool": {"selector": {"app": "vllm"}}}
RESTRICTED = {
    f"pod-security.kubernetes.io/{key}": value for key, value in (("enforce", "restricted"), ("enforce-version", "v1.36"))
}
# Of operators, whose definitions hack/kube/fetch-crds fetches.
ELSEWHERE = {"Certificate", "PodMonitor", "PrometheusRule", "ScaledObject"}

VARIANTS = {
    "as it comes": {},
    "with an Envoy": {"gateway": {"enabled": True, "profile": "full", "intent": {"limits": {"retries": 3}}}},
    "in the clear": {"tls": {"enabled": False}, "gateway": {"enabled": True}},
    "a certificate of others": {"tls": {"secret": "ours"}},
    "cert-manager": {"tls": {"certManager": {"issuer": "ca"}}},
    "everything": {
        "pool": {"targetPorts": [8000, 8001], "appProtocol": "kubernetes.io/h2c", "failureMode": "FailClose"},
        "objectives": [{"name": "urgent", "priority": 10}, {"name": "batch", "priority": -1}],
        "image": {"registry": "registry.example/llm", "tag": "2", "pullSecrets": ["credentials"]},
        "picker": {
            "config": {"plugins": [{"type": "queue-scorer"}], "schedulingProfiles": []},
            "records": True,
            "tracing": {"endpoint": "http://otel-collector:4318", "samplePercent": 2.5},
            "serviceLevels": [{"name": "chat", "match": {"priority": 1}, "target": 0.99, "ttft": "500ms"}],
            "extraArgs": ["--serve-models"],
            "extraEnv": [{"name": "OTEL_SERVICE_NAME", "value": "picker"}],
        },
        "autoscaling": {"enabled": True},
        "networkPolicy": {
            "enabled": True,
            "gateways": [{"podSelector": {"matchLabels": {"app": "envoy"}}}],
            "monitoring": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
        },
        "adapters": {
            "enabled": True,
            "config": {"vLLMLoRAConfig": {"ensureExist": {"models": [{"id": "food-review", "source": "/adapters/food"}]}}},
            "prune": True,
            "tokenSecret": "servers",
        },
        "log": {"decisions": 0.01},
        "monitoring": {"podMonitor": True, "rules": True, "labels": {"release": "prometheus"}},
        "sharing": {"secret": "redis"},
        "podLabels": {"team": "llm"},
        "podAnnotations": {"note": "none"},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "llm", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "system-cluster-critical",
    },
    "pickers that tell each other": {"sharing": {"url": "redis://redis.llm:6379"}},
    "a pool that is there": {"pool": {"create": False, "selector": {}}, "scraper": {"writeStatus": False}},
    "a configuration that is there": {"picker": {"existingConfigMap": "scheduling"}},
    "scaled by KEDA": {
        "autoscaling": {"enabled": True, "kind": "keda", "triggers": [{"type": "cron", "metadata": {"timezone": "UTC"}}]}
    },
}

REFUSED = {
    "no selector": ({"pool": {"selector": None}}, "pool.selector: say which labels"),
    "an unknown value": ({"pool": {"slector": {}}}, "at '/pool': additional properties 'slector' not allowed"),
    "words for a number": ({"picker": {"replicas": "two"}}, "at '/picker/replicas': got string, want integer"),
    "a port that is none": ({"pool": {"targetPorts": [99999]}}, "at '/pool/targetPorts/0': maximum: got 99,999, want 65,535"),
    "too many ports": ({"pool": {"targetPorts": [*range(1, 10)]}}, "at '/pool/targetPorts': maxItems: got 9, want 8"),
    "a mode that is none": ({"pool": {"failureMode": "FailSoft"}}, "at '/pool/failureMode': value must be one of"),
    "a name that no Service can have": ({"pool": {"name": "Llama.3"}}, "at '/pool/name'"),
    "a label that Pods are selected by": (
        {"podLabels": {"app.kubernetes.io/name": "mine"}},
        "podLabels: Deployment and Service know the pickers' Pods by app.kubernetes.io/name; choose another label",
    ),
    "a level without a target": (
        {"picker": {"serviceLevels": [{"name": "chat", "ttft": "500ms"}]}},
        "at '/picker/serviceLevels/0': missing property 'target'",
    ),
    "KEDA's triggers without KEDA": (
        {"autoscaling": {"enabled": True, "triggers": [{"type": "cron"}]}},
        "autoscaling.triggers: they are KEDA's",
    ),
    "adapters that nobody names": ({"adapters": {"enabled": True}}, "adapters.config: say which adapters there should be"),
    "an Envoy that knows nobody": (
        {"pool": {"create": False, "selector": None}, "gateway": {"enabled": True}},
        "gateway.enabled: the Envoy finds model servers by pool.selector",
    ),
}


def merged(base, over):
    both = {key: merged(base[key], over[key]) for key in base.keys() & over.keys() if isinstance(over[key], dict)}
    return base | over | both


def helm(*arguments, values=None):
    try:
        program = find_tool("helm")
    except ToolMissingError as missing:
        pytest.skip(f"{missing} (hack/kube/fetch-tools builds it)")
    return subprocess.run([program, *arguments], input=json.dumps(values), capture_output=True, text=True, check=False)


def render(values, *options):
    done = helm("template", "llama", CHART, *options, "--namespace=llm", "--values=-", values=merged(MINIMAL, values))
    assert not done.returncode, done.stderr
    return [each for each in yaml.safe_load_all(done.stdout) if each]


def one(kind, documents, name="llama-picker"):
    (found,) = [each for each in documents if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


@pytest.fixture(scope="module")
def kube():
    try:
        with running_kube(crds=(*find_crds("gie_"), *find_crds("llmd_"))) as running:
            space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "llm", "labels": RESTRICTED}}
            running.apply([space])
            yield running
    except ToolMissingError as missing:
        pytest.skip(str(missing))


@pytest.mark.parametrize("values", VARIANTS.values(), ids=VARIANTS.keys())
def test_the_api_accepts_every_object_and_every_pod_where_only_harmless_ones_may_run(kube, values):
    documents = render(values)
    kube.apply([each for each in documents if each["kind"] not in ELSEWHERE], dry_run=True)
    for deployment in (each for each in documents if each["kind"] == "Deployment"):
        template = deployment["spec"]["template"]
        pod = {"apiVersion": "v1", "kind": "Pod", **template}
        pod["metadata"] |= {"name": "any", "namespace": "llm"}
        pod["spec"].pop("priorityClassName", None)  # a controller's to resolve
        kube.apply([pod], dry_run=True)


def test_operators_definitions_accept_what_is_theirs(kube):
    """Of all variants: KEDA's, cert-manager's and those of Prometheus' operator; and what a page shows of scaling servers."""
    definitions = sorted((tools_dir() / "operators").glob("*.yaml"))
    if not definitions:
        pytest.skip("no definitions of operators: hack/kube/fetch-crds fetches them")
    for each in definitions:
        kube.kubectl("apply", "--server-side", "-f", str(each))
    kube.kubectl("wait", "--for=condition=Established", "--timeout=60s", "customresourcedefinitions", "--all")
    objects = [each for values in VARIANTS.values() for each in render(values) if each["kind"] in ELSEWHERE]
    assert {each["kind"] for each in objects} == ELSEWHERE
    page = (images.ROOT / "docs" / "autoscaling.md").read_text()
    shown = [yaml.safe_load(each) for each in re.findall(r"^```yaml\n(apiVersion.*?)^```$", page, re.DOTALL | re.MULTILINE)]
    assert {each["kind"] for each in shown} == {"ScaledObject", "HorizontalPodAutoscaler"}
    for each in (*objects, *shown):
        each["metadata"].setdefault("namespace", "llm")
        kube.apply([each], dry_run=True)


def test_the_example_of_a_rollout_may_run_where_only_harmless_pods_may_and_its_file_is_one(kube):
    documents = list(yaml.safe_load_all((CHART.parent / "examples" / "rollout.yaml").read_text()))
    kube.apply(documents, dry_run=True)
    spec = one("Job", documents, "food-review-v2")["spec"]["template"]["spec"]
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any", "namespace": "llm"}, "spec": spec}
    kube.apply([pod], dry_run=True)
    rollout = read_rollout("rollout.yaml", one("ConfigMap", documents, "food-review-v2")["data"]["rollout.yaml"].encode())
    (url,) = rollout.pickers
    assert one("Service", render({}), urlsplit(url).hostname)["spec"]["clusterIP"] == "None", "all pickers are asked"


@pytest.mark.parametrize(("values", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_is_refused_in_words_before_anything_is_changed(values, words):
    done = helm("template", "llama", CHART, "--namespace=llm", "--values=-", values=merged(MINIMAL, values))
    assert done.returncode
    assert words in done.stderr


def test_a_release_whose_name_is_too_long_for_a_pool_is_told_so():
    done = helm("template", "l" * 49, CHART, "--set=pool.selector.app=vllm")
    assert "at most 48 small letters" in done.stderr


def test_helm_finds_nothing_wrong():
    done = helm("lint", CHART, "--strict", "--values=-", values=MINIMAL)
    assert not done.returncode, done.stdout


def test_only_the_scraper_is_given_a_token():
    spec = one("Deployment", render({}))["spec"]["template"]["spec"]
    assert spec["automountServiceAccountToken"] is False
    containers = [*spec["initContainers"], *spec["containers"]]
    holders = [each["name"] for each in containers if "token" in {mount["name"] for mount in each["volumeMounts"]}]
    assert holders == ["scraper"]


def test_every_container_says_what_it_needs_as_a_quota_wants():
    for each in (each for each in render({"gateway": {"enabled": True}}) if each["kind"] == "Deployment"):
        spec = each["spec"]["template"]["spec"]
        for container in (*spec["initContainers"], *spec["containers"]):
            assert container["resources"].keys() == {"requests", "limits"}, container["name"]


@pytest.mark.parametrize("write_status", [True, False])
def test_the_rights_are_those_that_the_scraper_asks_for(write_status):
    options = ["--namespace=llm", "--service-account=llama-picker", "--service-account-namespace=llm", "--name=llama-picker"]
    printed = CliRunner().invoke(scraper, ["rbac", *options, *(["--write-status"] if write_status else [])]).output
    wanted = list(yaml.safe_load_all(printed))
    given = [each for each in render({"scraper": {"writeStatus": write_status}}) if each["kind"].startswith("Role")]
    for each in given:
        del each["metadata"]["labels"]
    assert sorted(given, key=json.dumps) == sorted(wanted, key=json.dumps)


def test_names_ports_and_labels_are_those_that_envoyconf_installs():
    picker = Picker(tls=PickerTls(), collector="llama-picker.llm.svc:24224")
    pool = Pool(name="llama", selector={"app": "vllm"}, picker=picker)
    intent = Intent(pools=(pool,), profile=Profile.FULL, kubernetes=Place(namespace="llm"))
    theirs = [each for artefact in installation(intent) for each in artefact.documents]
    ours = render({"picker": {"records": True}, "gateway": {"enabled": True}})
    for each in theirs:
        same = one(each["kind"], ours, each["metadata"]["name"])
        if each["kind"] == "Service":
            assert same["spec"] == each["spec"]
    selectors = [one("Deployment", documents)["spec"]["selector"] for documents in (theirs, ours)]
    assert selectors[0] == selectors[1]


@pytest.mark.parametrize("sharing", [{"secret": "redis"}, {"url": "redis://:secret@redis.llm:6379"}])
def test_the_password_of_a_redis_is_in_no_list_of_processes(sharing):
    containers = one("Deployment", render({"sharing": sharing}))["spec"]["template"]["spec"]["containers"]
    (container,) = [each for each in containers if "shunter-picker" in each["command"]]
    assert not [word for word in container["command"] if word.startswith("--share=")]
    (option,) = [each for each in picker.commands["run"].params if each.name == "share_url"]
    assert [each["name"] for each in container["env"] if each["name"].endswith("SHARE_URL")] == [option.envvar]


def test_the_pool_names_the_picker_that_is_installed():
    documents = render({})
    reference = one("InferencePool", documents, "llama")["spec"]["endpointPickerRef"]
    ports = {port["port"] for port in one(reference["kind"], documents, reference["name"])["spec"]["ports"]}
    assert reference["port"]["number"] in ports


def test_objectives_are_of_the_project_that_is_installed():
    former, moved = ("inference.networking.x-k8s.io/v1alpha2", "llm-d.ai/v1alpha2")
    for served, wanted in (((), moved), ((former,), former), ((former, moved), moved)):
        versions = [f"--api-versions={version}/InferenceObjective" for version in served]
        assert (
            one("InferenceObjective", render({"objectives": [{"name": "urgent"}]}, *versions), "urgent")["apiVersion"] == wanted
        )


def test_service_levels_are_such_as_a_picker_reads_and_stand_where_it_looks():
    for there in ({}, {"existingConfigMap": "scheduling"}):
        documents = render({"picker": {**VARIANTS["everything"]["picker"], "config": None, **there}})
        (level,) = read_service_levels(one("ConfigMap", documents)["data"]["service-levels.yaml"])
        assert (level.name, level.target) == ("chat", 0.99)
        spec = one("Deployment", documents)["spec"]["template"]["spec"]
        (sources,) = [volume["projected"]["sources"] for volume in spec["volumes"] if volume["name"] == "configuration"]
        names = [each["configMap"]["name"] for each in sources]
        assert names == [*there.values(), "llama-picker"]
        (command,) = [each["command"] for each in spec["containers"]]
        assert "--service-levels=/etc/shunter/service-levels.yaml" in command


def test_traces_are_sent_as_the_picker_reads_it():
    (container,) = one("Deployment", render(VARIANTS["everything"]))["spec"]["template"]["spec"]["containers"]
    environment = {each["name"]: each.get("value", "") for each in container["env"]}
    assert environment["OTEL_EXPORTER_OTLP_ENDPOINT"] == "http://otel-collector:4318"
    assert read_tracing(environment).share == 0.025


def test_who_keeps_adapters_reads_what_the_scraper_reads_and_writes_nothing_to_kubernetes():
    documents = render(VARIANTS["everything"])
    rules = one("Role", documents, "llama-adapters")["rules"]
    assert {verb for rule in rules for verb in rule["verbs"]} == {"list", "watch"}
    spec = one("Deployment", documents, "llama-adapters")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    sync = rollout_commands.commands["sync"]
    options = {word.partition("=")[0] for word in container["command"][2:]}
    assert options <= {name for each in sync.params for name in each.opts}
    desired = read_desired("configmap.yaml", one("ConfigMap", documents, "llama-adapters")["data"]["configmap.yaml"].encode())
    assert [each.id for each in desired.wanted] == ["food-review"]


def test_the_envoy_of_the_release_may_ask_whoever_else_may():
    others = [{"podSelector": {"matchLabels": {"app": "envoy"}}}]
    documents = render({"gateway": {"enabled": True}, "networkPolicy": {"enabled": True, "gateways": others}})
    (asked, _) = one("NetworkPolicy", documents)["spec"]["ingress"]
    own = one("Deployment", documents, "llama-gateway")["spec"]["selector"]
    assert asked["from"] == [*others, {"podSelector": own}]
    assert asked["ports"] == [{"port": 9002}, {"port": 9003}]


def test_prometheus_looks_where_pages_are():
    documents = render(VARIANTS["everything"])
    spec = one("Deployment", documents)["spec"]["template"]["spec"]
    served = {port["name"] for each in (*spec["initContainers"], *spec["containers"]) for port in each.get("ports", ())}
    assert {each["port"] for each in one("PodMonitor", documents)["spec"]["podMetricsEndpoints"]} <= served
    assert one("PrometheusRule", documents)["spec"]["groups"]


def test_a_secret_that_is_wanted_is_the_one_that_cert_manager_makes():
    documents = render(VARIANTS["cert-manager"])
    volumes = one("Deployment", documents)["spec"]["template"]["spec"]["volumes"]
    (secret,) = [volume["secret"]["secretName"] for volume in volumes if "secret" in volume]
    assert one("Certificate", documents)["spec"]["secretName"] == secret


def test_an_api_server_refuses_what_is_not_confined(kube):
    """That the other test could fail."""
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "any", "namespace": "llm"}}
    with pytest.raises(KubernetesRefusedError, match="restricted"):
        kube.apply([pod | {"spec": {"containers": [{"name": "any", "image": "any"}]}}], dry_run=True)
