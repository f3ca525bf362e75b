"""The web page's files and its news: safe against whoever looks, and nobody who looks can hold the picker up."""

import asyncio
import json
import re
import socket
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from msgspec.structs import replace

from shunter.picker.errors import SilenceError
from shunter.picker.shell.admin import Admin
from shunter.picker.shell.page import Files, Live
from shunter.picker.shell.page.live import MOST_VIEWERS
from shunter.picker.shell.page.live import Viewer as Mailbox
from shunter.snapshot import View

DEADLINE_S = 30
QUICK_S = 0.01


class Viewer:
    """Reads events one after the other."""

    def __init__(self, response):
        self.response = response

    async def next(self):
        """Return the next event's name and value."""
        async with asyncio.timeout(DEADLINE_S):
            event = await self.response.content.readuntil(b"\n\n")
        while not event.startswith(b"event: "):
            event = await self.response.content.readuntil(b"\n\n")
        name, data = event.decode().strip().split("\n")
        return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))

    async def until(self, wanted):
        """Return the value of the next event of this name."""
        while True:
            name, value = await self.next()
            if name == wanted:
                return value


@pytest.fixture
async def serve():
    """Serve a Live by itself; return its URL."""
    runners = []

    async def serve(live):
        app = web.Application()
        app.add_routes(live.routes())
        app.on_startup.append(live.start)
        app.on_shutdown.append(live.stop)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=5)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}/events"

    yield serve
    for runner in runners:
        await runner.cleanup()


@pytest.fixture
async def client():
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=None)) as session:
        yield session


@asynccontextmanager
async def looking(client, url):
    async with client.get(url) as response:
        assert response.status == 200
        yield Viewer(response)


@pytest.fixture
async def admin(make_source):
    admin = Admin(make_source({}))
    port = await admin.start("127.0.0.1", 0)
    yield f"http://127.0.0.1:{port}"
    await admin.stop()


async def test_who_comes_is_told_everything_at_once(client, serve, make_source):
    url = await serve(Live(make_source({"waiting": 3.0}), look_s=QUICK_S))
    async with looking(client, url) as viewer:
        told = dict([await viewer.next() for _ in range(5)])
    assert set(told) == {"endpoints", "load", "state", "history", "decisions"}
    assert told["load"]["waiting"] == [3.0]


async def test_what_did_not_change_is_not_told_again(client, serve, make_source):
    url = await serve(Live(make_source({}), look_s=QUICK_S))
    async with looking(client, url) as viewer:
        await viewer.until("decisions")
        assert {(await viewer.next())[0] for _ in range(20)} == {"state"}


async def test_a_slow_viewer_is_told_who_exists_before_how_they_are():
    mailbox = Mailbox()
    for section, data in (("load", b"1"), ("endpoints", b"2"), ("load", b"2")):
        mailbox.offer(section, data)
    assert await mailbox.take() == b"event: endpoints\ndata: 2\n\nevent: load\ndata: 2\n\n"


async def test_news_are_made_once_for_all_viewers(client, serve, make_source):
    source = make_source({})
    url = await serve(Live(source, look_s=QUICK_S))
    async with looking(client, url) as one, looking(client, url) as two, looking(client, url) as three:
        for viewer in (one, two, three):
            await viewer.until("decisions")
        before = source.looks
        for _ in range(10):
            states = [await viewer.until("state") for viewer in (one, two, three)]
        assert len({state["now_s"] for state in states}) < 3 * 10
        assert source.looks - before <= 20


async def test_a_viewer_that_never_reads_is_dropped_and_holds_nobody_up(client, serve, make_source):
    source = make_source(*[{"reason": "x" * 200}] * 400)
    live = Live(source, look_s=QUICK_S, patience_s=0.5)
    url = await serve(live)
    port = int(re.search(r":(\d+)/", url)[1])
    with socket.create_connection(("127.0.0.1", port)) as deaf:
        deaf.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with looking(client, url) as other:
            waiting = 0.0
            while not live.dropped:
                waiting += 1
                load = source.view.load
                source.view = View(source.view.topology, replace(load, waiting=(waiting,) * len(load.slot)))
                await other.until("load")
            assert (live.dropped, len(live._viewers)) == (1, 1)


async def test_one_viewer_too_many_is_sent_away_and_counted(client, serve, make_source):
    live = Live(make_source({}), look_s=QUICK_S)
    url = await serve(live)
    responses = [await client.get(url) for _ in range(MOST_VIEWERS)]
    async with client.get(url) as response:
        assert (response.status, live.dropped) == (503, 1)
    for response in responses:
        response.close()


async def test_somebody_elses_page_takes_no_viewers_place(client, serve, make_source):
    url = await serve(Live(make_source({})))
    async with client.get(url, headers={"Sec-Fetch-Site": "cross-site"}) as response:
        assert response.status == 403


