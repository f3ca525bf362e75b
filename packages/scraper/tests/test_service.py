import asyncio
import contextlib
import errno
import logging
import os
import sys
import time

import pytest
import zmq
import zmq.asyncio

from shunter.lab.testing import lab_server
from shunter.scraper.core.cadence import Cadence
from shunter.scraper.core.chronicle import LOG_BYTES
from shunter.scraper.core.cluster import Cluster
from shunter.scraper.shell.files import Files
from shunter.scraper.shell.kvevents import KvEvents
from shunter.scraper.shell.models import Models
from shunter.scraper.shell.publish import Publisher
from shunter.scraper.shell.service import Scraper
from shunter.snapshot import BLOCK_LOG, Endpoint, Health, LoadRow, SnapshotReader, SnapshotWriter, Topology

PAGE = b"vllm:num_requests_waiting %d\nvllm:num_requests_running 1\nvllm:kv_cache_usage_perc 0.5\n"


class Stage:
    """A running scraper and a reader of what it publishes."""

    def __init__(self, directory):
        self.directory = directory
        self.file = directory / "endpoints.yaml"
        self.reader = SnapshotReader(directory)

    def endpoints(self, *entries, rest=""):
        self.file.write_text("endpoints:\n" + "".join(f"- {{{entry}}}\n" for entry in entries) + rest)

    @contextlib.asynccontextmanager
    async def running(self, *, timeout_s=20.0, models=None):
        with contextlib.closing(SnapshotWriter(self.directory)) as writer:
            kv_events = KvEvents(self.directory)
            pace = {"cadence": Cadence(0.01, 0.05), "timeout_s": timeout_s}
            self.scraper = Scraper(Files(self.file), writer, kv_events=kv_events, models=models, **pace)
            task = asyncio.create_task(self.scraper.run())
            try:
                yield
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                kv_events.close()

    @property
    def view(self):
        return self.reader.view(time.monotonic_ns())

    def row(self, name):
        view = self.view
        if view is None:
            return None
        places = {endpoint.name: index for index, endpoint in enumerate(view.topology.endpoints)}
        return view.load.row(places[name]) if name in places else None

    def health(self, name):
        row = self.row(name)
        return row and row.health


@pytest.fixture
def stage(tmp_path):
    stage = Stage(tmp_path)
    yield stage
    stage.reader.close()


async def test_what_servers_say_is_published_and_follows_them(stage, serve, until):
    waiting = 3

    async def answer(writer):
        content = PAGE % waiting
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(content), content))

    server = await serve(answer)
    stage.endpoints(f"name: a, address: 127.0.0.1, port: {server.port}")
    async with stage.running():
        row = await until(lambda: stage.health("a") is Health.FRESH and stage.row("a"))
        assert (row.waiting, row.running, row.kv_usage) == (3, 1, 0.5)
        waiting = 7
        await until(lambda: stage.row("a").waiting == 7)


async def test_a_lab_servers_numbers_come_through(stage, until):
    async with lab_server(max_num_seqs=2) as server:
        stage.endpoints(f"name: a, address: 127.0.0.1, port: {server.port}")
        async with stage.running():
            row = await until(lambda: stage.health("a") is Health.FRESH and stage.row("a"))
            assert (row.waiting, row.running, row.kv_usage) == (0, 0, 0)
            assert row.block_size
            assert row.num_blocks


async def test_a_server_that_dies_is_marked_with_its_last_values_and_is_found_again(stage, serve, until):
    server = await serve(PAGE % 2)
    stage.endpoints(f"name: a, address: 127.0.0.1, port: {server.port}")
    async with stage.running():
        await until(lambda: stage.health("a") is Health.FRESH)
        await server.stop()
        await until(lambda: stage.health("a") is Health.UNREACHABLE and stage.row("a").failures > 2)
        row = stage.row("a")
        assert (row.waiting, row.reason) == (2, "connection refused")
        assert stage.row("a").sampled_ns == row.sampled_ns
        await server.start()
        row = await until(lambda: stage.health("a") is Health.FRESH and stage.row("a"))
        assert (row.failures, row.reason) == (0, "")


