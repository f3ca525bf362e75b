"""The look around before the exam: what kind of server is this, what does it serve, how fast is it?

The order matters: the metrics page is fetched before anything is generated, because some cases ask what is there
before the first request.
"""

import statistics
from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from urllib.parse import urlsplit

import msgspec

from shunter.conformance.core.case import AnyCase, Bound, Level
from shunter.conformance.core.events import Planned, Side, Started, Timeline
from shunter.conformance.core.exchange import Evidence, Exchange, clip, evidence
from shunter.conformance.core.kvevents import KvMessage
from shunter.conformance.core.signals import Role, Signal
from shunter.conformance.errors import ConformanceError, Skip, Unanswered
from shunter.conformance.sections.servers import CASES
from shunter.conformance.sections.servers.answers import ModelList, RepositoryEntry
from shunter.conformance.sections.servers.asking import TOKENS, ask_completion
from shunter.conformance.sections.servers.profile import ServerProfile
from shunter.conformance.sections.servers.profiles import GENERIC, PROFILES, detect, undetected
from shunter.conformance.sections.servers.target import Control, Means
from shunter.conformance.shell.servers.kvevents import Listener, listening, replayed
from shunter.conformance.shell.wire import Wire, base_url, speaks_tls, unreachable

__all__ = ["Calibration", "Plan", "SurveyedTarget", "survey"]

# A token takes 10–50 ms on the servers that the bounds were written for; slower ones get as much more time.
REFERENCE_STEP_S = 0.05

# A server slower than this by calibration is taken at its word no longer.
MAX_SCALE = 20.0

# An examiner that is so many times too slow to look in time is taken at his word.
MOST_PATIENCE = 2

# The median of three small completions: the first one may include a compilation or a cold cache.
CALIBRATION_RUNS = 3


# What Triton says of a model that is loaded.
READY = "READY"

# What a server is asked for whose only model has no name on the wire.
NAMELESS = "model"

OK = 200

