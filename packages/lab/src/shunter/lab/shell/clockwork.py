"""The driver: an event loop's clock moves an engine, and every token goes to whoever waits for it.

A timer is set for the engine's next event; between events nothing runs.
"""

import asyncio
from collections.abc import Callable, Hashable

from shunter.lab.core.engine import Engine
from shunter.lab.core.gauges import Gauges
from shunter.lab.core.requests import Request
from shunter.lab.core.sequence import Token

__all__ = ["Clockwork"]

# uvloop rounds timers to the nearest millisecond: half of one more never rings early, and a step is many milliseconds.
_TIMER_ROUNDING_S = 0.0005


class Clockwork:
    """Owns the time of one engine. Everything happens on the loop it was made in."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self.engine = engine
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._listeners: dict[Hashable, Callable[[Token], None]] = {}
        self.watch: Callable[[], object] | None = None
        """Told whenever a prompt has been computed."""

    @property
    def live(self) -> int:
        """Requests submitted and not finished."""
        return len(self._listeners)

    def submit(self, request: Request, listener: Callable[[Token], None]) -> None:
        """Queue a request; its tokens are told to the listener as they come into being."""
        self.engine.submit(request, self._loop.time())
        self._listeners[request.id] = listener
        self._tick()

    def abort(self, request_id: str) -> bool:
        """Forget a request, if it is still there; its listener hears nothing more. False if it is not."""
        if self._listeners.pop(request_id, None) is None:
            return False
        self.engine.abort(request_id, self._loop.time())
        self._tick()
        return True

    def pace(self, share: float) -> None:
        """Let the engine do a share of what it can from its next step on."""
        self.engine.slow(share, self._loop.time())
        self._tick()

    def gauges(self) -> Gauges:
        """What the engine reports now, not as of the last timer."""
        self._tick()
        return self.engine.reported()

    def close(self) -> None:
        """Stop: nothing happens any more, and nobody is told."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._listeners.clear()

    def _tick(self) -> None:
        prompts = 0
        for token in self.engine.advance(self._loop.time()):
            prompts += token.index == 0
            listener = self._listeners.get(token.id)
            if listener is not None:
                if token.finish is not None:
                    del self._listeners[token.id]
                listener(token)
        if self._timer is not None:
            self._timer.cancel()
        next_s = self.engine.next_event_s()
        self._timer = None if next_s is None else self._loop.call_at(next_s + _TIMER_ROUNDING_S, self._tick)
        if prompts and self.watch is not None:
            self.watch()
