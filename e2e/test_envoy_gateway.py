"""The real Envoy Gateway, given our manifests as files: what its Envoy then does with requests and our real pickers."""

import asyncio
import base64
import contextlib
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass

import pytest
import trustme

from shunter.conformance.shell.ports import free_ports
from shunter.envoyconf import load_intent, render
from shunter.envoyconf.core.generate import generate
from shunter.envoyconf.core.targets import Target
from shunter.envoyconf.testing_gateway import RunningGateway
from shunter.stack.shell.top import ALL, fetch_decisions
from shunter.stack.testing import Running, running_stack

pytestmark = pytest.mark.envoy

PORT = 10080
CASES = ("lean", "tls", "verified", "doubted", "misnamed", "dead", "closed", "hung", "socket")


@dataclass(frozen=True)
class Site:
    """A stack whose endpoints and pickers are behind an Envoy Gateway too."""

    stack: Running
    gateway: RunningGateway
    tls_admin: str
    socket_admin: str
    url: str = f"http://127.0.0.1:{PORT}"

    @property
    def names(self):
        """Endpoint → what its model server calls itself."""
        return {each.authority: f"lab-{each.port}" for each in self.stack.state.plan.engines}

    @property
    def pickers(self):
        """Case → the admin pages of the picker that is asked."""
        stack = f"127.0.0.1:{self.stack.state.plan.ports.admin}"
        return {"lean": stack, "socket": self.socket_admin} | dict.fromkeys(("tls", "verified", "full"), self.tls_admin)


@contextlib.contextmanager
def another_picker(directory, scratch, *options):
    """A picker over the same snapshots; yields its admin pages."""
    [admin] = free_ports(1)
    command = [sys.executable, "-m", "shunter.picker", "run", "--snapshot", directory, "--runtime", scratch / "runtime"]
    command += ["--admin-port", admin, "--workers", 1, *options]
    with (scratch / "picker.log").open("wb") as log:
        process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log)
        try:
            yield f"127.0.0.1:{admin}"
        finally:
            process.terminate()
            process.wait(30)


@contextlib.contextmanager
def tls_picker(directory, scratch):
    """One that speaks TLS only."""
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1", "picker.test")
    certificate.private_key_and_cert_chain_pem.write_to_path(scratch / "picker.pem")
    port, health = free_ports(2)
    pem = scratch / "picker.pem"
    options = ["--port", port, "--health-port", health, "--tls-cert-file", pem, "--tls-key-file", pem]
    with another_picker(directory, scratch, *options) as admin:
        yield f"127.0.0.1:{port}", admin, authority


def intent(stack, tls, hung, named):
    engines = [engine.authority for engine in stack.state.plan.engines]
    workers = [f"127.0.0.1:{port}" for port in stack.state.plan.ports.picker]
    nobody = [f"127.0.0.1:{port}" for port in free_ports(1)]

    def pool(name, addresses, mode="FailOpen", **picker):
        return {"name": name, "endpoints": engines, "picker": {"addresses": addresses, "failureMode": mode, **picker}}

    pools = [
        pool("lean", workers),
        pool("tls", [tls], "FailClose", tls={}),
        pool("verified", [tls], "FailClose", tls={"caFile": "ca.crt", "serverName": "picker.test"}),
        pool("doubted", [tls], "FailClose", tls={"caFile": "ca.crt", "serverName": "picker.test"}),
        pool("misnamed", [tls], "FailClose", tls={"caFile": "ca.crt", "serverName": "other.test"}),
        pool("dead", nobody),
        pool("closed", nobody, "FailClose"),
        pool("hung", [hung]),
        pool("socket", [f"unix:{named}"], "FailClose"),
        pool("native", []),
    ]
    return {
        "kubernetes": {"namespace": "llm"},
        "listeners": [{"port": PORT}],
        "pools": pools,
        "routes": [
            {"hosts": ["full.test"], "pool": "tls", "profile": "full"},
            {"hosts": ["native.test"], "pool": "native", "profile": "native", "affinity": {"body": []}},
            *({"hosts": [f"{each}.test"], "pool": each} for each in CASES),
        ],
    }


