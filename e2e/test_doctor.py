"""The doctor examines what really runs, and finds what was really broken: a stack, certificates, a Kubernetes API."""

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
import trustme
import yaml
from click.testing import CliRunner

from shunter.envoyconf import bootstrap, load_intent
from shunter.envoyconf.testing import running_envoy
from shunter.envoyconf.testing_kube import running_kube, running_process
from shunter.scraper.cli import main as scraper
from shunter.stack.cli import doctor
from shunter.stack.shell import ports
from shunter.stack.shell.doctor import PROOF
from shunter.stack.testing import running_stack
from shunter.stack.testing_kube import GIE, LLMD, MERGE

PATIENCE_S = 60
LOOK_S = 0.02  # between two looks at what another process does
PICKER_PORT = 9002


def examined(*arguments):
    """The exit code, and the answers by id."""
    result = CliRunner().invoke(doctor, [*map(str, arguments), "--json"])
    assert result.exit_code in (0, 1, 2), result.output
    return result.exit_code, {each["id"]: each for each in json.loads(result.output)}


def verdicts(answers):
    return {each["id"]: each["verdict"] for each in answers.values() if each["verdict"] != "skipped"}


def until(condition):
    deadline_s = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < deadline_s
        time.sleep(LOOK_S)
    return found


@pytest.fixture(scope="module")
def stack():
    with running_stack("--engines", "2") as stack:
        yield stack


def test_a_stack_that_runs_is_well(stack):
    code, answers = examined("--name", stack.name)
    assert set(verdicts(answers).values()) == {"ok"}, answers
    assert code == 0


def test_what_of_a_stack_was_stopped_is_found(stack):
    pid = stack.state.pids["scraper"]
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: examined("--name", stack.name)[1]["snapshot"]["verdict"] == "fail")
        code, answers = examined("--name", stack.name)
        assert (code, answers["scraper"]["verdict"], answers["picker"]["verdict"]) == (1, "fail", "ok")
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda: examined("--name", stack.name)[0] == 0)


async def test_a_picker_that_envoy_cannot_reach_is_named(stack, connect, tmp_path):
    """Requests go without picks, and nothing else looks wrong."""
    engines = [engine.authority for engine in stack.state.plan.engines]
    pool = {"name": "llama", "endpoints": engines, "picker": {"addresses": [f"unix:{tmp_path}/worker"]}}
    intent = load_intent(json.dumps({"pools": [pool], "listeners": [{"port": 0}]}))
    async with running_envoy(bootstrap(intent)) as envoy:
        assert (await connect(stack).chat("which track?", url=envoy.url)).status == 200
        assert examined("--envoy", envoy.admin)[1]["reached"]["verdict"] == "ok"  # it may be about to listen
        for _ in range(PROOF):
            assert (await connect(stack).chat("which track?", url=envoy.url)).status == 200
        answers = examined("--envoy", envoy.admin)[1]
        assert (answers["envoy"]["verdict"], answers["reached"]["verdict"]) == ("ok", "fail")
        assert f"{tmp_path}/worker of picker/llama took none of" in answers["reached"]["evidence"]


def test_parts_are_examined_where_they_are(stack):
    ports = stack.state.plan.ports
    code, answers = examined("--picker", f"127.0.0.1:{ports.admin}", "--envoy", f"127.0.0.1:{ports.envoy_admin}")
    assert (code, answers["picker"]["verdict"], answers["envoy"]["verdict"]) == (0, "ok", "ok")
    assert answers["scraper"]["verdict"] == "skipped"
    code, answers = examined("--picker", f"127.0.0.1:{ports.envoy_admin}", "--envoy", f"127.0.0.1:{ports.admin}")
    assert (code, answers["picker"]["verdict"], answers["envoy"]["verdict"]) == (1, "fail", "fail")


def test_without_anything_to_examine_it_says_so():
    result = CliRunner().invoke(doctor, ["--name", "nobody"])
    assert result.exit_code == 2
    assert "no stack 'nobody' is running" in result.output
    result = CliRunner().invoke(doctor, ["--picker", "localhost"])
    assert result.exit_code == 2
    assert "write HOST:PORT" in result.output
    result = CliRunner().invoke(doctor, ["--kubeconfig", "/nowhere"])
    assert result.exit_code == 2
    assert result.output.endswith("there is no kubeconfig /nowhere; name one by --kubeconfig\n")