# What a server says to whoever has no key, or a wrong one.
SHUT = {401, 403}


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What the examiner says about the target; None and empty mean: find out. `lag_s` is added to every bound."""

    url: str
    profile: ServerProfile | None = None
    model: str | None = None
    metrics_url: str | None = None
    health_path: str | None = None
    signals: dict[Role, Signal] = {}
    means: Means = Means()
    lag_s: float = 0.0


class Calibration(msgspec.Struct, frozen=True):
    """The pace of the target: seconds per token, and the factor on every bound that scales."""

    step_s: float | None = None
    scale: float = 1.0
    note: str = "not measured"


class KeptLine:
    """The paths of a server over a client that keeps its connections."""

    def __init__(self, wire: Wire, url: str) -> None:
        self._wire = wire
        self._url = url

    @property
    def connections(self) -> int:
        return self._wire.connections

    async def post(self, path: str, body: bytes | dict[str, object]) -> Exchange:
        return await self._wire.exchange("POST", self._url + path, body)


class SurveyedTarget:
    """The server under exam as cases (`Target`) and engine (`Examined`) see it, with all that the survey found."""

    def __init__(self, wire: Wire, plan: Plan, control: Control | None) -> None:
        self.wire = wire
        self.profile: ServerProfile = plan.profile or GENERIC
        self.profile_reason = "chosen by the examiner" if plan.profile else "nobody answered"
        self.served: tuple[str, ...] = ()
        self.first_page: Exchange | None = None
        self.calibration = Calibration()
        self.capacity: int | None = None
        self.patience = 1
        self.wrong_scheme = ""
        self.unlisted = "the server lists none at /v1/models; name one with --model"
        self._timelines: list[Timeline] = []
        self._plan = plan
        self._control = control

    @property
    def url(self) -> str:
        return self._plan.url

    @property
    def metrics_url(self) -> str:
        return self._plan.metrics_url or _at_port(self.url, self.profile.metrics_port) + self.profile.metrics_path

    @property
    def model(self) -> str:
        if name := self._plan.model or next(iter(self.served), None):
            return name
        raise Skip(f"no model to ask for: {self.unlisted}")

    @property
    def step_s(self) -> float | None:
        return self.calibration.step_s

    def seconds(self, bound: Bound) -> float:
        return bound.seconds * (self.calibration.scale if bound.scales else 1.0) + self._plan.lag_s

    @property
    def means(self) -> Means:
        return self._plan.means

    @property
    def control(self) -> Control:
        if self._control is None:
            raise Skip("needs a server that the exam may end; --launch starts one")
        return self._control

    async def get(self, path: str, headers: Mapping[str, str] | None = None) -> Exchange:
        return await self.wire.exchange("GET", self.url + path, headers=headers)

    async def post(self, path: str, body: bytes | dict[str, object], headers: Mapping[str, str] | None = None) -> Exchange:
        return await self.wire.exchange("POST", self.url + path, body, headers)

    @asynccontextmanager
    async def line(self) -> AsyncGenerator[KeptLine]:
        async with self.wire.reusing() as wire:
            yield KeptLine(wire, self.url)

    async def abandon(self, path: str, body: bytes, promised_bytes: int) -> None:
        await self.wire.abandon(self.url + path, body, promised_bytes)

    def first_metrics(self) -> Exchange:
        if self.first_page is None:
            raise Skip("the server gave no metrics page before the first request")
        self.wire.transcript.append(self.first_page)
        return self.first_page

    async def metrics(self, method: str = "GET", headers: Mapping[str, str] | None = None) -> Exchange:
        return await self.wire.exchange(method, self.metrics_url, headers=headers)

    async def prefill(self, path: str, body: dict[str, object]) -> Exchange:
        if not self.means.prefill_url:
            raise Skip("needs a second server, which computes prompts for this one (--prefill-url URL)")
        return await self.wire.exchange("POST", base_url(self.means.prefill_url) + path, body)

    def kv_events(self) -> AbstractAsyncContextManager[Listener]:
        if not self.means.kv_events:
            raise Skip("needs the endpoint at which it publishes KV events (--kv-events tcp://HOST:PORT)")
        return listening(self.means.kv_events)

    async def kv_replay(self, start: int, within_s: float) -> list[KvMessage]:
        if not self.means.kv_replay:
            raise Skip("needs the endpoint at which it replays KV events (--kv-replay tcp://HOST:PORT)")
        return await replayed(self.means.kv_replay, start, within_s)

    def plot(self, name: str, points: Sequence[tuple[float, float]]) -> None:
        self._timelines.append(Timeline(name, tuple((round(seconds, 4), value) for seconds, value in points)))

    def started(self, date: str, cases: Sequence[AnyCase]) -> Started:
        try:
            model = self.model
        except Skip:
            model = ""
        asked = {case.id for case in cases}
        musts = [case for case in CASES if case.level is Level.MUST and case.id not in asked]
        return Started(
            date=date,
            url=self.url,
            profile=self.profile.name,
            profile_reason=self.profile_reason,
            cases=tuple(Planned(case.id, case.level, case.requirement, case.suites) for case in cases),
            side=Side.MODEL_SERVER,
            metrics_url=self.metrics_url,
            model=model,
            step_s=self.calibration.step_s,
            scale=round(self.calibration.scale, 2),
            calibration=self.calibration.note + (f", and {self._plan.lag_s:g} s for the way" if self._plan.lag_s else ""),
            left_out=dict(Counter(suite for case in musts for suite in case.suites)),
        )

    def forget(self) -> None:
        self.wire.transcript.clear()
        self._timelines.clear()

    async def adapt(self, *, longer: bool = False) -> None:
        self.patience = min(self.patience * (1 + longer), MOST_PATIENCE)
        if (now := await _calibrate(self)).step_s is not None:
            self.calibration = now

    def evidence(self) -> list[Evidence]:
        return [evidence(exchange) for exchange in self.wire.transcript]

    def timelines(self) -> list[Timeline]:
        return self._timelines

    async def unreachable(self) -> str | None:
        return self.wrong_scheme or await unreachable(self.url, self.wire.access.tls)


def _at_port(url: str, port: int | None) -> str:
    """The same server at another port."""
    if port is None:
        return url
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}:{port}"


async def survey(wire: Wire, plan: Plan, control: Control | None = None) -> SurveyedTarget:
    """Look around; what cannot be found out is left open for the cases to complain about."""
    target = SurveyedTarget(wire, plan, control)
    if await target.unreachable():
        return target
    with suppress(Unanswered):  # the case about the metrics page will say what is wrong
        target.first_page = await target.metrics()
    owners = await _list_models(target)
    if plan.profile is None:
        target.profile, target.profile_reason = await _recognise(target, owners)
        if target.first_page is None or target.first_page.url != target.metrics_url:
            with suppress(Unanswered):
                target.first_page = await target.metrics()
        if target.profile.api != GENERIC.api:
            await _list_models(target)
    else:
        page = target.first_page.text if target.first_page and target.first_page.status == OK else ""
        if (found := detect(page, owners)) and not _akin(found[0], plan.profile):
            target.profile_reason += f"; but it looks like {found[0].name}: {found[1]}"
    target.profile = target.profile.with_signals(plan.signals)
    if plan.health_path:
        target.profile = msgspec.structs.replace(target.profile, health_path=plan.health_path)
    if target.first_page is None and target.url.startswith("http://") and await speaks_tls(target.url):
        target.wrong_scheme = f"{target.url} speaks TLS; try https://"
        return target
    target.calibration = await _calibrate(target)
    return target


def _akin(one: ServerProfile, other: ServerProfile) -> bool:
    """Whether two profiles look for the same gauges, or one is for whatever has no profile."""
    return GENERIC in (one, other) or one.signals == other.signals


async def _list_models(target: SurveyedTarget) -> tuple[str, ...]:
    """Learn what the server serves, and say who owns that."""
    api = target.profile.api
    with suppress(ConformanceError):  # the case about the model list will say what is wrong
        if api.generate is None:
            answer = await target.get(api.models)
            if answer.status in SHUT:
                target.unlisted = (
                    f"{api.models} answers {answer.status}; say who asks with --header 'Authorization: Bearer ${{KEY}}'"
                )
            elif answer.location:
                target.unlisted = f"{api.models} is at {clip(answer.location)}; examine the server there"
            cards = answer.read(ModelList).data
            target.served = tuple(card.id for card in cards)
            return tuple(card.owned_by for card in cards)
        if api.models:
            entries = (await target.post(api.models, {})).read(list[RepositoryEntry])
            target.served = tuple(entry.name for entry in entries if entry.state == READY)
        else:
            target.served = (NAMELESS,)
    return ()


async def _recognise(target: SurveyedTarget, owners: tuple[str, ...]) -> tuple[ServerProfile, str]:
    """Find out what kind of server it is, and how that shows."""
    page = target.first_page.text if target.first_page and target.first_page.status == OK else ""
    if found := detect(page, owners):
        return found
    if not any(exchange.status for exchange in target.wire.transcript):
        return GENERIC, undetected(page)  # whoever answers nothing is not asked more: each question may take a minute
    for profile in PROFILES:
        with suppress(Unanswered):
            if (mark := profile.mark) and mark.says in (answer := await target.get(mark.path)).text and answer.status == OK:
                return profile, f"GET {mark.path} says {mark.says}"
    return GENERIC, undetected(page)


async def _calibrate(target: SurveyedTarget) -> Calibration:
    """Measure the median time of a generated token."""
    steps_s: list[float] = []
    try:
        for _ in range(CALIBRATION_RUNS):
            exchange = await ask_completion(target)
            exchange.expect_status(200)
            steps_s.append(exchange.elapsed_s / TOKENS)
    except ConformanceError as error:
        return Calibration(note=f"not measured: {error}")
    step_s = statistics.median(steps_s)
    return Calibration(step_s, min(max(step_s / REFERENCE_STEP_S, 1.0), MAX_SCALE), f"median of {CALIBRATION_RUNS}")
