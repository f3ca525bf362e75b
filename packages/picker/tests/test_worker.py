"""One worker as its surroundings see it: Envoy over gRPC, and the supervisor by what it may ask."""

import asyncio
import datetime as dt
import socket

import grpc
import grpc.aio
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc

from shunter.picker import config
from shunter.picker.core.ledger import Booking, first_ticket
from shunter.picker.core.limits import Limits
from shunter.picker.core.precedents import read
from shunter.picker.errors import ConfigError
from shunter.picker.plugins.topology import Near
from shunter.picker.shell.memory import Memory, Seat, watch
from shunter.picker.shell.worker import Settings, Worker
from shunter.picker.transport.server import PROCESS
from shunter.picker.transport.tls import Tls

SHADOW = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins: [{type: topology-affinity-scorer}]
"""


@pytest.fixture
async def start(tmp_path):
    workers = []

    async def start(*, seat=None, bases=None, **settings):
        settings = Settings(snapshot=tmp_path, port=0, health_port=0, drain_s=0.2, seed=1, **settings)
        worker = Worker(config.load().policy, settings, seat, bases=bases)
        address = f"127.0.0.1:{await worker.start()}"
        workers.append(worker)
        return worker, address

    yield start
    for worker in workers:
        await worker.drain()


@pytest.mark.parametrize("transport", ["native", "grpcio"])
async def test_a_request_gets_the_endpoint_of_the_snapshot(start, publish, ask_pick, transport):
    publish(7001)
    _, address = await start(transport=transport)
    answer = await ask_pick(address)
    lb = answer.dynamic_metadata["envoy.lb"]
    assert lb["x-gateway-destination-endpoint"] == "127.0.0.1:7001"
    assert lb["id"] == str(first_ticket(1) + 1)


@pytest.mark.parametrize("transport", ["native", "grpcio"])
async def test_the_gateway_says_whose_request_it_is_when_it_opens_the_stream(start, publish, ask_pick, transport):
    publish(7001)
    _, address = await start(transport=transport)
    answer = await ask_pick(address, metadata=[("x-shunter-pool", "p")])
    assert answer.dynamic_metadata["envoy.lb"]["x-gateway-destination-endpoint"] == "127.0.0.1:7001"
    answer = await ask_pick(address, metadata=[("x-shunter-pool", "q")])
    assert b"the pool q, which this picker does not know" in answer.immediate_response.body


@pytest.mark.parametrize("transport", ["native", "grpcio"])
async def test_a_stream_too_many_for_the_whole_worker_is_turned_away_and_counted(
    start, publish, ask_pick, hold_pick, eventually, transport
):
    publish(7001)
    worker, address = await start(transport=transport, limits=Limits(streams=2))
    async with hold_pick(address), hold_pick(address), grpc.aio.insecure_channel(address) as channel:
        stream = channel.stream_stream(PROCESS)()  # which says nothing: writing to one that has ended fails otherwise
        assert await stream.code() is grpc.StatusCode.UNAVAILABLE
        assert worker.judge.counters.tally().turned_away == 1

    async def empty():
        return not worker.status().streams

    await eventually(empty)
    assert await ask_pick(address)
    assert worker.judge.counters.tally().turned_away == 1


async def test_a_body_router_names_the_model_and_needs_no_snapshot(start, ask_pick):
    worker, address = await start(bases={"m": "base"})
    assert worker.hindrances() == []
    common = (await ask_pick(address)).request_body.response
    told = {each.header.key: each.header.raw_value for each in common.header_mutation.set_headers}
    assert told == {"x-gateway-model-name": b"m", "x-gateway-base-model-name": b"base"}
    assert common.clear_route_cache


async def test_a_pool_that_is_not_in_the_snapshot_is_a_reason_to_get_no_requests(start, publish):
    publish(7001)
    for known in ("p", "default/p"):
        worker, _ = await start(pool=known)
        assert worker.hindrances() == []
    worker, _ = await start(pool="q")
    assert worker.hindrances() == ["the snapshot has no pool q (--pool); pools in it: default/p"]


async def test_a_socket_by_name_serves_ext_proc_and_health(start, publish, tmp_path):
    publish(7001)
    await start(host=f"unix:{tmp_path}/picker.sock")
    async with grpc.aio.insecure_channel(f"unix:{tmp_path}/picker.sock") as channel:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="liveness"))


@pytest.mark.parametrize("transport", ["native", "grpcio"])
async def test_its_certificate_is_the_transports(start, publish, tmp_path, transport):
    publish(7001)
    ca = trustme.CA()
    issued = ca.issue_cert("127.0.0.1")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "tls.crt")
    issued.private_key_pem.write_to_path(tmp_path / "tls.key")
    worker, address = await start(transport=transport, tls=Tls(tmp_path / "tls.crt", tmp_path / "tls.key"))
    async with grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(ca.cert_pem.bytes())) as channel:
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service="liveness"))
    assert worker.status().certificate_expires_s == dt.datetime(3000, 1, 1, tzinfo=dt.UTC).timestamp()  # as trustme has it


async def test_a_shared_socket_by_name_is_handed_over_and_one_that_is_not_is_refused(start, publish, ask_pick, tmp_path):
    publish(7001)
    address = f"unix:{tmp_path}/picker.sock"
    old, _ = await start(host=address, shared_ports=True)
    with pytest.raises(ConfigError, match="somebody does already"):
        await start(host=address)
    await start(host=address, shared_ports=True, seat=Seat(tmp_path, 0, 1, life=9))
    await old.drain()
    answer = await ask_pick(address)
    assert answer.dynamic_metadata["envoy.lb"]["id"] == str(first_ticket(9) + 1)


async def test_without_a_snapshot_it_is_not_ready_and_says_why(start, ask_pick):
    worker, address = await start()
    assert "does not exist; is the scraper running" in worker.status().hindrances[0]
    answer = await ask_pick(address)
    assert answer.immediate_response.status.code == 503


async def test_it_becomes_ready_when_the_snapshot_comes(start, publish, eventually):
    worker, address = await start()
    assert worker.status().hindrances
    publish(7001)

    async def serving():
        async with grpc.aio.insecure_channel(address) as channel:
            answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        return answer.status == health_pb2.HealthCheckResponse.SERVING and not worker.status().hindrances

    await eventually(serving)


async def test_it_follows_the_snapshot(start, publish, ask_pick):
    publish(7001)
    _, address = await start()
    await ask_pick(address)
    publish(7002, generation=2)
    answer = await ask_pick(address)
    assert answer.dynamic_metadata["envoy.lb"]["x-gateway-destination-endpoint"] == "127.0.0.1:7002"


async def test_its_decisions_are_plain_data_and_never_show_a_prompt(start, publish, ask_pick):
    publish(7001)
    worker, address = await start()
    await ask_pick(address, {"model": "m", "messages": [{"role": "user", "content": "correct horse battery staple"}]})
    (decision,) = worker.explain(5).entries
    assert (decision["request_id"], decision["chosen"]) == ("r-1", ["127.0.0.1:7001"])
    assert "horse" not in str(decision)


async def test_it_records_its_decisions_until_it_has_ended(start, publish, ask_pick, tmp_path):
    publish(7001)
    worker, address = await start(record=tmp_path, record_sample=1.0)
    await ask_pick(address)
    await worker.drain(0)
    (found,) = read((tmp_path / "decisions-0.ndjson").read_bytes().splitlines())
    assert (found.request_id, found.chosen) == ("r-1", "127.0.0.1:7001")


def in_turns(ask):
    """What is told, from now back to the first."""
    before_s, more = None, True
    while more:
        yield (told := ask(before_s))
        before_s = told.before_s
        more = before_s is not None


async def test_it_recalls_its_decisions_some_at_a_time(start, publish, ask_pick, monkeypatch):
    monkeypatch.setattr("shunter.picker.shell.worker.RECALL_CANDIDATES", 1)
    publish(7001)
    worker, address = await start()
    for _ in range(3):
        await ask_pick(address)
    turns = [read(told.lines) for told in in_turns(lambda before_s: worker.recall(5, before_s))]
    assert [[each.ticket & 0xFFFF for each in told] for told in turns] == [[3], [2], [1]]
    assert len(worker.recall(0).lines) == 0


@pytest.mark.parametrize(("asked", "found"), [(None, [3, 2, 1]), ("r-1", [3, 2, 1]), ("r-2", [])])
async def test_it_explains_its_decisions_some_at_a_time(start, publish, ask_pick, monkeypatch, asked, found):
    monkeypatch.setattr("shunter.picker.shell.worker.EXPLAIN_SCORES", 1)
    publish(7001)
    worker, address = await start()
    for _ in range(3):
        await ask_pick(address)
    turns = [told.entries for told in in_turns(lambda before_s: worker.explain(5, asked, before_s))]
    assert [[each["ticket"] & 0xFFFF for each in told] for told in turns if told] == [[each] for each in found]


async def test_what_it_does_is_counted_in_its_seat(start, publish, ask_pick, tmp_path, eventually):
    publish(7001, 7002)
    worker, address = await start(seat=Seat(tmp_path, 1, 2, life=7))
    answer = await ask_pick(address)
    assert answer.dynamic_metadata["envoy.lb"]["id"] == str(first_ticket(7) + 1)

    async def released():
        return worker.judge.counters.tally().released == 1

    await eventually(released)
    assert [counters.tally().picks for counters in watch(tmp_path, 2)] == [0, 1]


async def test_it_has_read_what_the_others_wrote_before_anybody_asks(start, publish, tmp_path):
    publish(7001)
    peer = Memory(Seat(tmp_path, 0, 2, life=6))
    peer.journal.booked(first_ticket(6) + 1, Booking(0, 1, 0))
    worker, _ = await start(seat=Seat(tmp_path, 1, 2, life=7))
    peer.close()
    assert len(worker.judge.ledger) == 1


@pytest.mark.parametrize("which", ["port", "health_port"])
async def test_a_taken_port_is_named_and_nothing_stays_open(tmp_path, which):
    with socket.socket() as squatter:
        squatter.bind(("127.0.0.1", 0))
        squatter.listen()
        taken = squatter.getsockname()[1]
        ports = {"port": 0, "health_port": 0} | {which: taken}
        worker = Worker(config.load().policy, Settings(snapshot=tmp_path, **ports))
        with pytest.raises(ConfigError, match=str(taken)):
            await worker.start()


async def test_a_sampled_decision_is_in_the_log_whatever_else_is(start, publish, ask_pick, caplog):
    publish(7001)
    worker, address = await start(log_decisions=1.0)
    await ask_pick(address)
    await worker.drain()
    (told,) = [record.fields for record in caplog.records if record.name == "shunter.picker.decisions"]
    assert (told["request_id"], told["endpoint"], told["why"]) == (
        "r-1",
        "127.0.0.1:7001",
        "127.0.0.1:7001 was the only candidate.",
    )


async def test_a_witness_that_raises_is_logged_once_with_its_traceback_and_shown(start, publish, ask_pick, eventually, caplog):
    class Blind:
        name = "the blind one"

        def follow(self, decided, ended):
            if decided or ended:
                raise ZeroDivisionError("dark")

    publish(7001)
    worker, address = await start()
    worker.judge.decisions.witnesses.append(Blind())

    async def counted():
        await ask_pick(address)
        return worker.judge.counters.tally().plugin_errors >= 2

    await eventually(counted)
    assert worker.status().complaints == {"the blind one": "ZeroDivisionError: dark"}
    (told,) = [record for record in caplog.records if "the blind one failed" in record.message]
    assert told.exc_info[0] is ZeroDivisionError


async def test_a_plugin_of_the_shadow_that_raises_is_logged_once_with_its_traceback_and_let_go(
    start, publish, ask_pick, eventually, caplog, monkeypatch
):
    def fail(self, request, fleet):
        raise ZeroDivisionError("dark")

    monkeypatch.setattr(Near, "score", fail)
    publish(7001)
    worker, address = await start(shadow=SHADOW, shadow_sample=1.0)
    shadow = worker.judge.shadow

    async def logged():
        await ask_pick(address)
        return shadow.account.decided >= 2 and not shadow.unlogged

    await eventually(logged)
    (told,) = [record for record in caplog.records if "the shadow's topology-affinity-scorer failed" in record.message]
    assert told.exc_info[0] is ZeroDivisionError
    assert worker.status().complaints == {}


async def test_witnesses_learn_of_what_a_draining_worker_decides_before_it_has_ended(start, publish, hold_pick, eventually):
    class Witness:
        name = "a witness"
        told = 0

        def follow(self, decided, ended):
            self.told += len(decided)

    publish(7001)
    worker, address = await start()
    witness = Witness()
    worker.judge.decisions.witnesses.append(witness)
    async with hold_pick(address, decided=False), hold_pick(address, decided=False) as lean:
        draining = asyncio.create_task(worker.drain(60))

        async def has_begun():
            return worker.hindrances() == ["draining"]

        await eventually(has_begun)
        await lean.ask({"model": "m", "messages": [{"role": "user", "content": "hi"}]})

        async def told():
            return witness.told

        await eventually(told)
        assert not draining.done(), "the other request is not decided yet"
    await draining
