"""Images, videos and recordings in a prompt: how many tokens each of them is to the engine, estimated.

Base64 has four bytes to every three of a file, and a file of a megabyte may be a picture of a thousand tokens: counted as
text it would be three hundred thousand. So media are taken out of the count of bytes and estimated by themselves:

========= ==================================================================================================================
image     width · height / 1024; the size is read from a data URL's first bytes, else 640 x 360 is assumed (225 tokens)
video     two frames a second, each as an image; 10 s are assumed. The headers ``x-llm-d-video-fps``,
          ``x-llm-d-video-duration-seconds`` and ``x-llm-d-video-resolution`` (``1280x720``) say otherwise
audio     25 tokens a second; 10 s are assumed. The header ``x-llm-d-audio-duration-seconds`` says otherwise
document  its bytes without Base64, as if they were text
========= ==================================================================================================================

The first two rows are the estimates of the reference's token-producer.
"""

import math
import re
from base64 import b64decode
from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

__all__ = ["Media", "audio_tokens", "find_media", "may_hold_media", "read_image_size"]

Kind = Literal["image", "video", "audio", "document"]

PIXELS_PER_TOKEN = 1024
IMAGE_SIZE = (640, 360)
VIDEO_FPS = 2.0
DURATION_S = 10.0
# Audio encoders of language models make 6 to 50 tokens of a second; 25 is Qwen2-Audio's.
AUDIO_TOKENS_PER_S = 25.0
BYTES_PER_TOKEN = 4

# Beyond any real one; estimates above would drown all other load.
LARGEST_TOKENS = 1_000_000

# Of a body, what is searched for lists of parts. Behind so much text a picture by reference, a few hundred tokens, is no
# matter; one that is there itself is found by its size, wherever it stands.
SEARCHED_BYTES = 32 << 10
PARTS = re.compile(rb'\[\s*\{\s*"(?:type|image|video|input|audio|text|file|source)')

# Base64 has no white space, text has much, in most scripts: so long a piece without is a file's.
BLOB_BYTES = 4096
STRIDE_BYTES = 16 << 10

# Where the size stands is among the first bytes of a file; in a JPEG behind the camera's notes and a thumbnail.
SIZE_WITHIN_BYTES = 256
JPEG_SIZE_WITHIN_BYTES = 64 << 10
JPEG = b"\xff\xd8"

_NONE = msgspec.Raw(b"")


class Media(msgspec.Struct, frozen=True, gc=False):
    """One item: its kind, the JSON string that holds or names it, and its tokens."""

    kind: Kind
    source: memoryview  # without quotes: a URL, a data URL, or Base64
    tokens: int


class Message(msgspec.Struct):
    """A message, or an item of a Responses input."""

    content: msgspec.Raw = _NONE


class Part(msgspec.Struct):
    """A part of a message in any dialect. What is media stands in a field of the type's name, in Anthropic's in ``source``."""

    type: str = ""
    image_url: msgspec.Raw = _NONE
    video_url: msgspec.Raw = _NONE
    audio_url: msgspec.Raw = _NONE
    input_audio: msgspec.Raw = _NONE
    file: msgspec.Raw = _NONE
    file_data: msgspec.Raw = _NONE
    source: msgspec.Raw = _NONE
    content: msgspec.Raw = _NONE  # of a tool's result: parts again


class Source(msgspec.Struct):
    """An object around the string."""

    url: msgspec.Raw = _NONE
    data: msgspec.Raw = _NONE
    file_data: msgspec.Raw = _NONE


FIELDS: tuple[tuple[str, Kind], ...] = (
    ("image_url", "image"),
    ("video_url", "video"),
    ("audio_url", "audio"),
    ("input_audio", "audio"),
    ("file", "document"),
    ("file_data", "document"),
)

_messages = msgspec.json.Decoder(list[Message])
_parts = msgspec.json.Decoder(list[Part])
_source = msgspec.json.Decoder(Source)


def may_hold_media(body: bytes | bytearray) -> bool:
    """Tell cheaply whether it is worth looking for media: a chat whose contents are strings costs a look for brackets."""
    bracket = body.find(b"[", body.find(b"[") + 1, SEARCHED_BYTES)
    if bracket >= 0 and PARTS.search(body, bracket, SEARCHED_BYTES):
        return True
    starts = range(STRIDE_BYTES, len(body) - BLOB_BYTES, STRIDE_BYTES)
    return bool(starts) and any(
        body.find(b" ", at, at + BLOB_BYTES) < 0 and _is_blob(body[at : at + BLOB_BYTES]) for at in starts
    )


def _is_blob(piece: bytes | bytearray) -> bool:
    """Tell Base64 from text in a script that has no spaces, as it is or escaped."""
    return piece.isascii() and b"\\u" not in piece


def find_media(prompt: msgspec.Raw, headers: Mapping[str, str]) -> tuple[Media, ...]:
    """Return the media of messages, in order; none of a prompt that is something else, which is the engine's affair."""
    try:
        return tuple(_find(prompt, headers))
    except (ValueError, RecursionError):  # msgspec's errors, and bytes that are not UTF-8
        return ()


