"""Model servers in pods, and exams as Jobs, in a cluster of one node where everything but its size is real."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys

import pytest
import yaml
from click.testing import CliRunner
from hack.kube import programs
from hack.kube.cluster import running_cluster
from hack.kube.image import PYTHON, write_image

from shunter.conformance.cli import main
from shunter.conformance.core.image import Image
from shunter.conformance.core.manifests import server_objects
from shunter.conformance.errors import LaunchError
from shunter.conformance.shell.launching.pod import Pod
from shunter.envoyconf.errors import ToolMissingError
from shunter.envoyconf.testing_gateway import own_network
from shunter.envoyconf.testing_kube import find_tool, running_kube

IMAGE = "shunter.test/lab-and-exam:1"
SERVE = ("shunter-lab", "serve", "--host", "0.0.0.0", "--shutdown-timeout", "5")
OURS = "app.kubernetes.io/managed-by=shunter-conformance"
JOB_WITHIN_S = 300

# An engine in name only, beside the server: it does nothing until somebody kills it, or this time is over.
SLEEPER = 'import time; open("/proc/self/comm", "w").write("VLLM::EngineCore"); time.sleep(600)'
WITH_ENGINE = ("sh", "-c", f"{PYTHON} -c '{SLEEPER}' & \"$@\" & wait $!", "-", *SERVE)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster that has an image with the lab and the exam, and that kubectl asks when nothing else is said."""
    archive = tmp_path_factory.mktemp("images") / "exam.tar"
    with contextlib.ExitStack() as stack:
        try:
            kubectl = ("kubectl", find_tool("kubectl"))
            write_image(archive, IMAGE, ["shunter-lab", "shunter-conformance"], tools=[kubectl])
            stack.enter_context(own_network())
            running = stack.enter_context(running_cluster([archive]))
        except (programs.Missing, ToolMissingError) as missing:
            pytest.skip(str(missing))
        except PermissionError:
            pytest.skip("no network namespace: only root can give a cluster a network of its own")
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("KUBECONFIG", str(running.kubeconfig))
        patch.setenv("PATH", f"{running.kubeconfig.parent}/bin", prepend=os.pathsep)
        yield running


@pytest.fixture
def left(cluster):
    """What is left of all that exams have created; what is being deleted does not count."""

    def look():
        objects = json.loads(cluster.kubectl("get", "pods,services,jobs", f"--selector={OURS}", "--output=json"))["items"]
        return [each["metadata"]["name"] for each in objects if "deletionTimestamp" not in each["metadata"]]

    return look


def exam(*words, **settings):
    command = [sys.executable, "-m", "shunter.conformance", "run", "--container", IMAGE, "--kube", *words, "--", *SERVE]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **settings)


def test_the_exam_of_a_pod_includes_how_it_ends(cluster, left):
    wanted = ("ms.reachability", "ms.cancel.stream", "ms.drain.ready-when-able", "ms.drain.in-flight")
    with exam("--tries", "1", *(word for each in wanted for word in ("--select", each))) as process:
        said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    for each in wanted[1:]:
        assert f"pass   {each}" in said
    assert "1.5 s for the way" in said
    assert not left()


def test_ctrl_c_leaves_nothing_in_the_cluster(cluster, left):
    with exam() as process:
        assert any("ms.reachability.health" in line for line in iter(process.stdout.readline, ""))
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130
    assert not left()


async def test_an_engine_is_killed_and_its_server_is_not(cluster):
    driver = Pod(Image(name=IMAGE, arguments=WITH_ENGINE), patch="metadata: {annotations: {asked-for: by-me}}")
    async with driver:
        await driver.kill_engine()
        assert not await driver.ended(1)
        (pod,) = json.loads(cluster.kubectl("get", "pods", f"--selector={OURS}", "--output=json"))["items"]
        assert pod["metadata"]["annotations"]["asked-for"] == "by-me"
        assert "serves" in driver.log()


async def test_what_ends_at_once_is_told_with_its_last_words(cluster, left):
    with pytest.raises(LaunchError, match=r"(?s)ended with exit code 3\b.*no weights here"):
        async with Pod(Image(name=IMAGE, arguments=("sh", "-c", "echo no weights here; exit 3"))):
            pass
    assert not left()


async def test_a_pod_that_no_node_can_take_is_told_why(cluster, left):
    with pytest.raises(LaunchError, match=r"not ready within 8 s: .*Insufficient nvidia.com/gpu"):
        async with Pod(Image(name=IMAGE, gpus="1"), ready_within_s=8):
            pass
    assert not left()


async def test_what_the_api_server_refuses_is_told_in_its_words(cluster, left):
    with pytest.raises(LaunchError, match='namespaces "nowhere" not found'):
        async with Pod(Image(name=IMAGE), namespace="nowhere"):
            pass


async def test_a_job_starts_a_server_examines_it_and_prints_its_report(cluster, left, tmp_path, eventually):
    cases = ("--select", "ms.reachability", "--select", "ms.drain.ready-when-able", "--select", "ms.drain.in-flight")
    words = ("--container", IMAGE, *cases, "--tries", "1", "--", *SERVE)
    printed = CliRunner().invoke(main, ["manifests", "--image", IMAGE, "--", *words]).output

    def ended():
        status = json.loads(cluster.kubectl("get", "job/shunter-exam", "--output=json"))["status"]
        return [each["type"] for each in status.get("conditions", ()) if each["type"] in {"Complete", "Failed"}]

    cluster.kubectl("create", "-f", "-", stdin=printed)
    try:
        how = await eventually(ended, JOB_WITHIN_S)
        said = cluster.kubectl("logs", "job/shunter-exam")
        assert how == ["Complete"], said
        assert "pass   ms.drain.in-flight" in said
        run, report = tmp_path / "run.ndjson", tmp_path / "report.yaml"
        run.write_text("".join(line for line in said.splitlines(keepends=True) if line.startswith("{")))
        assert not CliRunner().invoke(main, ["report", str(run), "-o", str(report)]).exit_code
        assert yaml.safe_load(report.read_text())["kind"] == "ConformanceReport"
        assert not [name for name in left() if re.fullmatch(r"shunter-exam-[0-9a-f]{8}", name)]
    finally:
        cluster.kubectl("delete", "-f", "-", stdin=printed)


def test_an_api_server_takes_what_an_exam_asks_for():
    """Also GPUs; and the Job where only harmless pods may run."""
    gpus = Image(name="vllm/vllm-openai:v0.12.0", arguments=("--model", "Qwen/Qwen3-0.6B"), environment={"A": "b"}, gpus="8")
    url = CliRunner().invoke(main, ["manifests", "--image", "exam:1", "--", "http://vllm.models:8000"]).output
    image = CliRunner().invoke(main, ["manifests", "--image", "exam:1", "--name", "e", "--", "--container", "vllm"]).output
    harmless = {"pod-security.kubernetes.io/enforce": "restricted"}
    try:
        with running_kube(crds=()) as kube:
            kube.apply(server_objects(gpus, "shunter-exam", 30), dry_run=True)
            labels = {"name": "harmless", "labels": harmless}
            kube.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": labels}])
            for text in (url, image):
                objects = list(yaml.safe_load_all(text))
                kube.kubectl("create", "--namespace=harmless", "--dry-run=server", "-f", "-", stdin=text)
                (job,) = (each for each in objects if each["kind"] == "Job")
                template = job["spec"]["template"]
                pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "exam"}, "spec": template["spec"]}
                kube.kubectl("create", "--namespace=harmless", "--dry-run=server", "-f", "-", stdin=json.dumps(pod))
    except ToolMissingError as missing:
        pytest.skip(str(missing))
