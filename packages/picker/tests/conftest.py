import asyncio
import random

import pytest
import uvloop

from shunter.picker.core.fleet import Roster
from shunter.picker.core.ledger import Ledger
from shunter.snapshot import Endpoint, Health, Load, LoadRow, Pool, Topology, View

NOW_NS = 100_000_000_000


def pytest_asyncio_loop_factories(config, item):
    """The worker runs on uvloop, whose transports differ in detail from asyncio's."""
    loops = {"asyncio": asyncio.new_event_loop}
    return loops | {"uvloop": uvloop.new_event_loop} if item.path.stem in ("test_native", "test_tls") else loops


@pytest.fixture
def dice():
    return random.Random(1)


@pytest.fixture
def make_view():
    """rows are LoadRow fields per endpoint (None: no row at all); endpoints are pod-0, pod-1 … at 10.0.0.1, 10.0.0.2 …"""

    def make(*rows, endpoints=None, now_ns=NOW_NS, **resources):
        endpoints = endpoints or [{} for _ in rows]
        made = tuple(
            Endpoint(**{"slot": at, "incarnation": 1, "name": f"pod-{at}", "address": f"10.0.0.{at + 1}", "port": 8000} | extra)
            for at, extra in enumerate(endpoints)
        )
        resources.setdefault("pools", (Pool(name="pool"),))
        topology = Topology(epoch=1, generation=1, endpoints=made, **resources)
        fresh = {"health": Health.FRESH, "sampled_ns": now_ns}
        loads = [
            LoadRow(**{"slot": endpoint.slot, "incarnation": endpoint.incarnation} | fresh | row)
            for endpoint, row in zip(made, rows, strict=True)
            if row is not None
        ]
        return View(topology, Load.of(loads, epoch=1, topology_generation=1, published_ns=now_ns))

    return make


@pytest.fixture
def make_fleet(make_view):
    def make(*rows, ledger=None, now_ns=NOW_NS, pool=None, **kwargs):
        return Roster(ledger or Ledger(), pool=pool).fleet(make_view(*rows, now_ns=now_ns, **kwargs), now_ns)

    return make
