"""How much a session, and all sessions of a worker together, may hold in memory."""

import msgspec

from shunter.picker.errors import ConfigError

__all__ = ["Budget", "Limits"]


class Limits(msgspec.Struct, frozen=True):
    """What a worker accepts.

    ``body_bytes``: the largest request body; a longer one is answered 413. 32 MiB holds a million tokens of text with a
    dozen inline images, and is the retry buffer that the generated Envoy configuration asks for: a body that Envoy could
    not replay on a second endpoint should not be taken on.

    ``buffered_bytes``: what all sessions of one worker hold of bodies that are not complete yet; beyond it a request is
    answered 503. Only FULL_DUPLEX_STREAMED leaves incomplete bodies with the picker. With 256 MiB a worker stays under half
    a gigabyte when eight clients send the largest body slowly. The native transport holds as much at most of messages of
    which a part is here, and as much of answers that gateways do not take, of all its connections together.

    ``streams``: what all connections of one worker have open; beyond it a gateway is told to ask another worker, or to do
    without (UNAVAILABLE). Twice what the circuit breaker of one generated Envoy lets through; at 2.5 KB each, 330 MB.
    """

    body_bytes: int = 32 * 1024 * 1024
    buffered_bytes: int = 256 * 1024 * 1024
    streams: int = 131_072

    def __post_init__(self) -> None:
        """Refuse limits under which no request could ever pass."""
        if self.body_bytes < 1:
            raise ConfigError(f"a limit of {self.body_bytes} bytes for bodies: give --body-bytes at least 1")
        if self.buffered_bytes < self.body_bytes:
            raise ConfigError(
                f"a buffer of {self.buffered_bytes} bytes holds not even one body of {self.body_bytes}:"
                " raise --buffered-bytes or lower --body-bytes"
            )


class Budget:
    """Bytes that all sessions of one worker share; whoever takes must give back."""

    __slots__ = ("limit_bytes", "taken_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.taken_bytes = 0

    def take(self, size_bytes: int) -> bool:
        """Reserve and return True, or leave everything as it is and return False."""
        if self.taken_bytes + size_bytes > self.limit_bytes:
            return False
        self.taken_bytes += size_bytes
        return True

    def give(self, size_bytes: int) -> None:
        """Return what was taken."""
        self.taken_bytes -= size_bytes
