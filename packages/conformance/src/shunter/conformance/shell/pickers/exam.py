"""The exam of an endpoint picker: at an address, with the model servers that it was told of, or started for the exam."""

import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Protocol

import msgspec

from shunter.conformance.core.addresses import check_address, check_endpoint
from shunter.conformance.core.case import AnyCase, Bound, Case
from shunter.conformance.core.events import Event, Planned, Side, Started, Timeline
from shunter.conformance.core.exchange import Evidence, Exchange, evidence
from shunter.conformance.core.waivers import Waiver
from shunter.conformance.errors import Skip, Unanswered, UsageError
from shunter.conformance.sections.pickers import CASES
from shunter.conformance.sections.pickers.asking import ANSWERS
from shunter.conformance.sections.pickers.messages import Mode
from shunter.conformance.sections.pickers.profile import PickerProfile
from shunter.conformance.sections.pickers.profiles import GENERIC, find_profile
from shunter.conformance.sections.pickers.target import Control, Proxy, Server, Stream, Target
from shunter.conformance.sections.servers.profiles import find_profile as find_dialect
from shunter.conformance.shell.pickers.envoy import Envoy
from shunter.conformance.shell.pickers.servers import PlayedServer, play
from shunter.conformance.shell.pickers.streams import Line
from shunter.conformance.shell.pickers.tunnel import anybody, dial, tunnel
from shunter.conformance.shell.runner import TRIES, attend, tell_unstarted
from shunter.conformance.shell.wire import ANSWER_TIMEOUT_S, Wire, check_url, unreachable

__all__ = ["SERVERS", "Launched", "Launcher", "PlayedTarget", "examine"]

SERVERS = ("127.0.0.2:0", "127.0.0.3:0", "127.0.0.4:0", "127.0.0.4:0")
"""Where model servers are played for a picker that the exam starts: on three hosts, as some pickers do not tell ports apart."""


class Launched(msgspec.Struct, frozen=True, kw_only=True):
    """A picker that has been started and picks."""

    address: str
    health: str
    metrics_url: str
    profile: str