async def test_a_dead_metrics_port_says_nothing_about_the_port_of_requests(stage, until):
    stage.endpoints("name: a, address: 127.0.0.1, port: 8000, metricsPort: 1")
    async with stage.running():
        await until(lambda: stage.row("a") and stage.row("a").failures > 1)
        assert stage.health("a") is Health.FAILED


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b'{"requests": 1}', "JSON, not Prometheus text"),
        (b"python_info 1\n", "no metric of engine vllm"),
        (b"vllm:num_requests_waiting many\n", "line 1: the value"),
    ],
)
async def test_a_page_that_cannot_be_believed_never_becomes_numbers(stage, serve, until, answer, reason):
    server = await serve(answer)
    stage.endpoints(f"name: a, address: 127.0.0.1, port: {server.port}")
    async with stage.running():
        row = await until(lambda: stage.health("a") is Health.FAILED and stage.row("a"))
    assert reason in row.reason
    assert (row.waiting, row.running, row.kv_usage) == (None, None, None)


async def test_a_server_that_hangs_holds_up_nobody_else(stage, serve, until):
    async def hang(writer):
        await writer.wait_closed()

    hanging, good = await serve(hang), await serve(PAGE % 0)
    stage.endpoints(
        *(f"name: {name}, address: 127.0.0.1, port: {server.port}" for name, server in (("a", hanging), ("b", good)))
    )
    async with stage.running(timeout_s=0.05):
        await until(lambda: stage.health("b") is Health.FRESH and stage.health("a") is Health.FAILED)
        assert "within 0.05 s" in stage.row("a").reason


async def test_edits_take_effect_and_bad_ones_leave_everything_as_it_was(stage, serve, until, caplog):
    server, other = await serve(PAGE % 1), await serve(PAGE % 2)
    first = f"name: a, address: 127.0.0.1, port: {server.port}"
    stage.endpoints(first)
    async with stage.running():
        await until(lambda: stage.health("a") is Health.FRESH)
        stage.file.write_text("endpoints: [{nme: a}]")
        await until(lambda: "did you mean name?" in caplog.text)
        assert "stays in force" in caplog.text
        assert stage.health("a") is Health.FRESH
        place = (stage.row("a").slot, stage.row("a").incarnation)
        stage.endpoints(f"name: b, address: 127.0.0.1, port: {other.port}", first)
        await until(lambda: stage.health("b") is Health.FRESH)
        assert (stage.row("a").slot, stage.row("a").incarnation) == place
        assert stage.row("a").health is Health.FRESH  # its row went on; it was not begun anew
        stage.endpoints(first)
        await until(lambda: stage.row("b") is None)


async def test_places_outlive_a_restart_and_generations_rise(stage, serve, until):
    server = await serve(PAGE % 1)
    entry = f"name: a, address: 127.0.0.1, port: {server.port}"
    stage.endpoints("name: gone, address: 127.0.0.1, port: 1", entry)
    async with stage.running():
        await until(lambda: stage.health("a") is Health.FRESH)
    former, place = stage.view.topology, (stage.row("a").slot, stage.row("a").incarnation)
    stage.endpoints(entry)
    async with stage.running():
        await until(lambda: stage.view.topology.epoch != former.epoch)
        assert stage.view.topology.generation > former.generation
        assert (stage.row("a").slot, stage.row("a").incarnation) == place


async def test_no_place_returns_though_the_snapshot_was_removed(stage, until):
    """Readers live on; an endpoint of the new snapshot must not pass for one that they remember."""
    places = set()
    for run in range(2):
        stage.endpoints(f"name: e{run}, address: 127.0.0.1, port: 1")
        async with stage.running():
            row = await until(lambda name=f"e{run}": stage.row(name), deadline_s=20)
        places.add((row.slot, row.incarnation))
        for ring in stage.directory.glob("*.ring"):
            ring.unlink()
    assert len(places) == 2


async def test_a_name_and_a_metrics_port_of_its_own(stage, serve, until):
    server = await serve(PAGE % 1)
    stage.endpoints(f"name: a, address: localhost, port: 1, metricsHost: '127.0.0.1:{server.port}'")
    async with stage.running():
        await until(lambda: stage.health("a") is Health.FRESH)
    assert stage.view.topology.endpoints[0].port == 1


