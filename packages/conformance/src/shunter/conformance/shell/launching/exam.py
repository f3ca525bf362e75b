"""The exam of a model server that is started for it and ended after it."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from importlib.util import find_spec
from typing import Any

import msgspec

from shunter.conformance.core.case import Case
from shunter.conformance.core.events import Event, Started
from shunter.conformance.sections.servers import CASES
from shunter.conformance.sections.servers.profile import ServerProfile
from shunter.conformance.sections.servers.target import Means, Target
from shunter.conformance.shell.launching.driver import Driver
from shunter.conformance.shell.runner import tell_unstarted
from shunter.conformance.shell.servers.exam import examine

__all__ = ["examine_launched"]

# What is wrong with the wishes is found before anything is started, when there is no URL yet.
SOMEWHERE = "http://127.0.0.1"


def examine_launched(
    driver: Driver,
    *,
    cases: Sequence[Case[Target]] = CASES,
    profile: ServerProfile | str | None = None,
    model: str | None = None,
    metrics_url: str | None = None,
    means: Means | None = None,
    **options: Any,
) -> AsyncGenerator[Event]:
    """Start a server, examine it as `examine` does, and end it; what is given here wins over what its driver says of it.

    Raises UsageError at once. If the server does not come up, every case is one that could not be asked, and LaunchError
    follows the last event.
    """
    ask = partial(examine, cases=cases, **options)
    ask(SOMEWHERE, profile=profile, model=model, metrics_url=metrics_url, means=means or Means())

    async def events() -> AsyncGenerator[Event]:
        async with driver as served:
            exam = ask(
                served.url,
                profile=profile or served.profile or None,
                model=model or served.model or None,
                metrics_url=metrics_url or served.metrics_url or None,
                means=_besides(_usable(served.means), means or Means()),
                control=driver,
                lag_s=served.lag_s,
            )
            async with aclosing(exam):
                async for event in exam:
                    yield msgspec.structs.replace(event, version=served.version) if isinstance(event, Started) else event

    return tell_unstarted(events(), cases)


def _besides(told: Means, given: Means) -> Means:
    """Return what a driver tells of its server, and in its place what the examiner has given."""
    return msgspec.structs.replace(told, **{name: value for name, value in msgspec.structs.asdict(given).items() if value})


def _usable(means: Means) -> Means:
    """Leave out KV events where nobody can read them: the examiner has not asked for them."""
    return means if find_spec("zmq") else msgspec.structs.replace(means, kv_events="", kv_replay="")