def test_of_whoever_does_not_listen_it_is_not_the_certificate_that_is_doubted():
    with socket.create_server(("127.0.0.1", 0)) as closed:
        where = f"127.0.0.1:{closed.getsockname()[1]}"
    answer = examined("--ext-proc", where, "--server-name", "epp.llm.svc")[1]["tls"]
    assert (answer["verdict"], "look whether it speaks TLS there" in answer["remedy"]) == ("fail", True)


def test_of_who_speaks_no_tls_it_says_so_and_a_socket_needs_none(stack, tmp_path):
    ext_proc = f"127.0.0.1:{stack.state.plan.ports.picker[0]}"
    answer = examined("--ext-proc", ext_proc)[1]["tls"]
    assert (answer["verdict"], answer["evidence"]) == ("fail", f"{ext_proc} speaks no TLS")
    assert "--socket-mode" not in answer["remedy"]
    where = f"unix:{tmp_path}/picker"
    answer = examined("--ext-proc", where)[1]["tls"]
    assert (answer["verdict"], answer["remedy"].endswith("--socket-mode says who may ask at a socket")) == ("fail", True)
    server = grpc.server(ThreadPoolExecutor(1))
    server.add_insecure_port(where)
    server.start()
    try:
        code, answers = examined("--ext-proc", where)
        assert (code, answers["tls"]["evidence"]) == (0, f"no TLS at {where}: a socket in the file system needs none")
        answer = examined("--ext-proc", where, "--server-name", "epp.llm.svc")[1]["tls"]
        assert (answer["verdict"], answer["evidence"]) == ("fail", f"{where} speaks no TLS")
    finally:
        server.stop(None).wait()


def test_a_certificate_is_seen_at_a_socket_too(tmp_path):
    with showing(trustme.CA().issue_cert("epp.llm.svc"), path=f"{tmp_path}/picker") as where:
        assert examined("--ext-proc", where)[1]["tls"]["verdict"] == "ok"
        assert examined("--ext-proc", where, "--server-name", "epp.llm.svc")[1]["tls"]["verdict"] == "ok"
        answer = examined("--ext-proc", where, "--server-name", "other.llm.svc")[1]["tls"]
        assert (answer["verdict"], f"{where} is for epp.llm.svc" in answer["evidence"]) == ("fail", True)


