"""Header blocks: put together from HEADERS and CONTINUATION frames, decoded, and remembered (RFC 9113 section 4.3).

The requests of a gateway are all alike, and once its encoder has the usual fields in its table, so are their blocks: what the
last few hundred meant is remembered. A block that changes the table, as one with a trace id does, makes all that void.
"""

import msgspec

from shunter.picker.transport import fields
from shunter.picker.transport.frames import MAX_WINDOW_BYTES, Code, ConnectionFault, Flag, StreamFault, unpad
from shunter.picker.transport.hpack import Decoder

__all__ = ["BLOCK_BYTES", "CONTINUATIONS", "FIELDS_BYTES", "Block", "Blocks"]

# Of a header block as sent, and in how many CONTINUATION frames. A gRPC request's is 50 to 500 bytes.
BLOCK_BYTES = 64 * 1024
CONTINUATIONS = 32

# Of the fields a block may mean, as HPACK counts; Envoy's own limit for a request is 60 KiB.
FIELDS_BYTES = 64 * 1024

# Blocks that are remembered, and up to which size. An Envoy uses a handful.
_REMEMBERED = 500
_REMEMBERED_BYTES = 1024


class Block(msgspec.Struct, gc=False):
    """A header block and what the frame said that began it; ``depends_on`` is 0 without a priority."""

    stream_id: int
    data: bytes
    end_stream: bool
    depends_on: int


class Blocks:
    """The header blocks of one connection. Whatever becomes of a block, it must be decoded, in order: the table must agree."""

    def __init__(self) -> None:
        self._decoder = Decoder(FIELDS_BYTES)
        self._generation = self._decoder.generation
        self._remembered: dict[bytes, dict[str, str]] = {}  # requests of this generation
        self.unfinished: Block | None = None
        """A block without its end: nothing but CONTINUATION may come next."""
        self._continuations = 0

    def begin(self, flags: int, stream_id: int, payload: bytes) -> Block | None:
        """Take a HEADERS frame; return the block if it is complete."""
        if flags & Flag.PADDED:
            payload = unpad(payload, flags)
        depends_on = 0
        if flags & Flag.PRIORITY:
            if len(payload) < 5:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            depends_on = int.from_bytes(payload[:4], "big") & MAX_WINDOW_BYTES
            payload = payload[5:]
        block = Block(stream_id, payload, flags & Flag.END_STREAM != 0, depends_on)
        if flags & Flag.END_HEADERS:
            return block
        self.unfinished, self._continuations = block, 0
        return None

    def go_on(self, flags: int, stream_id: int, payload: bytes) -> Block | None:
        """Take a CONTINUATION frame; return the block if it is complete."""
        block = self.unfinished
        if block is None or block.stream_id != stream_id:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "CONTINUATION of nothing")
        block.data += payload
        self._continuations += 1
        if len(block.data) > BLOCK_BYTES or self._continuations > CONTINUATIONS:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "a header block without end")
        if not flags & Flag.END_HEADERS:
            return None
        self.unfinished = None
        return block

    def read_request(self, block: Block) -> dict[str, str]:
        """Return the fields of a request. They may be shared with other requests: look, don't touch."""
        decoder = self._decoder
        if self._generation != decoder.generation:
            self._generation = decoder.generation
            self._remembered.clear()
        request = self._remembered.get(block.data)
        if request is None:
            request = self._read_request(block)
            if self._generation == decoder.generation and len(block.data) <= _REMEMBERED_BYTES:
                if len(self._remembered) == _REMEMBERED:
                    self._remembered.clear()
                self._remembered[block.data] = request
        return request

    def _read_request(self, block: Block) -> dict[str, str]:
        pairs = self._decoder.decode(block.data)
        try:
            return fields.read_request(pairs)
        except fields.MalformedError as error:
            raise StreamFault(block.stream_id, Code.PROTOCOL_ERROR, str(error)) from None

    def decode(self, block: Block) -> list[tuple[str, str]]:
        """Return the fields of any other block, unchecked."""
        return self._decoder.decode(block.data)
