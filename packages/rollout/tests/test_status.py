"""The page of what keeps adapters loaded is there for whoever may ask."""

from types import SimpleNamespace

import aiohttp

from shunter.rollout.shell.status import serve_status


async def test_two_colons_are_every_address_of_both_families():
    async with serve_status("::", 0, SimpleNamespace(settled=True), None) as port, aiohttp.ClientSession() as client:
        for host in ("127.0.0.1", "[::1]"):
            async with client.get(f"http://{host}:{port}/readyz") as answer:
                assert answer.status == 200