async def test_an_endpoint_whose_engine_changes_is_read_in_the_new_dialect(stage, serve, until):
    server = await serve(b"q 5\nvllm:num_requests_waiting 1\n")
    entry = f"name: a, address: 127.0.0.1, port: {server.port}"
    stage.endpoints(entry)
    async with stage.running():
        await until(lambda: stage.row("a") and stage.row("a").waiting == 1)
        stage.endpoints(f"{entry}, engine: mine", rest="engineConfigs: [{name: mine, queuedRequestsSpec: q}]")
        await until(lambda: stage.row("a").waiting == 5)


async def test_an_endpoint_in_no_pool_is_warned_of(stage, until, caplog):
    stage.endpoints(
        "name: lonely, address: 127.0.0.1, port: 1",
        rest="---\napiVersion: inference.networking.k8s.io/v1\nkind: InferencePool\nmetadata: {name: p}\n"
        "spec: {selector: {matchLabels: {a: b}}, targetPorts: [{number: 1}]}\n",
    )
    async with stage.running():
        await until(lambda: "default/lonely (127.0.0.1:1) belongs to no pool" in caplog.text)


async def test_the_publisher_gives_a_sign_of_life_when_nothing_changes(tmp_path, until):
    with contextlib.closing(SnapshotWriter(tmp_path)) as writer, contextlib.closing(SnapshotReader(tmp_path)) as reader:
        publisher = Publisher(writer)
        publisher.publish(
            Topology(epoch=1, generation=1, endpoints=(Endpoint(slot=0, incarnation=1, name="a", address="::1", port=1),))
        )
        first = reader.view(time.monotonic_ns())
        assert first.load.row(0) == LoadRow(slot=0, incarnation=1)
        task = asyncio.create_task(publisher.run())
        await until(lambda: reader.view(time.monotonic_ns()).load.published_ns > first.load.published_ns)
        publisher.update(LoadRow(slot=0, incarnation=1, waiting=3))
        publisher.update(LoadRow(slot=0, incarnation=2, waiting=9))
        publisher.update(LoadRow(slot=5, incarnation=1, waiting=9))
        await until(lambda: reader.view(time.monotonic_ns()).load.waiting == (3,))
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_an_endpoint_that_publishes_kv_events_is_followed_while_it_exists(stage, until):
    with zmq.asyncio.Context() as context:
        publisher = context.socket(zmq.XPUB)
        publisher.linger = 0
        port = publisher.bind_to_random_port("tcp://127.0.0.1")
        stage.endpoints(f"name: one, address: 127.0.0.1, port: 1, kvEventsPort: {port}")
        async with stage.running():
            async with asyncio.timeout(20):
                assert await publisher.recv() == b"\x01"
                stage.endpoints("name: two, address: 127.0.0.1, port: 1")
                assert await publisher.recv() == b"\x00"
        assert (stage.directory / BLOCK_LOG).exists()
        publisher.close()


async def test_the_models_that_engines_list_are_published_and_followed(stage, serve, until):
    listed = b'{"object": "list", "data": [{"id": "llama"}, {"id": "adapter"}]}'
    asked = []

    async def answer(writer):
        asked.append(server.requests[-1].split(b" ", 2)[1])
        content = listed if asked[-1] == b"/v1/models" else PAGE % 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(content), content))

    def models():
        return stage.view and stage.view.topology.endpoints[0].models

    server = await serve(answer)
    stage.endpoints(f"name: a, address: 127.0.0.1, port: {server.port}")
    async with stage.running(models=Models(0.01, 20.0)):
        assert await until(models) == ("adapter", "llama")
        listed = b"nothing of the kind"
        count = len(asked)
        await until(lambda: b"/v1/models" in asked[count:])
        assert models() == ("adapter", "llama")
        listed = b'{"data": [{"id": "llama"}, {"id": "adapter", "parent": "llama"}]}'
        await until(lambda: stage.view.topology.endpoints[0].adapters == ("adapter",))
        await server.stop()
        await until(lambda: models() == ())  # who accepts no connections has ended, and its adapters with it


async def test_nobody_is_asked_for_models_unless_it_is_wanted(stage, serve, until):
    server = await serve(PAGE % 1)
    stage.endpoints(f"name: a, address: 127.0.0.1, port: {server.port}")
    async with stage.running():
        await until(lambda: len(server.requests) > 3)
    assert {request.split(b" ", 2)[1] for request in server.requests} == {b"/metrics"}


