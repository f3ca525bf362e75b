"""The pages keep nobody from ending, and let nobody from afar change anything."""

import asyncio
import re
import socket
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp import web

from shunter.picker.errors import ConfigError, SilenceError
from shunter.picker.shell.admin import Admin

DEADLINE_S = 20


class Source:
    """Answers nothing, ever, when it is asked where everybody is."""

    def __init__(self):
        self.asked = asyncio.Event()

    async def stacks(self):
        self.asked.set()
        await asyncio.get_running_loop().create_future()


async def test_a_page_that_hangs_does_not_keep_the_picker_from_ending():
    source = Source()
    admin = Admin(source)
    port = await admin.start("127.0.0.1", 0)
    async with aiohttp.ClientSession() as client:
        reading = asyncio.create_task(client.get(f"http://127.0.0.1:{port}/debug/stacks"))
        await source.asked.wait()
        async with asyncio.timeout(DEADLINE_S):
            await admin.stop()
        await asyncio.gather(reading, return_exceptions=True)


@pytest.mark.parametrize("page", ["decisions", "precedents"])
async def test_workers_that_are_silent_are_not_workers_that_decided_nothing(page):
    async def silent(*_):
        raise SilenceError("no worker has answered")

    admin = Admin(SimpleNamespace(**{page: silent}))
    port = await admin.start("127.0.0.1", 0)
    async with aiohttp.ClientSession() as client, client.get(f"http://127.0.0.1:{port}/debug/{page}") as answer:
        assert (answer.status, await answer.text()) == (503, "no worker has answered\n")
    await admin.stop()


async def test_nobody_from_afar_changes_what_is_logged():
    with pytest.raises(web.HTTPForbidden) as refused:
        await Admin(Source())._set_log_level(SimpleNamespace(remote="10.0.0.7"))
    assert "from the picker's own machine" in refused.value.text


async def test_two_colons_are_every_address_of_both_families():
    admin = Admin(Source())
    port = await admin.start("::", 0)
    async with aiohttp.ClientSession() as client:
        for host in ("127.0.0.1", "[::1]"):
            async with client.get(f"http://{host}:{port}/healthz") as answer:
                assert answer.status == 200
    await admin.stop()


async def test_pages_at_an_ipv6_address_are_refused_with_a_place_that_can_be_copied():
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=re.escape(f"cannot serve the admin pages on [::1]:{port}: ")):
            await Admin(Source()).start("::1", port)
