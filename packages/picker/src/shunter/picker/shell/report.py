"""What the admin pages may ask of the supervisor, and how it reports on a worker."""

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from shunter.picker.core.learned import Learned
from shunter.picker.core.overview import Overview
from shunter.picker.core.retrial import Retrial
from shunter.picker.core.service_levels import Level as ServiceLevel
from shunter.picker.core.shadow import Account
from shunter.picker.core.tables import Tally
from shunter.picker.shell.post import Post
from shunter.snapshot.stderr import Level

__all__ = ["RELOADS", "Source", "Trial", "WorkerReport", "report_on"]


RELOADS = ("done", "rejected", "refused", "failed")
"""What may come of a reload: taken; not valid; too much would have changed; no worker could serve with it."""


class WorkerReport(msgspec.Struct, frozen=True, kw_only=True):
    """One post and the process that is there."""

    worker: str  # its number, or "collector"
    address: str  # where it listens
    pid: int  # 0: nobody is there, and likewise below
    seat: int
    life: int
    ready: bool
    hindrances: tuple[str, ...]
    streams: int  # open when it was asked last
    certificate_expires_s: float | None  # since 1970; None without TLS
    restarts: dict[str, int]  # by reason, since the supervisor began


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What a changed configuration made of recorded decisions before it was taken, or not."""

    at_s: float  # since 1970
    taken: bool  # False: it would have changed more than it may
    report: tuple[str, ...]  # the same as in the log
    retrial: Retrial
    in_force: Retrial  # what the configuration before made of the same decisions


class Source(Protocol):
    """Answers for all workers. What has to ask them takes a bounded time, whatever state they are in."""

    def workers(self) -> list[WorkerReport]:
        """Report on each, and on the collector if there is one."""
        ...

    def hindrances(self) -> list[str]:
        """Say why requests should not come here, in words; nothing if they should."""
        ...

    def log_level(self) -> Level:
        """Return what is logged at least."""
        ...

    def set_log_level(self, level: Level) -> None:
        """Let everybody log what is of this level at least."""
        ...

    def tally(self) -> Tally:
        """Add up what all counted."""
        ...

    def overview(self) -> Overview:
        """Show the fleet and the account at this moment."""
        ...

    def learned(self) -> Learned | None:
        """Return what the collector learnt; None if it never did."""
        ...

    def reloads(self) -> dict[str, int]:
        """Count reloads of the configuration, by result; the last one's is the last."""
        ...

    def pool(self) -> str:
        """Name the pool that is served."""
        ...

    def service_levels(self) -> Sequence[ServiceLevel]:
        """Return what is promised to whom."""
        ...

    def configuration(self) -> str:
        """Return the configuration in force, with every default, as YAML."""
        ...

    def trial(self) -> Trial | None:
        """Return what the last reload would have changed; None if there was none."""
        ...

    def shadow(self) -> Account | None:
        """Return what came of the second policy in all workers; None if there is none."""
        ...

    async def decisions(self, last: int, request_id: str | None) -> list[dict[str, Any]]:
        """Return the last decisions of all, or those of one request, newest first; raise SilenceError if nobody answers."""
        ...

    async def precedents(self, last: int) -> list[bytes]:
        """Return about as many of the last decisions of all, as lines (``core.precedents``); raise SilenceError likewise."""
        ...

    async def stacks(self) -> str:
        """Return where everybody is."""
        ...


def report_on(post: Post) -> WorkerReport:
    """Say how a post is manned."""
    last = post.child
    child = last if last is not None and not last.end.done() else None
    if child is not None:
        hindrances = child.hindrances
    else:
        hindrances = ("not running" if last is None else f"not running: {last.end.result()}",)
    return WorkerReport(
        worker=post.name.removeprefix("worker-"),
        address=post.address,
        pid=child.pid if child else 0,
        seat=child.seat.index if child else 0,
        life=child.seat.life if child else 0,
        ready=not hindrances,
        hindrances=hindrances,
        streams=sum(each.status.streams for each in post.children if each.status),  # of who drains, too
        certificate_expires_s=child.status.certificate_expires_s if child and child.status else None,
        restarts=dict(post.restarts),
    )
