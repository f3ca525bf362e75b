"""How much a peer may ask of an HTTP/2 connection without letting it work.

Each of these things is legal; it becomes an attack by its number. So what costs us something and brings nothing is counted
against what is work, with some credit, and beyond it the connection ends with ENHANCE_YOUR_CALM. Counting has no clock: the
owner of the connection calls ``forgive`` every few seconds, and the count begins anew.
"""

from shunter.picker.transport.frames import HEAD_BYTES, Code, ConnectionFault

__all__ = ["CONTROL_BYTES", "RESETS", "Patience"]

# Of frames that only control (PING, SETTINGS, PRIORITY, WINDOW_UPDATE, RST_STREAM, GOAWAY) or say nothing (empty DATA, unknown
# types), more than bytes of work in both directions. That is seven thousand empty frames; grpcio sends a ping for each read of
# much data, which is paid for by that data.
CONTROL_BYTES = 64 * 1024

# Requests that ended before they were answered, more than those that were. The rapid-reset attack (CVE-2023-44487) opens that
# many within milliseconds, as does the one that makes the server do the resetting (CVE-2025-8671); an Envoy all of whose
# clients leave at once stays below. Envoy ends every normal stream by RST_STREAM: those were answered and give credit.
RESETS = 2000


class Patience:
    """The account of one connection."""

    __slots__ = ("_control_bytes", "_resets", "answers", "worked_bytes")

    answers: int
    """Requests that ended with an answer; whoever ends one adds it."""
    worked_bytes: int
    """Bytes of header blocks and content, of both sides; whoever moves some adds them."""

    def __init__(self) -> None:
        self.forgive()

    def forgive(self) -> None:
        """Begin anew."""
        self.answers = self._control_bytes = self._resets = self.worked_bytes = 0

    def control(self, size: int) -> None:
        """Count a frame with ``size`` bytes of payload that is no work."""
        self._control_bytes += HEAD_BYTES + size
        if self._control_bytes > CONTROL_BYTES + self.worked_bytes:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "many frames and little work")

    def reset(self) -> None:
        """Count a request that ended without an answer, or that had to be reset."""
        self._resets += 1
        if self._resets > RESETS + self.answers:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "many requests that nobody waits for")
