"""HTTP/2 frames (RFC 9113 sections 4, 6 and 7): their numbers, how they are written, and what settings may say."""

import struct
from collections.abc import Callable
from enum import IntEnum

from shunter.picker.errors import ProtocolError

__all__ = [
    "HEAD_BYTES",
    "MAX_FRAME_BYTES",
    "MAX_WINDOW_BYTES",
    "PREFACE",
    "Code",
    "ConnectionFault",
    "Flag",
    "Kind",
    "Setting",
    "StreamFault",
    "go_away",
    "head",
    "pack_head",
    "read_head",
    "read_settings",
    "reset",
    "settings",
    "unpad",
    "update_window",
]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

HEAD_BYTES = 9

# The size every end must take, and the one we never exceed either way (section 4.2): larger frames would only make those who
# share the connection wait longer.
MAX_FRAME_BYTES = 16_384

# Of a flow-control window (section 6.9.1).
MAX_WINDOW_BYTES = 2**31 - 1

_HEAD = struct.Struct(">HBBBL")
_SETTING = struct.Struct(">HL")


class Kind:
    """Frame types (section 6). Plain numbers, because the members of an enum take six times as long to look up."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Flag:
    """Frame flags; which means what depends on the type. Plain numbers, as above."""

    END_STREAM = 0x1
    ACK = 0x1
    END_HEADERS = 0x4
    PADDED = 0x8
    PRIORITY = 0x20


class Setting(IntEnum):
    """Settings (section 6.5.2)."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Code(IntEnum):
    """Error codes (section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class ConnectionFault(ProtocolError):  # noqa: N818  a fault is the peer's, an error would be ours
    """The peer broke what concerns the whole connection (section 5.4.1). Never leaves the connection: it becomes GOAWAY."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class StreamFault(ProtocolError):  # noqa: N818  as above
    """The peer broke what concerns one stream (section 5.4.2). Never leaves the connection: it becomes RST_STREAM."""

    def __init__(self, stream_id: int, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.stream_id = stream_id
        self.code = code


# (length >> 8, length & 255, kind, flags, stream id) of the head that begins at an offset of a buffer.
read_head: Callable[[bytes, int], tuple[int, int, int, int, int]] = _HEAD.unpack_from


# The reverse; END_STREAM, the only flag of data, is 1.
pack_head = _HEAD.pack


def head(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    """Write what stands before a payload of ``length`` bytes."""
    return pack_head(length >> 8, length & 0xFF, kind, flags, stream_id)


def settings(values: dict[Setting, int]) -> bytes:
    """Write a SETTINGS frame."""
    payload = b"".join([_SETTING.pack(key, value) for key, value in values.items()])
    return head(Kind.SETTINGS, 0, 0, len(payload)) + payload


def update_window(stream_id: int, increment_bytes: int) -> bytes:
    """Write a WINDOW_UPDATE frame; stream 0 is the connection."""
    return head(Kind.WINDOW_UPDATE, 0, stream_id, 4) + increment_bytes.to_bytes(4, "big")


def reset(stream_id: int, code: Code) -> bytes:
    """Write an RST_STREAM frame."""
    return head(Kind.RST_STREAM, 0, stream_id, 4) + code.to_bytes(4, "big")


def go_away(last_stream_id: int, code: Code, reason: str = "") -> bytes:
    """Write a GOAWAY frame; the reason is for people."""
    payload = last_stream_id.to_bytes(4, "big") + code.to_bytes(4, "big") + reason.encode()
    return head(Kind.GOAWAY, 0, 0, len(payload)) + payload


def unpad(payload: bytes, flags: int) -> bytes:
    """Return what is left of a DATA or HEADERS frame without its padding (section 6.1)."""
    if not flags & Flag.PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(Code.PROTOCOL_ERROR, "more padding than frame")
    return payload[1 : len(payload) - payload[0]]


def read_settings(payload: bytes) -> dict[int, int]:
    """Return the last value of each setting; raise what section 6.5.2 wants for one that may not be."""
    if len(payload) % _SETTING.size:
        raise ConnectionFault(Code.FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes")
    values: dict[int, int] = {}
    for key, value in _SETTING.iter_unpack(payload):
        if key == Setting.ENABLE_PUSH and value > 1:
            raise ConnectionFault(Code.PROTOCOL_ERROR, f"SETTINGS_ENABLE_PUSH {value}")
        if key == Setting.INITIAL_WINDOW_SIZE and value > MAX_WINDOW_BYTES:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, f"SETTINGS_INITIAL_WINDOW_SIZE {value}")
        if key == Setting.MAX_FRAME_SIZE and not MAX_FRAME_BYTES <= value < 1 << 24:
            raise ConnectionFault(Code.PROTOCOL_ERROR, f"SETTINGS_MAX_FRAME_SIZE {value}")
        values[key] = value
    return values