@contextlib.contextmanager
def showing(certificate, choose=None, path=None):
    """A server that shows this certificate to everybody, unless it is to choose by the name that is asked for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    context.sni_callback = choose
    with contextlib.ExitStack() as held:
        if path is None:
            listener = held.enter_context(socket.create_server(("127.0.0.1", 0)))
        else:
            listener = held.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(path)
            listener.listen()

        def serve():
            with contextlib.suppress(OSError):
                while True:
                    plain, _ = listener.accept()
                    with plain, contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as secure:
                        secure.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"unix:{path}" if path else f"127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def test_a_certificate_is_seen_whoever_signed_it():
    with showing(trustme.CA().issue_cert("epp.llm.svc", "*.example.com")) as where:
        assert examined("--ext-proc", where, "--server-name", "epp.llm.svc")[1]["tls"]["verdict"] == "ok"
        assert examined("--ext-proc", where, "--server-name", "a.example.com")[1]["tls"]["verdict"] == "ok"
        answer = examined("--ext-proc", where, "--server-name", "other.llm.svc")[1]["tls"]
        assert (answer["verdict"], "not for other.llm.svc" in answer["evidence"]) == ("fail", True)


def test_a_name_is_the_same_however_it_is_written():
    with showing(trustme.CA().issue_cert("::1", "epp.llm.svc")) as where:
        for name in ("::1", "0:0::1", "EPP.llm.svc"):
            assert examined("--ext-proc", where, "--server-name", name)[1]["tls"]["verdict"] == "ok"


def test_of_a_server_with_several_certificates_the_one_that_gateways_ask_for_is_examined():
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("epp.llm.svc").configure_cert(ours)

    def choose(secure, name, _):
        if name == "epp.llm.svc":
            secure.context = ours

    with showing(trustme.CA().issue_cert("others"), choose) as where:
        assert examined("--ext-proc", where, "--server-name", "epp.llm.svc")[1]["tls"]["verdict"] == "ok"


def test_a_certificate_that_has_expired_is_told():
    then = datetime(2020, 1, 1, tzinfo=UTC)
    expired = trustme.CA().issue_cert("localhost", not_before=then, not_after=then + timedelta(days=1))
    with showing(expired) as where:
        answer = examined("--ext-proc", where, "--server-name", "localhost")[1]["tls"]
    assert (answer["verdict"], "certificate has expired" in answer["evidence"]) == ("fail", True)


class Installation:
    """A namespace with a pool, a pod, and a picker's Service with somebody behind; a scraper that follows it."""

    def __init__(self, admin, directory, port):
        self.admin, self.home = admin, admin.namespace("doctor")
        admin.pool(self.home)
        self.pod("a", {"app": "pool"}, 8000)
        self.path = f"/apis/{GIE}/v1/namespaces/{self.home}/inferencepools/pool"
        self.service("epp", PICKER_PORT)
        admin.slice(self.home, "epp", "epp-1", ("epp-0", "10.0.1.1"))
        self.account = admin.account(self.home, directory / "account")
        arguments = ["rbac", "--namespace", self.home, "--service-account-namespace", self.home]
        self.rights = list(yaml.safe_load_all(CliRunner().invoke(scraper, arguments).output))
        admin.kube.apply(self.rights)
        self.accept("True", "Accepted")
        self.pages = f"127.0.0.1:{port}"

    def pod(self, name, labels, *ports, ip="10.0.0.1"):
        container = {"name": "c", "image": "i", "ports": [{"containerPort": number} for number in ports]}
        body = {
            "metadata": {"name": name, "labels": labels},
            "spec": {"containers": [container], "serviceAccountName": "shunter"},
        }
        self.admin("POST", f"/api/v1/namespaces/{self.home}/pods", body)
        self.admin.ready(self.home, name, ip)

    def service(self, name, number):
        spec = {"selector": {"app": "epp"}, "ports": [{"port": number}]}
        self.admin("POST", f"/api/v1/namespaces/{self.home}/services", {"metadata": {"name": name}, "spec": spec})

    def accept(self, status, reason):
        condition = {
            "type": "Accepted",
            "status": status,
            "reason": reason,
            "message": "",
            "lastTransitionTime": "2026-11-26T00:00:00Z",
        }
        parents = [{"parentRef": {"name": "gateway"}, "conditions": [condition]}]
        self.admin("PATCH", f"{self.path}/status", {"status": {"parents": parents}}, MERGE)

    def command(self, directory):
        shunter = Path(sys.executable).with_name("shunter")
        command = [shunter, "scraper", "run", "--kubeconfig", self.account, "--namespace", self.home, "--snapshot", directory]
        return [str(each) for each in (*command, "--admin-port", self.pages.partition(":")[2])]

    def examined(self):
        arguments = ["--kubeconfig", self.admin.kube.kubeconfig, "-n", self.home, "--service-account", "shunter"]
        return examined(*arguments, "--scraper", self.pages)


@pytest.fixture(scope="module")
def scraped(admin, tmp_path_factory):
    directory = tmp_path_factory.mktemp("doctor")
    with contextlib.ExitStack() as held:
        installation = Installation(admin, directory, ports.claim({"scraper": 0}, held)["scraper"])
        held.enter_context(running_process(directory / "log", installation.command(directory / "snapshot")))
        until(lambda: ready(installation.pages))
        yield installation


def ready(pages):
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://{pages}/readyz", timeout=5) as answer:
        return answer.status == 200
    return False


def test_a_cluster_that_is_well_is_told_so(scraped):
    code, answers = scraped.examined()
    assert set(verdicts(answers).values()) == {"ok"}, answers
    assert verdicts(answers).keys() >= {
        "api",
        "definitions",
        "rights",
        "pools",
        "selectors",
        "ports",
        "picker-service",
        "status",
    }
    assert (code, answers["selectors"]["evidence"]) == (0, f"{scraped.home}/pool: 1 of 1 ready")


def unready(there):
    there.admin.ready(there.home, "a", "10.0.0.1", status="False")
    yield
    there.admin.ready(there.home, "a", "10.0.0.1")


def misdirected(there):
    there.admin("PATCH", there.path, {"spec": {"endpointPickerRef": {"name": "epp", "port": {"number": 9}}}}, MERGE)
    yield
    there.admin("PATCH", there.path, {"spec": {"endpointPickerRef": {"name": "epp", "port": {"number": PICKER_PORT}}}}, MERGE)


