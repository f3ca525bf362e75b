"""Sessions to whom the judge may have something to say, and the timer that asks it; there is none while no request waits."""

import asyncio
import logging
from collections.abc import Callable

from shunter.picker.core.judgement import Judge, Pick, Refusal
from shunter.picker.core.lobby import TURN_S
from shunter.picker.core.session import Session

__all__ = ["Parking", "Resume"]

Resume = Callable[[int, Pick | Refusal, float], None]
"""Called with a ticket, its verdict and the time."""

log = logging.getLogger(__name__)


class Parking:
    """One worker's sessions whose requests wait or may be evicted, by ticket. ``clock`` is monotonic, in seconds."""

    def __init__(self, judge: Judge, clock: Callable[[], float]) -> None:
        """Nobody waits yet."""
        self._judge = judge
        self._clock = clock
        self._resumes: dict[int, Resume] = {}
        self._waiting: set[int] = set()
        self._timer: asyncio.Handle | None = None
        self._hurried = False

    def __len__(self) -> int:
        """How many sessions wait."""
        return len(self._waiting)

    def follow(self, session: Session, resume: Resume) -> None:
        """Remember whom to call if the judge may have something to say; to be called whenever the session has answered."""
        ticket = session.ticket
        if ticket is None:
            return
        self._resumes[ticket] = resume
        if not session.parked:
            self._waiting.discard(ticket)
            return
        self._waiting.add(ticket)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(TURN_S, self._turn)

    def leave(self, session: Session) -> None:
        """Forget a session that is over, whatever it was; what it gives back may be what another one waits for."""
        if session.ticket is not None:
            self._resumes.pop(session.ticket, None)
            self._waiting.discard(session.ticket)
        if self._waiting and self._timer is not None and not self._hurried:
            self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_soon(self._turn)
            self._hurried = True

    def _turn(self) -> None:
        self._timer, self._hurried = None, False
        if not self._waiting:
            return
        try:
            self._dispatch(self._clock())
        finally:
            if self._waiting and self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(TURN_S, self._turn)

    def _dispatch(self, now_s: float) -> None:
        for ticket, verdict in self._judge.dispatch(now_s):
            resume = self._resumes.pop(ticket, None)
            self._waiting.discard(ticket)
            if resume is None:  # it went away because of another one's verdict
                self._judge.leave(ticket, now_s)
                continue
            try:
                resume(ticket, verdict, now_s)
            except Exception:  # the boundary: what broke one stream is logged and the others go on
                log.exception("a session that waited failed")
