"""An event loop whose clock leaps over the time in which nothing happens.

For a server and its clients in one process, whose sockets are connected to each other over loopback: all that is on its way is
ready to be read, so when nothing is ready everybody waits for a timer, and the clock may be set to the next one at once. A
minute of load costs the work that is done in it, and no busy machine makes anybody late.

It does not see what other processes and threads are about to do, so it is not for those.
"""

import asyncio
import selectors

__all__ = ["LeapingLoop"]

# What the work between two looks at the sockets is taken to last: whoever asks again and again without a pause gets on, too.
TURN_S = 20e-6

# The kernel may take a moment to hand on what was sent. Before a leap as long as somebody's patience it is given one.
LONG_LEAP_S = 0.25
GRACE_S = 0.01


class _Leaper(selectors.DefaultSelector):
    """Waits for no timer."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.now_s += TURN_S
        if timeout is None:
            return super().select()
        ready = super().select(0 if timeout < LONG_LEAP_S else GRACE_S)
        if not ready:
            self.now_s += max(timeout, 0.0)
        return ready


class LeapingLoop(asyncio.SelectorEventLoop):
    """Its time begins at 0 and is nobody else's: `asyncio.Runner(loop_factory=LeapingLoop)`."""

    def __init__(self) -> None:
        self._leaper = _Leaper()
        super().__init__(self._leaper)

    def time(self) -> float:
        return self._leaper.now_s
