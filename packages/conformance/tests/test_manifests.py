"""What an exam asks Kubernetes for, as values."""

import re

import pytest
import yaml
from click.testing import CliRunner

from shunter.conformance.cli import main
from shunter.conformance.core.image import Image
from shunter.conformance.core.manifests import exam_job, server_objects

VLLM = Image(name="vllm/vllm-openai:v0.12.0", arguments=("--model", "Qwen/Qwen3-0.6B"), environment={"HF_TOKEN": "t"}, gpus="2")


def printed(*words):
    result = CliRunner().invoke(main, ["manifests", *words], catch_exceptions=False)
    assert not result.exit_code, result.output
    return {each["kind"]: each for each in yaml.safe_load_all(result.output)}


def refused(*words):
    result = CliRunner().invoke(main, ["manifests", *words])
    assert result.exit_code == 2
    return result.output


def command(job):
    return job["spec"]["template"]["spec"]["containers"][0]["command"]


def test_the_service_leads_to_the_pod():
    pod, service = server_objects(VLLM, "exam", 30)
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    names = [port["name"] for port in pod["spec"]["containers"][0]["ports"]]
    assert [port["targetPort"] for port in service["spec"]["ports"]] == names


def test_the_service_leads_to_a_pod_that_is_not_ready_or_about_to_end():
    _, service = server_objects(VLLM, "exam", 30)
    assert service["spec"]["publishNotReadyAddresses"] is True


def test_no_service_sets_variables_that_an_engine_takes_for_its_own():
    pod, _ = server_objects(VLLM, "exam", 30)
    assert pod["spec"]["enableServiceLinks"] is False


def test_the_pod_is_told_what_the_image_needs():
    pod, _ = server_objects(VLLM, "exam", 7.6)
    (container,) = pod["spec"]["containers"]
    assert container["args"] == ["--model", "Qwen/Qwen3-0.6B"]
    assert container["env"] == [{"name": "HF_TOKEN", "value": "t"}]
    assert container["resources"] == {"limits": {"nvidia.com/gpu": "2"}}
    assert pod["spec"]["terminationGracePeriodSeconds"] == 8


def test_a_pod_without_wishes_asks_for_nothing():
    pod, _ = server_objects(Image(name="x"), "exam", 30)
    assert not {"args", "env", "resources"} & pod["spec"]["containers"][0].keys()


def test_what_an_exam_in_a_cluster_starts_goes_with_it():
    for each in server_objects(VLLM, "exam", 30, ("exam-x7", "some-uid")):
        (owner,) = each["metadata"]["ownerReferences"]
        assert owner == {"apiVersion": "v1", "kind": "Pod", "name": "exam-x7", "uid": "some-uid"}


def test_an_exam_of_a_url_has_no_rights():
    *rights, files, job = exam_job("e", "i", ["http://x"], files={}, starts_servers=False)
    assert not rights
    assert files["kind"] == "ConfigMap"
    assert job["spec"]["template"]["spec"]["automountServiceAccountToken"] is False


def test_an_exam_that_starts_a_server_has_the_rights_for_that():
    objects = {each["kind"]: each for each in exam_job("e", "i", ["--container", "x"], files={}, starts_servers=True)}
    assert {"ServiceAccount", "Role", "RoleBinding"} <= objects.keys()
    assert objects["Job"]["spec"]["template"]["spec"]["serviceAccountName"] == "e"


def test_a_job_does_what_run_does():
    objects = printed("--image", "exam:1", "--", "http://vllm.models:8000", "--profile", "gie")
    assert objects.keys() == {"ConfigMap", "Job"}
    assert command(objects["Job"])[-3:] == ["http://vllm.models:8000", "--profile", "gie"]


def test_a_job_that_starts_a_server_starts_it_in_its_cluster():
    objects = printed("--image", "exam:1", "--", "--container", "vllm", "--", "--model", "m")
    words = command(objects["Job"])
    assert "--kube" in words
    assert words[-3:] == ["--", "--model", "m"]
    assert words.index("--report") < words.index("--")


@pytest.mark.parametrize("separator", [" ", "="])
def test_files_come_with_the_job(tmp_path, separator):
    waivers = tmp_path / "waivers.yaml"
    waivers.write_text("waivers: []\n")
    objects = printed("--image", "exam:1", "--", "http://x", *f"--waivers{separator}{waivers}".split(" "))
    assert objects["ConfigMap"]["data"] == {"0-waivers.yaml": "waivers: []\n"}
    assert "/exam/0-waivers.yaml" in " ".join(command(objects["Job"]))


def test_a_file_is_called_there_what_a_config_map_allows(tmp_path):
    waivers = tmp_path / "die Ausnahmen für uns.yaml"
    waivers.write_text("waivers: []\n")
    objects = printed("--image", "exam:1", "--", "http://x", "--waivers", str(waivers))
    (key,) = objects["ConfigMap"]["data"]
    assert re.fullmatch("[-._a-zA-Z0-9]+", key)
    assert command(objects["Job"])[-1] == f"/exam/{key}"


def test_a_key_is_of_a_secret():
    words = ("http://x", "--header", "Authorization: Bearer ${NO_VARIABLE_OF_HERE}")
    objects = printed("--image", "exam:1", "--secret", "keys", "--", *words)
    assert command(objects["Job"])[-1] == words[-1]
    (container,) = objects["Job"]["spec"]["template"]["spec"]["containers"]
    assert container["envFrom"] == [{"secretRef": {"name": "keys"}}]


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["http://x", "--report", "r.yaml"], "a Job prints its report"),
        (["--container", "x", "--kube", "minikube"], "there is only that cluster"),
        (["http://x", "--header", "a: ${HOME}"], "by --secret"),
        (["http://x", "--no-such-option"], "No such option"),
        ([], "want one URL"),
        (["http://x", "--waivers", "/no/such/file"], "No such file"),
        (["http://x", "--gpus", "1"], "there is no image"),
        (["--container", "x", "--kube", "--gpus", "all"], "how many"),
        (["--container", "x", "--kube", "--volume", "/a:/b"], "--pod-patch"),
        (["--container", "x", "--launch", "lab"], "there is --launch lab already"),
    ],
)
def test_what_no_job_can_do_is_said_here(words, why):
    assert why in refused("--image", "exam:1", "--", *words)


def test_a_name_that_kubernetes_refuses_is_refused_here():
    assert "--name 'My_Exam'" in refused("--image", "exam:1", "--name", "My_Exam", "--", "http://x")


def test_what_is_for_a_cluster_needs_one():
    result = CliRunner().invoke(main, ["run", "--container", "x", "--namespace", "n"])
    assert result.exit_code == 2
    assert "add --kube" in result.output