def _find(prompt: msgspec.Raw, headers: Mapping[str, str]) -> Iterator[Media]:
    for message in _messages.decode(prompt):
        for part in _read_parts(message.content):
            yield from _find_in(part, headers)
            for inner in _read_parts(part.content):
                yield from _find_in(inner, headers)


def _read_parts(content: msgspec.Raw) -> list[Part]:
    return _parts.decode(content) if _begins(content, b"[") else []


def _find_in(part: Part, headers: Mapping[str, str]) -> Iterator[Media]:
    for name, kind in FIELDS:
        if value := _string(getattr(part, name)):
            yield _measure(kind, value, headers)
    if value := _string(part.source):
        yield _measure("image" if part.type == "image" else "document", value, headers)


def _begins(value: msgspec.Raw, character: bytes) -> bool:
    return bytes(memoryview(value)[:1]) == character


def _string(value: msgspec.Raw) -> memoryview | None:
    """Return the string that is the value, or that is in it as a URL or data."""
    if _begins(value, b"{"):
        source = _source.decode(value)
        value = next((each for each in (source.url, source.data, source.file_data) if _begins(each, b'"')), _NONE)
    return memoryview(value)[1:-1] if _begins(value, b'"') else None


def _measure(kind: Kind, source: memoryview, headers: Mapping[str, str]) -> Media:
    if kind == "image":
        width, height = read_image_size(source) or IMAGE_SIZE
        tokens = _image_tokens(width, height)
    elif kind == "video":
        tokens = _video_tokens(headers)
    elif kind == "audio":
        tokens = audio_tokens(headers)
    else:
        tokens = len(source) * 3 // 4 // BYTES_PER_TOKEN
    return Media(kind, source, min(tokens, LARGEST_TOKENS))


def audio_tokens(headers: Mapping[str, str]) -> int:
    """Return the tokens of a recording as long as the headers say."""
    seconds = _number(headers, "x-llm-d-audio-duration-seconds", DURATION_S)
    return min(int(seconds * AUDIO_TOKENS_PER_S), LARGEST_TOKENS)


def _video_tokens(headers: Mapping[str, str]) -> int:
    frames = _number(headers, "x-llm-d-video-fps", VIDEO_FPS) * _number(headers, "x-llm-d-video-duration-seconds", DURATION_S)
    width, _, height = headers.get("x-llm-d-video-resolution", "").lower().partition("x")
    size = (int(width), int(height)) if _is_count(width) and _is_count(height) else IMAGE_SIZE
    return int(min(frames, LARGEST_TOKENS)) * _image_tokens(*size)


def _image_tokens(width: int, height: int) -> int:
    return max(1, width * height // PIXELS_PER_TOKEN)


def _number(headers: Mapping[str, str], name: str, default: float) -> float:
    """Return a header's number; the default in place of what is none, or not above zero."""
    try:
        value = float(headers.get(name, default))
    except ValueError:
        return default
    return min(value, LARGEST_TOKENS) if value > 0 and not math.isnan(value) else default


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < len(text) < 6


def read_image_size(source: memoryview) -> tuple[int, int] | None:
    """Return width and height of a PNG, GIF, JPEG or WebP in Base64, with or without a data URL's head; None if unknown."""
    data = _decode(source[:SIZE_WITHIN_BYTES])
    if data.startswith(JPEG):
        data = _decode(source[:JPEG_SIZE_WITHIN_BYTES])
    size = _size(data)
    return size if size and min(size) > 0 else None


def _decode(source: memoryview) -> bytes:
    """Return the beginning of a file of which the beginning of the Base64 is given; nothing if it is none."""
    head = bytes(source).replace(b"\\/", b"/").rstrip(b"\\")
    if head.startswith(b"data:"):
        head = head.partition(b",")[2]
    try:
        return b64decode(head[: len(head) & ~3], validate=True)
    except ValueError:
        return b""


def _size(data: bytes) -> tuple[int, int] | None:
    """PNG (RFC 2083 section 4.1.1), GIF89a section 18, JPEG (T.81 annex B), WebP (RFC 9649)."""

    def number(at: int, width: int, order: Literal["big", "little"]) -> int:
        return int.from_bytes(data[at : at + width], order)

    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return number(16, 4, "big"), number(20, 4, "big")
    if data.startswith((b"GIF87a", b"GIF89a")):
        return number(6, 2, "little"), number(8, 2, "little")
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        match data[12:16]:
            case b"VP8X":
                return number(24, 3, "little") + 1, number(27, 3, "little") + 1
            case b"VP8L":
                bits = number(21, 4, "little")
                return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
            case _:
                return number(26, 2, "little") & 0x3FFF, number(28, 2, "little") & 0x3FFF
    if data.startswith(JPEG):
        at = 2
        while at + 9 <= len(data) and data[at] == 0xFF:
            # A frame of any coding; C4, C8 and CC in its range are tables.
            if 0xC0 <= data[at + 1] <= 0xCF and data[at + 1] not in {0xC4, 0xC8, 0xCC}:
                return number(at + 7, 2, "big"), number(at + 5, 2, "big")
            at += 2 + number(at + 2, 2, "big")
    return None
