"""What is said of files that somebody replaces, and of who is told."""

import asyncio
import contextlib
import os
import socket

import aiohttp
import pytest

from shunter.envoyconf.core.xds.report import Report
from shunter.envoyconf.shell.status import StatusPages
from shunter.envoyconf.shell.watch import Watch


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "intent.yaml"
    path.write_text("pools: []")
    return path


def test_a_change_counts_once_it_is_still(file):
    watch = Watch([file.parent])
    assert not watch.changed()
    file.write_text("pools: [{name: half")
    assert not watch.changed(), "it may be half of what is being written"
    file.write_text("pools: [{name: whole}]")
    assert [watch.changed() for _ in range(3)] == [False, True, False]


def test_what_is_as_it_was_has_not_changed(file):
    watch = Watch([file])
    before = file.stat()
    file.write_text("pools: [1]")
    assert not watch.changed()
    file.write_text("pools: []")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert [watch.changed() for _ in range(2)] == [False, False]


def test_a_file_that_is_gone_is_a_change(file):
    watch = Watch([file])
    file.unlink()
    assert [watch.changed() for _ in range(3)] == [False, True, False]


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="there is no IPv6 here")
async def test_pages_at_two_colons_are_for_both_families():
    pages = StatusPages(Report)
    port = await pages.start("::", 0)
    async with aiohttp.ClientSession() as client:
        for host in ("127.0.0.1", "[::1]"):
            async with client.get(f"http://{host}:{port}/healthz") as answer:
                assert await answer.text() == "ok\n"
    await pages.stop()


async def test_pages_end_without_those_who_have_not_asked_yet(until):
    pages = StatusPages(Report)
    complaints = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context["message"]))
    reader, writer = await asyncio.open_connection("127.0.0.1", await pages.start("127.0.0.1", 0))
    writer.write(b"GET / HTTP/1.1\r\n")
    await until(lambda: len(asyncio.all_tasks()) > 1)
    await pages.stop()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert complaints == []
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""
    writer.close()