def trusted(pool, authority):
    """The Secret in which Envoy Gateway looks for who may have signed a picker's certificate."""
    data = {"ca.crt": base64.b64encode(authority.cert_pem.bytes()).decode()}
    metadata = {"name": f"{pool}-picker-tls", "namespace": "llm"}
    return {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": metadata, "data": data}


@pytest.fixture(scope="module")
def site(envoy_gateway, tmp_path_factory):
    with contextlib.ExitStack() as resources:
        stack = resources.enter_context(running_stack("--speed", "20"))
        tls, admin, authority = resources.enter_context(tls_picker(stack.directory, tmp_path_factory.mktemp("tls")))
        named = tmp_path_factory.mktemp("socket") / "picker"
        beside = resources.enter_context(another_picker(stack.directory, named.parent, "--host", f"unix:{named}"))
        deaf = resources.enter_context(socket.create_server(("127.0.0.1", 0)))  # connections come about, and that is all
        asked = intent(stack, tls, f"127.0.0.1:{deaf.getsockname()[1]}", named)
        made = generate(load_intent(render(asked, "json")), Target.ENVOY_GATEWAY)
        authorities = {"verified": authority, "misnamed": authority, "doubted": trustme.CA()}
        secrets = [trusted(*each) for each in authorities.items()]
        yield Site(stack, resources.enter_context(envoy_gateway([*made.documents, *secrets])), admin, beside)


@pytest.fixture
def ask(site, connect, eventually):
    client = connect(site.stack)

    async def ask(case, prompt="which track?", headers=None, **more):
        headers = {"host": f"{case}.test"} | (headers or {})
        return await client.chat(prompt, url=site.url, headers=headers, **more)

    async def decision(request_id, picker):
        def find():
            return [each for each in fetch_decisions(picker, ALL).decisions if each.request_id == request_id]

        (found,) = await eventually(find)
        return found

    ask.decision = decision
    return ask


async def test_everything_is_accepted(site):
    # There is no Service here that would give the Gateway an address.
    refused = {each for each in site.gateway.conditions() if each.status != "True" and each.reason != "AddressNotAssigned"}
    assert refused == set()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("case", ["lean", "tls", "verified", "full", "socket"])
async def test_who_is_picked_answers(site, ask, case, stream):
    for n in range(4):
        reply = await ask(case, f"{case} {n}", stream=stream)
        decision = await ask.decision(reply.request_id, site.pickers[case])
        assert reply.status == 200
        assert reply.fingerprint == site.names[decision.chosen[0]]


async def test_a_body_of_three_megabytes_reaches_picker_and_model_server(site, ask):
    reply = await ask("lean", metadata={"filler": "x" * (3 << 20)})
    decision = await ask.decision(reply.request_id, site.pickers["lean"])
    assert (reply.status, reply.fingerprint) == (200, site.names[decision.chosen[0]])


@pytest.mark.parametrize("case", ["dead", "hung"])
async def test_without_an_answer_from_the_picker_requests_go_on(ask, case):
    replies = await asyncio.gather(*(ask(case, f"{case} {n}") for n in range(6)))
    assert {reply.status for reply in replies} == {200}
    assert len({reply.fingerprint for reply in replies}) > 1


@pytest.mark.parametrize("case", ["closed", "doubted", "misnamed"])
async def test_failing_closed_without_a_picker_or_without_a_trusted_one_is_503(ask, case):
    assert (await ask(case)).status == 503


@pytest.mark.parametrize("case", ["lean", "dead", "native"])
async def test_a_client_cannot_choose_its_model_server(site, ask, case):
    wanted = site.stack.state.plan.engines[0]
    spoofed = {"x-gateway-destination-endpoint": wanted.authority}
    replies = [await ask(case, f"spoofed {n}", headers=spoofed) for n in range(12)]
    assert {reply.status for reply in replies} == {200}
    assert len({reply.fingerprint for reply in replies}) > 1


async def test_in_the_profile_native_nobody_is_asked(site, ask):
    replies = [await ask("native", f"native {n}") for n in range(9)]
    assert {reply.status for reply in replies} == {200}
    assert len({reply.fingerprint for reply in replies}) > 1
    assert not {reply.request_id for reply in replies} & {each.request_id for each in site.stack.decisions()}


async def test_the_load_of_a_request_is_released_when_it_ends_without_records(site, ask, eventually):
    """Nothing but the end of the stream tells the picker; while a response is under way it counts."""

    def in_flight():
        return sum(row.in_flight for row in site.stack.fleet().endpoints)

    await eventually(lambda: in_flight() == 0)
    asked = [asyncio.create_task(ask("lean", f"long {n}", stream=True, max_tokens=400, ignore_eos=True)) for n in range(4)]
    await eventually(lambda: in_flight() == 4)
    assert {reply.status for reply in await asyncio.gather(*asked)} == {200}
    await eventually(lambda: in_flight() == 0)


async def test_a_prompt_is_known_to_be_cached_where_it_was_served_without_records(site, ask):
    shared = "once upon a time in the west " * 100
    first = await ask("lean", shared)
    reply = await ask("lean", f"{shared} again")
    decision = await ask.decision(reply.request_id, site.pickers["lean"])
    assert reply.fingerprint == first.fingerprint == site.names[decision.chosen[0]]
    assert decision.best[0].cached > 0.5


async def test_a_picker_that_is_killed_takes_no_stream_with_it(site, ask, eventually):
    asked = [asyncio.create_task(ask("lean", f"killed {n}", stream=True, max_tokens=400, ignore_eos=True)) for n in range(8)]
    await eventually(lambda: sum(row.in_flight for row in site.stack.fleet().endpoints) == 8)
    killed = {worker["pid"] for worker in site.stack.workers()}
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    assert (await ask("lean", "just after")).status == 200
    assert {reply.status for reply in await asyncio.gather(*asked)} == {200}

    def back():
        workers = site.stack.workers()
        return all(worker["ready"] for worker in workers) and killed.isdisjoint(worker["pid"] for worker in workers)

    await eventually(back)


async def test_the_first_of_a_list_may_be_dead(site, ask, eventually):
    shared = "the same long beginning " * 100
    first = await ask("lean", shared)
    dead = next(each for each in site.stack.state.plan.engines if site.names[each.authority] == first.fingerprint)
    scraper, server = site.stack.state.pids["scraper"], site.stack.state.pids[dead.name]
    os.kill(scraper, signal.SIGSTOP)  # the picker does not know yet
    try:
        os.kill(server, signal.SIGKILL)
        await eventually(lambda: f"{dead.name} was ended by SIGKILL" in site.stack.output)
        reply = await ask("lean", shared + "again")  # its cached prefix still speaks for the dead one
    finally:
        os.kill(scraper, signal.SIGCONT)
    decision = await ask.decision(reply.request_id, site.pickers["lean"])
    assert decision.chosen[0] == dead.authority
    assert (reply.status, reply.fingerprint) == (200, site.names[decision.chosen[1]])
    async with asyncio.timeout(60):
        for case, picker in site.pickers.items():  # leave when it is known to be dead
            while dead.authority in (await ask.decision((await ask(case, shared)).request_id, picker)).chosen:
                pass
