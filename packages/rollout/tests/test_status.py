"""The page of what keeps adapters loaded is there for whoever may ask."""

from types import SimpleNamespace

import aiohttp
import pytest

from shunter.rollout.shell import status
from shunter.rollout.shell.status import serve_status


async def test_two_colons_are_every_address_of_both_families():
    async with serve_status("::", 0, SimpleNamespace(settled=True), None) as port, aiohttp.ClientSession() as client:
        for host in ("127.0.0.1", "[::1]"):
            async with client.get(f"http://{host}:{port}/readyz") as answer:
                assert answer.status == 200


async def test_two_colons_are_every_address_of_a_kernel_without_ipv6(monkeypatch):
    monkeypatch.setattr(status, "has_dualstack_ipv6", lambda: False)
    async with serve_status("::", 0, SimpleNamespace(settled=True), None) as port, aiohttp.ClientSession() as client:
        async with client.get(f"http://127.0.0.1:{port}/readyz") as answer:
            assert answer.status == 200
        with pytest.raises(aiohttp.ClientConnectorError):
            await client.get(f"http://[::1]:{port}/readyz")