def unserved(there):
    there.admin("DELETE", f"/apis/discovery.k8s.io/v1/namespaces/{there.home}/endpointslices/epp-1")
    yield
    there.admin.slice(there.home, "epp", "epp-1", ("epp-0", "10.0.1.1"))


def misnumbered(there):
    there.admin("PATCH", there.path, {"spec": {"targetPorts": [{"number": 9000}]}}, MERGE)
    yield
    there.admin("PATCH", there.path, {"spec": {"targetPorts": [{"number": 8000}]}}, MERGE)


def refused(there):
    there.accept("False", "NotSupportedByParent")
    yield
    there.accept("True", "Accepted")


def homeless(there):
    path = f"/apis/{LLMD}/v1alpha2/namespaces/{there.home}/inferenceobjectives"
    there.admin.objective(there.home, pool="nobody")
    yield
    there.admin("DELETE", f"{path}/o")


def unallowed(there):
    role = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{there.home}/rolebindings/shunter-scraper"
    there.admin("DELETE", role)
    yield
    there.admin.kube.apply(there.rights)


@pytest.mark.parametrize(
    ("breaking", "check", "verdict", "words"),
    [
        (unready, "selectors", "fail", "1 pods have app=pool, none is ready"),
        (misdirected, "picker-service", "fail", "Service epp has no port 9, but 9002"),
        (unserved, "picker-service", "fail", "Service epp has nobody ready behind it"),
        (misnumbered, "ports", "warn", "no pod declares the port 9000, a has 8000"),
        (refused, "status", "fail", "Accepted is False: NotSupportedByParent"),
        (homeless, "objects", "warn", "there is no InferencePool nobody"),
        (unallowed, "rights", "fail", "may not list pods"),
    ],
)
def test_what_is_broken_in_a_cluster_is_found_and_is_well_again(scraped, breaking, check, verdict, words):
    broken = breaking(scraped)
    next(broken)
    try:
        answer = until(lambda: (found := scraped.examined()[1][check])["verdict"] == verdict and found)
        assert words in answer["evidence"]
        assert answer["remedy"]
    finally:
        next(broken, None)
    until(lambda: set(verdicts(scraped.examined()[1]).values()) == {"ok"})


def test_pods_that_the_api_server_cannot_reach_are_told(scraped):
    """It refuses loopback addresses, which is as good as a NetworkPolicy here."""
    scraped.pod("epp-0", {"app": "epp"}, PICKER_PORT, ip="127.0.0.1")
    code, answers = examined("--kubeconfig", scraped.admin.kube.kubeconfig, "-n", scraped.home)
    assert (code, answers["picker"]["verdict"], answers["scraper"]["verdict"]) == (1, "fail", "fail")
    assert f"{scraped.home}/epp-0:9090: /debug/fleet: HTTP 400: address not allowed" in answers["picker"]["evidence"]
    assert answers["rights"]["evidence"] == f"{scraped.home}/shunter may read all it follows"
    scraped.admin.delete(scraped.home, "epp-0")


def test_a_cluster_without_definitions_and_one_that_does_not_answer(scraped, tmp_path):
    with running_kube(()) as bare:
        code, answers = examined("--kubeconfig", bare.kubeconfig, "-n", "default")
        assert (code, answers["definitions"]["verdict"], answers["pools"]["verdict"]) == (1, "fail", "fail")
        config = json.loads(bare.kubeconfig.read_text())
    config["clusters"][0]["cluster"] = {"server": "http://127.0.0.1:1"}
    (tmp_path / "config").write_text(json.dumps(config))
    code, answers = examined("--kubeconfig", tmp_path / "config", "-n", "default")
    assert (code, answers["api"]["verdict"]) == (1, "fail")


def test_whoever_may_not_ask_is_told_so(scraped):
    code, answers = examined(
        "--kubeconfig", scraped.account, "-n", scraped.home, "--service-account", "shunter", "--scraper", scraped.pages
    )
    assert code == 0
    assert "you may not ask what" in answers["rights"]["evidence"]
    assert answers["picker-service"]["verdict"] == "skipped"


def test_the_command_is_there():
    done = subprocess.run(
        [Path(sys.executable).with_name("shunter"), "doctor", "--list"], capture_output=True, text=True, timeout=60
    )
    assert "picker-service  Does each pool's endpointPickerRef lead to a picker?\n" in done.stdout