class Launcher(Control, Protocol):
    """Who starts a picker for the exam: by entering `start`, and gone with all its children and files when that ends."""

    def __call__(self, servers: Sequence[Server]) -> "Launcher":
        """Say of which endpoints it is to know."""
        ...

    async def __aenter__(self) -> Launched:
        """Start it and wait until it picks; raises LaunchError."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def examine(
    picker: str | Launcher,
    *,
    servers: Sequence[str] = (),
    dialect: str = "vllm",
    cases: Sequence[Case[Target]] = CASES,
    profile: PickerProfile | str | None = None,
    health: str | None = None,
    metrics_url: str | None = None,
    tls: bool = False,
    envoy: Path | None = None,
    waivers: Sequence[Waiver] = (),
    timeout_s: float = ANSWER_TIMEOUT_S,
    patience: float = 1.0,
    tries: int = TRIES,
) -> AsyncGenerator[Event]:
    """Examine the picker at `host:port`, or the one that a launcher starts.

    Raises UsageError at once, or never. If the picker does not come up, every case is one that could not be asked, and
    LaunchError follows the last event.

    `servers` are the addresses of the endpoints that it was told of, at which the exam listens; a launcher tells it of them.
    `health` is where its health is asked for, by default where it picks. With `tls` it is spoken to by TLS, whatever its
    certificate; its health, where that is elsewhere, is not. With the binary of an `envoy` it is also examined
    through that. `patience` is a factor on every time limit.
    """
    if not 0 < timeout_s < math.inf:
        raise UsageError(f"timeout {timeout_s:g} s: want a number of seconds above 0")
    if isinstance(picker, str):
        check_address(picker, "address")
        if not servers:
            raise UsageError(
                f"{picker}: --servers is missing: the addresses of the endpoints that the picker was told of, where the exam "
                "plays model servers"
            )
    plan = _Plan(
        servers=tuple(check_endpoint(each, "--servers") for each in servers or SERVERS),
        dialect=dialect,
        profile=find_profile(profile) if isinstance(profile, str) else profile,
        health=check_address(health, "--health") if health else None,
        metrics_url=check_url(metrics_url) if metrics_url else None,
        tls=tls,
        envoy=envoy,
        timeout_s=timeout_s,
        patience=patience,
    )
    find_dialect(dialect)
    return tell_unstarted(attend(_open(picker, plan), cases, waivers=waivers, tries=tries), cases, Side.PICKER)


class _Plan(msgspec.Struct, frozen=True, kw_only=True):
    servers: tuple[str, ...]
    dialect: str
    profile: PickerProfile | None
    health: str | None
    metrics_url: str | None
    tls: bool
    envoy: Path | None
    timeout_s: float
    patience: float


class PlayedTarget:
    """The picker under exam as cases (`Target`) and engine (`Examined`) see it."""

    def __init__(
        self,
        wire: Wire,
        launched: Launched,
        profile: PickerProfile,
        reason: str,
        servers: Sequence[PlayedServer],
        control: Control | None,
        proxy: Proxy | None,
        plan: _Plan,
        door: str,
    ) -> None:
        """Make it of all that has been opened; `door` is where the picker is reached without TLS."""
        self.wire = wire
        self.servers: Sequence[PlayedServer] = servers
        self.profile = profile
        self._plan, self._reason, self._launched = plan, reason, launched
        self._control, self._proxy = control, proxy
        health_door = door if launched.health == launched.address else ""
        self.line = Line(launched.address, self.seconds, door, plan.timeout_s)
        self.health_line = Line(launched.health, self.seconds, health_door, plan.timeout_s)

    def seconds(self, bound: Bound) -> float:
        return min(bound.seconds * self._plan.patience, self._plan.timeout_s)

    @property
    def control(self) -> Control:
        if self._control is None:
            raise Skip("needs a picker that the exam may end and tell of endpoints; --launch starts one")
        return self._control

    @property
    def proxy(self) -> Proxy:
        if self._proxy is None:
            raise Skip("needs a real Envoy; --envoy names its binary")
        return self._proxy

    def stream(self, mode: Mode = Mode.FULL_DUPLEX_STREAMED) -> AbstractAsyncContextManager[Stream]:
        return self.line.stream(mode)

    async def health(self, service: str) -> str:
        return await self.health_line.check(service, ANSWERS)

    async def metrics(self) -> Exchange:
        if not self._launched.metrics_url:
            raise Skip("nobody said where the picker's metrics are; --metrics-url does")
        return await self.wire.exchange("GET", self._launched.metrics_url)

    async def alpn(self) -> str:
        if not self._plan.tls:
            raise Skip("needs a picker that is spoken to by TLS; --tls says so")
        try:
            _, writer = await dial(self._launched.address, anybody())
        except OSError as error:
            raise Unanswered(f"no TLS with {self._launched.address}: {error}") from None
        negotiated = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        writer.transport.abort()
        return negotiated or ""

    def started(self, date: str, cases: Sequence[AnyCase]) -> Started:
        return Started(
            date=date,
            url=self._launched.address,
            profile=self.profile.name,
            profile_reason=self._reason,
            cases=tuple(Planned(case.id, case.level, case.requirement, case.suites) for case in cases),
            side=Side.PICKER,
            metrics_url=self._launched.metrics_url,
            scale=self._plan.patience,
            calibration="the examiner's patience",
        )

    def forget(self) -> None:
        self.wire.transcript.clear()
        self.line.forget()
        self.health_line.forget()

    async def adapt(self, *, longer: bool = False) -> None:
        """Its patience is the examiner's, and stays."""

    def evidence(self) -> list[Evidence]:
        """What went by HTTP first: who asks a picker and its metrics page learns more from the streams."""
        return [*map(evidence, self.wire.transcript), *self.health_line.evidence(), *self.line.evidence()]

    def timelines(self) -> list[Timeline]:
        return []

    async def unreachable(self) -> str | None:
        return await unreachable(f"http://{self._launched.address}")


@asynccontextmanager
async def _open(picker: str | Launcher, plan: _Plan) -> AsyncGenerator[PlayedTarget]:
    async with AsyncExitStack() as opened:
        wire = await opened.enter_async_context(Wire(plan.timeout_s))
        servers = await opened.enter_async_context(play(plan.servers, find_dialect(plan.dialect)))
        if isinstance(picker, str):
            control = None
            launched = Launched(
                address=picker, health=plan.health or picker, metrics_url=plan.metrics_url or "", profile=GENERIC.name
            )
            reason = "nobody said what it is; --profile does"
        else:
            control = picker(servers)
            launched = await opened.enter_async_context(control)
            reason = "started by the exam"
        if plan.profile:
            reason = "chosen by the examiner"
        door = await opened.enter_async_context(tunnel(launched.address, anybody())) if plan.tls else launched.address
        proxy = None
        if plan.envoy:
            proxy = await opened.enter_async_context(Envoy(plan.envoy, door, servers, wire))
        target = PlayedTarget(
            wire, launched, plan.profile or find_profile(launched.profile), reason, servers, control, proxy, plan, door
        )
        opened.push_async_callback(target.line.close)
        opened.push_async_callback(target.health_line.close)
        yield target
