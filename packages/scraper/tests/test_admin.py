"""The pages tell whether there is a snapshot, what hinders it, and everything that was counted."""

import asyncio
import contextlib
import json
from typing import ClassVar

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from shunter.scraper.core.cadence import Cadence
from shunter.scraper.core.complaints import Complaint
from shunter.scraper.core.manifests import Key
from shunter.scraper.errors import ConfigError
from shunter.scraper.shell.admin import Admin
from shunter.scraper.shell.files import Files
from shunter.scraper.shell.registry import Following
from shunter.scraper.shell.service import Scraper
from shunter.snapshot import SnapshotWriter

PAGE = b"vllm:num_requests_waiting 1\nvllm:num_requests_running 1\nvllm:kv_cache_usage_perc 0.5\n"


class Unknown:
    """A registry that has been refused and knows nobody."""

    title = "nowhere"
    following = (
        Following(resource="pods", place="/pods", known=False, trouble="HTTP 403: no"),
        Following(resource="inferencepools", place="/pools", known=True, relists=2, restarts=3),
    )
    complaints: ClassVar = {("pods", Key("llm", "a")): Complaint("UnknownEngine", "what is it?")}

    def load(self):
        return None

    async def run(self):
        await asyncio.Future()

    async def changed(self):
        await asyncio.Future()


class Pages:
    """A running scraper's."""

    def __init__(self, scraper, session, port):
        self.scraper, self._session, self._root = scraper, session, f"http://127.0.0.1:{port}"

    async def get(self, path):
        async with self._session.get(self._root + path) as answer:
            return answer.status, await answer.text()

    async def samples(self):
        """Every sample of /metrics, by name and the values of its labels in the order of their names."""
        status, text = await self.get("/metrics")
        assert status == 200
        families = text_string_to_metric_families(text)
        return {
            (one.name, *(value for _, value in sorted(one.labels.items()))): one.value
            for family in families
            for one in family.samples
        }

    async def until(self, *sample, deadline_s=20):
        """Wait until this sample is above 0."""
        async with asyncio.timeout(deadline_s):
            while not (found := await self.samples()).get(sample):  # noqa: ASYNC110  only the page tells
                await asyncio.sleep(0.01)
        return found


@pytest.fixture
async def pages(tmp_path):
    """Start a scraper with pages: ``await pages(registry)``."""
    async with contextlib.AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())

        async def start(registry):
            writer = stack.enter_context(contextlib.closing(SnapshotWriter(tmp_path)))
            scraper = Scraper(registry, writer, cadence=Cadence(0.01, 0.05))
            admin = Admin(scraper)
            port = await admin.start("127.0.0.1", 0)
            stack.push_async_callback(admin.stop)
            task = asyncio.create_task(scraper.run())

            async def stop():
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

            stack.push_async_callback(stop)
            return Pages(scraper, session, port)

        yield start


async def test_without_a_snapshot_it_lives_is_not_ready_and_says_why(pages):
    shown = await pages(Unknown())
    assert await shown.get("/healthz") == (200, "ok\n")
    status, text = await shown.get("/readyz")
    assert status == 503
    assert json.loads(text) == {
        "ready": False,
        "hindrances": ["/pods: HTTP 403: no"],
        "troubles": ["/pods: HTTP 403: no"],
        "complaints": 1,
    }


async def test_how_it_stands_with_what_is_followed_is_shown(pages):
    shown = await pages(Unknown())
    found = await shown.samples()
    assert found["shunter_scraper_unread", "pods"] == found["shunter_scraper_troubled", "pods"] == 1
    assert found["shunter_scraper_unread", "inferencepools"] == found["shunter_scraper_troubled", "inferencepools"] == 0
    assert found["shunter_scraper_relists_total", "inferencepools"] == 2
    assert found["shunter_scraper_watch_restarts_total", "inferencepools"] == 3
    assert found["shunter_scraper_complaints", "UnknownEngine", "pods"] == 1
    assert found["shunter_scraper_snapshot_age_seconds",] == float("inf")
    assert found["shunter_scraper_generation",] == 0
    cluster = json.loads((await shown.get("/debug/cluster"))[1])
    assert cluster["complaints"] == [
        {"resource": "pods", "namespace": "llm", "name": "a", "reason": "UnknownEngine", "message": "what is it?"}
    ]


async def test_a_part_of_the_snapshot_that_cannot_be_written_is_told_of(pages):
    shown = await pages(Unknown())
    shown.scraper.publisher.trouble = "load.ring: No space left on device"
    found = await shown.samples()
    parts = ("topology", "load", "kv_events")
    assert [found["shunter_scraper_snapshot_troubled", part] for part in parts] == [0, 1, 0]
    assert "load.ring: No space left on device" in json.loads((await shown.get("/readyz"))[1])["troubles"]


