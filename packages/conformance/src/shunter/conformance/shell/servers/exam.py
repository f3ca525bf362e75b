"""The exam of a model server at a URL."""

import math
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager

from shunter.conformance.core.case import Case
from shunter.conformance.core.events import Event
from shunter.conformance.core.signals import Role, Signal
from shunter.conformance.core.waivers import Waiver
from shunter.conformance.errors import UsageError
from shunter.conformance.sections.servers import CASES
from shunter.conformance.sections.servers.profile import ServerProfile
from shunter.conformance.sections.servers.profiles import find_profile
from shunter.conformance.sections.servers.target import Control, Means, Target
from shunter.conformance.shell.access import OPEN, Access
from shunter.conformance.shell.runner import TRIES, attend
from shunter.conformance.shell.servers.kvevents import check_endpoint
from shunter.conformance.shell.servers.survey import Plan, SurveyedTarget, survey
from shunter.conformance.shell.wire import ANSWER_TIMEOUT_S, Wire, base_url, check_url

__all__ = ["examine"]

NO_MEANS = Means()


def examine(
    url: str,
    *,
    cases: Sequence[Case[Target]] = CASES,
    profile: ServerProfile | str | None = None,
    model: str | None = None,
    metrics_url: str | None = None,
    health_path: str | None = None,
    signals: Mapping[Role, Signal] | None = None,
    means: Means = NO_MEANS,
    control: Control | None = None,
    lag_s: float = 0.0,
    access: Access = OPEN,
    waivers: Sequence[Waiver] = (),
    timeout_s: float = ANSWER_TIMEOUT_S,
    tries: int = TRIES,
) -> AsyncGenerator[Event]:
    """Examine the server at `url`; whatever is None is found out. Raises UsageError at once, or never.

    `control` is power over its process, without which the cases that end the server are skipped. `lag_s` is how much later
    what is done on one side is noticed on the other, because of what lies between. A caller that may stop early wraps the
    events in `contextlib.aclosing`, which closes the connections.
    """
    if not 0 < timeout_s < math.inf:
        raise UsageError(f"timeout {timeout_s:g} s: want a number of seconds above 0")
    if health_path and not health_path.startswith("/"):
        raise UsageError(f"health path {health_path!r}: want a path that begins with /")
    for endpoint in filter(None, (means.kv_events, means.kv_replay)):
        check_endpoint(endpoint)
    if means.prefill_url:
        base_url(means.prefill_url)
    plan = Plan(
        url=base_url(url),
        profile=find_profile(profile) if isinstance(profile, str) else profile,
        model=model,
        metrics_url=check_url(metrics_url) if metrics_url else None,
        health_path=health_path,
        signals=dict(signals or {}),
        means=means,
        lag_s=lag_s,
    )
    return attend(_open(plan, control, access, timeout_s), cases, waivers=waivers, tries=tries)


@asynccontextmanager
async def _open(plan: Plan, control: Control | None, access: Access, timeout_s: float) -> AsyncGenerator[SurveyedTarget]:
    async with Wire(timeout_s, access) as wire:
        yield await survey(wire, plan, control)