async def test_many_endpoints_that_fail_at_once_are_summed_up(stage, until, caplog, monkeypatch):
    monkeypatch.setattr("shunter.scraper.shell.service.TALLY_S", 0.05)
    monkeypatch.setattr("shunter.scraper.shell.service.MANY", 0)
    stage.endpoints(*(f"name: a{port}, address: 127.0.0.1, port: {port}" for port in (1, 2, 3)))
    async with stage.running():
        await until(lambda: "3 of 3 endpoints fail: 3 connection refused" in caplog.text)


async def test_an_endpoint_in_no_pool_is_warned_of_once_while_others_come(stage, until, caplog):
    pool = (
        "---\napiVersion: inference.networking.k8s.io/v1\nkind: InferencePool\nmetadata: {name: p}\n"
        "spec: {selector: {matchLabels: {a: b}}, targetPorts: [{number: 1}]}\n"
    )
    lonely, other = "name: lonely, address: 127.0.0.1, port: 1", "name: other, address: 127.0.0.1, port: 2"
    stage.endpoints(lonely, rest=pool)
    async with stage.running():
        await until(lambda: stage.view)
        stage.endpoints(lonely, other, rest=pool)
        await until(lambda: "default/other (127.0.0.1:2) belongs to no pool" in caplog.text)
    assert caplog.text.count("default/lonely (127.0.0.1:1) belongs to no pool") == 1


async def test_a_full_file_system_leaves_the_snapshot_before_in_force_until_there_is_room(
    stage, serve, until, caplog, monkeypatch
):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    caplog.set_level(logging.INFO)
    monkeypatch.setattr("shunter.scraper.shell.service.LOOK_UP_S", 0.05)
    server = await serve(PAGE % 2)
    entry = f"name: a, address: 127.0.0.1, port: {server.port}"
    stage.endpoints(entry)
    async with stage.running():
        await until(lambda: stage.health("a") is Health.FRESH)
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(os, "posix_fallocate", full)
            label = "x" * 60_000
            stage.endpoints(entry, f"name: b, address: 127.0.0.1, port: 1, labels: {{one: {label}, two: {label}}}")
            await until(lambda: "topology.ring: No space left on device" in caplog.text)
            before_ns = stage.row("a").sampled_ns
            await until(lambda: stage.row("a").sampled_ns > before_ns)
            assert stage.row("b") is None
        await until(lambda: stage.health("b") is Health.UNREACHABLE)
    assert "the snapshot has room again: 2 endpoints" in caplog.text
    assert caplog.text.count("No space left on device") == 1


NEIGHBOURS = (("a", "127.0.0.1"), ("b", "127.0.0.2"))


async def test_kv_events_wait_for_room_for_their_log_while_everybody_is_scraped(stage, serve, until, caplog, monkeypatch):
    reserve = os.posix_fallocate

    def full_for_the_log(fd, offset, size):
        if size == LOG_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        reserve(fd, offset, size)

    caplog.set_level(logging.INFO)
    monkeypatch.setattr("shunter.scraper.shell.kvevents.AGAIN_S", 0.01)
    server = await serve(PAGE % 2)
    stage.endpoints(
        *(f"name: {name}, address: {address}, port: {server.port}, kvEventsPort: 1" for name, address in NEIGHBOURS)
    )
    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(os, "posix_fallocate", full_for_the_log)
        async with stage.running():
            await until(lambda: stage.health("a") is Health.FRESH)
            await until(lambda: "kv-blocks.log: No space left on device" in stage.scraper.troubles["kv_events"])
            meanwhile.undo()
            await until(lambda: not stage.scraper.troubles["kv_events"])
    assert (stage.directory / BLOCK_LOG).stat().st_size == LOG_BYTES
    assert caplog.text.count("No space left on device") == 1
    assert "the log of KV events has room now" in caplog.text


class Nobody(Files):
    """A Kubernetes API without a single object."""

    def load(self):
        return Cluster()


async def test_nobody_at_all_replaces_who_a_former_run_knew(stage, until, monkeypatch):
    stage.endpoints("name: a, address: 127.0.0.1, port: 1")
    async with stage.running():
        await until(lambda: stage.view)
    monkeypatch.setattr(sys.modules[__name__], "Files", Nobody)
    async with stage.running():
        await until(lambda: stage.view.topology.endpoints == ())
