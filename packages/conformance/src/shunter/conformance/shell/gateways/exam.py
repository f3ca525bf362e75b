"""The exam of a gateway at a URL, whose pickers and model servers the exam itself is."""

import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from shunter.conformance.core.addresses import with_port
from shunter.conformance.core.case import Case
from shunter.conformance.core.events import Event
from shunter.conformance.core.profile import named
from shunter.conformance.core.waivers import Waiver
from shunter.conformance.errors import UsageError
from shunter.conformance.sections.gateways import CASES, PROFILES
from shunter.conformance.sections.gateways.profile import GatewayProfile
from shunter.conformance.sections.gateways.setup import DEFAULT, Place, check_places
from shunter.conformance.sections.gateways.target import Target
from shunter.conformance.sections.gateways.trial import Pool, Trial
from shunter.conformance.shell.access import OPEN, Access
from shunter.conformance.shell.gateways.picker import PickerDouble
from shunter.conformance.shell.gateways.server import ServerDouble
from shunter.conformance.shell.gateways.stage import Stage
from shunter.conformance.shell.runner import TRIES, attend
from shunter.conformance.shell.wire import ANSWER_TIMEOUT_S, Wire, base_url

__all__ = ["examine"]


def examine(
    url: str,
    *,
    places: Mapping[Pool, Place] = DEFAULT,
    cases: Sequence[Case[Target]] = CASES,
    profile: GatewayProfile | str = "generic",
    waivers: Sequence[Waiver] = (),
    timeout_s: float = ANSWER_TIMEOUT_S,
    patience: float = 1.0,
    access: Access = OPEN,
    tries: int = TRIES,
) -> AsyncGenerator[Event]:
    """Examine the gateway at `url`, which has been told of `places`. Raises UsageError at once, or when the exam begins.

    `patience` is a factor on every time limit, `access` says whom to trust behind https. A caller that may stop early wraps
    the events in `contextlib.aclosing`, which closes all that listens.
    """
    if not 0 < timeout_s < math.inf or not 0 < patience < math.inf:
        raise UsageError(f"timeout {timeout_s:g} s, patience {patience:g}: want numbers above 0")
    check_places(places)
    kind = named(PROFILES, profile) if isinstance(profile, str) else profile
    return attend(_open(base_url(url), places, kind, timeout_s, patience, access), cases, waivers=waivers, tries=tries)


@asynccontextmanager
async def _open(
    url: str, places: Mapping[Pool, Place], profile: GatewayProfile, timeout_s: float, patience: float, access: Access
) -> AsyncGenerator[Stage]:
    trials: dict[str, Trial] = {}
    async with AsyncExitStack() as resources:
        servers = [ServerDouble(address, trials) for place in places.values() for address in place.servers]
        outside = ServerDouble(with_port(places[Pool.OPEN].servers[0], 0), trials)  # where the gateway would reach it
        pickers = {pool: PickerDouble(pool, place.picker, place.servers[0], trials) for pool, place in places.items()}
        for double in (*servers, outside, *pickers.values()):
            resources.push_async_callback(double.stop)
            await double.start()
        wire = await resources.enter_async_context(Wire(timeout_s, access))
        stage = Stage(url, profile, places, trials, wire, pickers, servers, outside, timeout_s, patience)
        await stage.settle()
        yield stage