def files(path, *ports):
    entries = "".join(f"- {{name: e{port}, address: 127.0.0.1, port: {port}, labels: {{app: a}}}}\n" for port in ports)
    pools = "".join(
        f"---\napiVersion: inference.networking.k8s.io/v1\nkind: InferencePool\nmetadata: {{name: {name}}}\n"
        f"spec: {{selector: {{matchLabels: {{app: {name}}}}}, targetPorts: [{{number: 1}}]}}\n"
        for name in ("a", "b")
    )
    path.write_text(f"endpoints:\n{entries}{pools}")
    return Files(path)


async def test_what_came_of_scrapes_is_counted_by_endpoint_and_by_kind(pages, serve, tmp_path):
    good, bad = await serve(PAGE), await serve(b'{"not": "metrics"}')
    shown = await pages(files(tmp_path / "e.yaml", good.port, bad.port, 1))
    await shown.until("shunter_scraper_scrape_failures_total", "127.0.0.1:1")
    await shown.until("shunter_scraper_scrape_failures_total", f"127.0.0.1:{bad.port}")
    found = await shown.until("shunter_scraper_scrapes_total", f"127.0.0.1:{good.port}")
    source = "metrics-data-source"
    assert found["llm_d_epp_datalayer_poll_errors_total", source] > 0
    assert found["llm_d_epp_datalayer_extract_errors_total", "core-metrics-extractor", source] > 0
    total = sum(value for (name, *_), value in found.items() if name.endswith(("_scrapes_total", "_failures_total")))
    assert found["shunter_scraper_scrape_seconds_count",] == total
    assert found["shunter_scraper_scrape_seconds_bucket", "+Inf"] == total
    healths = ("fresh", "failed", "unreachable", "unscraped")
    assert [found["shunter_scraper_endpoints", health] for health in healths] == [1, 1, 1, 0]
    assert found["shunter_scraper_row_age_seconds", f"127.0.0.1:{good.port}"] < 60
    assert found["shunter_scraper_row_age_seconds", "127.0.0.1:1"] == float("inf")


async def test_snapshots_and_pools_are_shown_and_an_empty_pool_is_complained_of(pages, serve, tmp_path):
    server = await serve(PAGE)
    shown = await pages(files(tmp_path / "e.yaml", server.port))
    found = await shown.until("shunter_scraper_publications_total", "load")
    assert found["shunter_scraper_snapshot_bytes", "topology"] > 0
    assert found["shunter_scraper_snapshot_age_seconds",] < 60
    assert found["shunter_scraper_generation",] == shown.scraper.topology.generation
    assert found["shunter_scraper_pool_endpoints", "a", "default"] == 1
    assert found["shunter_scraper_pool_endpoints", "b", "default"] == 0
    assert found["shunter_scraper_complaints", "NoEndpoints", "inferencepools.inference.networking.k8s.io"] == 1
    status, text = await shown.get("/readyz")
    assert (status, json.loads(text)["complaints"]) == (200, 1)


async def test_a_file_that_became_bad_is_a_trouble_until_it_is_good(pages, serve, tmp_path):
    server = await serve(PAGE)
    registry = files(tmp_path / "e.yaml", server.port)
    shown = await pages(registry)
    (tmp_path / "e.yaml").write_text("endpoints: [{nme: a}]")
    await shown.until("shunter_scraper_troubled", "files")
    status, text = await shown.get("/readyz")
    assert status == 200
    assert "did you mean name?" in json.loads(text)["troubles"][0]
    files(tmp_path / "e.yaml", server.port)
    found = await shown.until("shunter_scraper_relists_total", "files")
    assert found["shunter_scraper_troubled", "files"] == 0


async def test_endpoints_that_are_gone_are_no_longer_counted(pages, serve, until, tmp_path):
    server, other = await serve(PAGE), await serve(PAGE)
    shown = await pages(files(tmp_path / "e.yaml", server.port, other.port))
    await shown.until("shunter_scraper_scrapes_total", f"127.0.0.1:{other.port}")
    files(tmp_path / "e.yaml", server.port)
    await shown.until("shunter_scraper_relists_total", "files")
    await until(lambda: len(shown.scraper.scrapes.by_endpoint) == 1)
    assert ("shunter_scraper_scrapes_total", f"127.0.0.1:{other.port}") not in await shown.samples()


@pytest.mark.parametrize(("host", "words"), [("", "--admin-host is empty"), ("127.0.0.1", "Address already in use")])
async def test_a_place_that_cannot_be_listened_at_is_refused(tmp_path, serve, host, words):
    taken = await serve(PAGE)
    with contextlib.closing(SnapshotWriter(tmp_path)) as writer, pytest.raises(ConfigError, match=words):
        await Admin(Scraper(Unknown(), writer)).start(host, taken.port)


async def test_two_colons_are_every_address_of_both_families(tmp_path):
    with contextlib.closing(SnapshotWriter(tmp_path)) as writer:
        admin = Admin(Scraper(Unknown(), writer))
        port = await admin.start("::", 0)
        async with aiohttp.ClientSession() as client:
            for host in ("127.0.0.1", "[::1]"):
                async with client.get(f"http://{host}:{port}/healthz") as answer:
                    assert answer.status == 200
        await admin.stop()
