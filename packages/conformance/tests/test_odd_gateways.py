"""Whatever answers in a gateway's place, each case comes to a verdict."""

import asyncio

import msgspec
import pytest
from aiohttp import ClientSession, web

from shunter.conformance.core.events import CaseFinished
from shunter.conformance.core.verdict import Verdict
from shunter.conformance.sections.gateways import CASES
from shunter.conformance.sections.gateways.setup import Place
from shunter.conformance.sections.gateways.trial import TRIAL, Pool
from shunter.conformance.shell.gateways.exam import examine
from shunter.conformance.shell.ports import free_ports

# A hundredth of the limits on what never comes.
PATIENCE, TIMEOUT_S = 0.01, 0.1

PLACES = web.AppKey("places", dict)


async def agree(request):
    """To everything, with enough bytes for whoever reads some."""
    await request.read()
    return web.Response(body=b"yes" * 4000)


async def hang_up(request):
    request.transport.abort()
    return web.Response()


async def say_nothing(_):
    await asyncio.Event().wait()


async def bypass(request):
    """Go to the first server, without a question to anybody."""
    url = f"http://{request.app[PLACES][Pool.OPEN].servers[0]}{request.path_qs}"
    headers = {TRIAL: request.headers[TRIAL], "content-type": "application/json"}
    async with (
        ClientSession() as session,
        session.request(request.method, url, data=await request.read(), headers=headers) as answer,
    ):
        return web.Response(status=answer.status, body=await answer.read())


@pytest.mark.parametrize("odd", [agree, hang_up, say_nothing, bypass])
async def test_each_case_comes_to_a_verdict(odd):
    """Also the cases that would not be asked after what has failed before."""
    at = [f"127.0.0.1:{port}" for port in free_ports(6)]
    places = {Pool.OPEN: Place(at[0], tuple(at[1:3])), Pool.CLOSE: Place(at[3], tuple(at[4:]))}
    cases = [msgspec.structs.replace(case, needs=()) for case in CASES]
    app = web.Application(client_max_size=64 << 20)
    app[PLACES] = places
    app.router.add_route("*", "/{path:.*}", odd)
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        exam = examine(url, places=places, cases=cases, patience=PATIENCE, timeout_s=TIMEOUT_S, tries=1)
        findings = {event.id: event async for event in exam if isinstance(event, CaseFinished)}
    finally:
        await runner.cleanup()
    assert [*findings] == [case.id for case in CASES]
    assert findings["gw.pick.each"].verdict is Verdict.FAILED
    assert Verdict.ERROR not in {each.verdict for each in findings.values()}