async def test_a_source_that_breaks_does_not_end_the_news(client, serve, make_source, monkeypatch, caplog):
    source, calls = make_source({}), []

    async def decisions(last, request_id):
        calls.append(last)
        raise OSError("a worker sent nonsense")

    monkeypatch.setattr(source, "decisions", decisions)
    monkeypatch.setattr("shunter.picker.shell.page.live.EVERY_S", QUICK_S)
    monkeypatch.setattr("shunter.picker.shell.page.live.DECISIONS_S", 0)
    url = await serve(Live(source, look_s=QUICK_S))
    async with looking(client, url) as viewer:
        while len(calls) < 3:
            await viewer.until("state")
    assert "cannot be told" in caplog.text


async def test_decisions_stay_on_the_page_while_workers_are_silent(client, serve, make_source, monkeypatch, caplog):
    source, calls = make_source({}), []

    async def decisions(last, request_id):
        calls.append(last)
        raise SilenceError("no worker has answered")

    monkeypatch.setattr(source, "decisions", decisions)
    monkeypatch.setattr("shunter.picker.shell.page.live.DECISIONS_S", 0)
    url = await serve(live := Live(source, look_s=QUICK_S))
    async with looking(client, url) as viewer:
        live._publish("decisions", b"[1]")
        while len(calls) < 3:
            await viewer.until("state")
        assert live._told["decisions"] == b"[1]"
    assert caplog.text == ""


@pytest.mark.parametrize(("endpoints", "asked"), [(1, 8), (500, 4), (2500, 1)])
async def test_in_a_large_pool_workers_are_asked_for_fewer_decisions(client, serve, make_source, endpoints, asked):
    source = make_source(*[{}] * endpoints)
    source.decided = [{"request_id": str(n)} for n in range(20)]
    url = await serve(Live(source, look_s=QUICK_S))
    async with looking(client, url) as viewer:
        assert len(await viewer.until("decisions")) == asked


async def test_viewers_do_not_keep_the_picker_from_ending(client, make_source):
    admin = Admin(make_source({}))
    port = await admin.start("127.0.0.1", 0)
    async with looking(client, f"http://127.0.0.1:{port}/events") as viewer:
        await viewer.until("state")
        async with asyncio.timeout(DEADLINE_S):
            await admin.stop()
        while rest := await viewer.response.content.read(1 << 16):
            assert rest


# -- the files ----------------------------------------------------------------------------------------------------------


async def test_the_page_lets_nothing_in_from_elsewhere(client, admin):
    async with client.get(admin + "/") as response:
        policy = response.headers["Content-Security-Policy"]
        page = await response.text()
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "script-src 'self';" in policy
    assert not re.search(r"""\son\w+=|<script(?! type="module" src="/page/page.js")|style=|https?://""", page)


async def test_all_that_the_page_asks_for_is_there(client, admin):
    async with client.get(admin + "/") as response:
        wanted = set(re.findall(r'"(/page/[^"]+)"', await response.text()))
    checked = set()
    while missing := wanted - checked:
        path = missing.pop()
        checked.add(path)
        async with client.get(admin + path) as response:
            assert response.status == 200, path
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            wanted |= {f"/page/{name}" for name in re.findall(r'from "\./([^"]+)"', await response.text())}
    assert {path.rpartition("/")[2] for path in checked} == set(Files()._files) - {"index.html"}


@pytest.mark.parametrize("path", ["/page/none.js", "/page/../live.py", "/page/%2e%2e%2flive.py", "/page/__init__.py", "/page/"])
async def test_nothing_else_is(client, admin, path):
    async with client.get(aiohttp.client.URL(admin + path, encoded=True)) as response:
        assert response.status == 404


@pytest.mark.parametrize("path", ["/", "/page/page.js", "/events", "/debug/decisions"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_the_pages_are_for_reading(client, admin, method, path):
    async with client.request(method, admin + path) as response:
        assert response.status == 405


async def test_nobody_waits_for_the_head_of_the_news(client, admin):
    async with client.head(admin + "/events") as response:
        assert response.status == 405


def test_no_code_of_the_page_parses_markup():
    code = b"".join(body for name, body in Files()._files.items() if name.endswith(".js"))
    assert not re.search(rb"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|DOMParser", code)


# -- who may ask --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9090", "127.0.0.1:9090", "[::1]:9090", "10.1.2.3", "localhost."])
async def test_a_picker_on_loopback_answers_to_addresses_and_localhost(client, admin, host):
    async with client.get(admin + "/healthz", headers={"Host": host}) as response:
        assert response.status == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9090", "localhost.evil.example", "127.0.0.1.evil.example", ""])
@pytest.mark.parametrize("path", ["/", "/events", "/debug/decisions", "/metrics"])
async def test_it_does_not_answer_to_the_name_of_somebody_elses_page(client, admin, host, path):
    async with client.get(admin + path, headers={"Host": host}) as response:
        assert response.status == 421
