import base64
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shunter.picker.core.media import may_hold_media, read_image_size
from shunter.picker.core.request import read

CHAT = {":path": "/v1/chat/completions"}
TEXT = {"type": "text", "text": "what is it?"}


def png(width, height):
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height) + b"rest"


def gif(width, height):
    return b"GIF89a" + struct.pack("<HH", width, height) + b"rest"


def jpeg(width, height):
    notes = b"\xff\xe1" + struct.pack(">H", 5000) + b"x" * 4998
    table = b"\xff\xc4" + struct.pack(">H", 4) + b"xx"
    return b"\xff\xd8" + notes + table + b"\xff\xc2" + struct.pack(">HBHH", 11, 8, height, width) + b"rest"


def lossy(width, height):
    return b"RIFF....WEBPVP8 ....\0\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height)


def lossless(width, height):
    return b"RIFF....WEBPVP8L....\x2f" + struct.pack("<I", (width - 1) | (height - 1) << 14)


def extended(width, height):
    return b"RIFF....WEBPVP8X....\0\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")


def base64_of(data):
    return base64.b64encode(data).decode()


def data_url(data, kind="image/png"):
    return f"data:{kind};base64,{base64_of(data)}"


@pytest.mark.parametrize("make", [png, gif, jpeg, lossy, lossless, extended])
@pytest.mark.parametrize("wrap", [data_url, base64_of])
def test_the_size_of_an_image_is_read(make, wrap):
    assert read_image_size(memoryview(wrap(make(1920, 1080)).encode())) == (1920, 1080)


@pytest.mark.parametrize("make", [png, jpeg])
@pytest.mark.parametrize("more", range(4))
def test_the_size_of_a_large_image_is_read_also_from_json_with_escaped_slashes(make, more):
    url = data_url(make(1920, 1080) + b"\xff" * (100_000 + more)).replace("/", "\\/")
    assert read_image_size(memoryview(url.encode())) == (1920, 1080)


@pytest.mark.parametrize("source", ["", "https://example.com/a.png", "data:image/png;base64,", data_url(b"nothing"), "é!"])
def test_without_a_size_there_is_none(source):
    assert read_image_size(memoryview(source.encode())) is None


@given(
    st.binary(), st.sampled_from([b"\xff\xd8", b"\x89PNG\r\n\x1a\n", b"RIFF....WEBPVP8 ", b"GIF89a", b"\xff\xd8\xff\xc0", b""])
)
def test_any_file_has_a_size_or_none(data, start):
    size = read_image_size(memoryview(data_url(start + data).encode()))
    assert size is None or min(size) > 0


def of(*parts, path="/v1/chat/completions", field="messages", **headers):
    body = {"model": "m", field: [{"role": "user", "content": [TEXT, *parts]}]}
    return read(headers | {":path": path}, json.dumps(body).encode())


IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
VIDEO = {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}}
AUDIO = {"type": "input_audio", "input_audio": {"data": "AAAA" * 5000, "format": "wav"}}


def kinds(request):
    return [(each.kind, each.tokens) for each in request.media]


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (of(IMAGE), [("image", 225)]),
        (of({"type": "image_url", "image_url": {"url": data_url(png(1024, 512))}}), [("image", 512)]),
        (of(IMAGE, VIDEO, AUDIO), [("image", 225), ("video", 4500), ("audio", 250)]),
        (of({"type": "audio_url", "audio_url": {"url": data_url(b"x")}}), [("audio", 250)]),
        (of(VIDEO, **{"x-llm-d-video-fps": "1", "x-llm-d-video-duration-seconds": "4"}), [("video", 900)]),
        (of(VIDEO, **{"x-llm-d-video-resolution": "1024x1024", "x-llm-d-video-fps": "0.1"}), [("video", 1024)]),
        (of(VIDEO, **{"x-llm-d-video-resolution": "big", "x-llm-d-video-fps": "nan"}), [("video", 4500)]),
        (of(VIDEO, **{"x-llm-d-video-fps": "1e308"}), [("video", 1_000_000)]),
        (of(AUDIO, **{"x-llm-d-audio-duration-seconds": "60"}), [("audio", 1500)]),
        (of({"type": "file", "file": {"file_data": "AAAA" * 100}}), [("document", 75)]),
        (
            of({"type": "input_image", "image_url": data_url(png(64, 64))}, path="/v1/responses", field="input"),
            [("image", 4)],
        ),
        (
            of({"type": "image", "source": {"type": "base64", "data": base64_of(jpeg(640, 640))}}, path="/v1/messages"),
            [("image", 400)],
        ),
        (
            of({"type": "document", "source": {"type": "url", "url": "https://a.example"}}, path="/v1/messages"),
            [("document", 3)],
        ),
        (
            of(
                {"type": "tool_result", "content": [TEXT, {"type": "image", "source": {"data": base64_of(png(64, 64))}}]},
                path="/v1/messages",
            ),
            [("image", 4)],
        ),
        (of({"type": "tool_result", "content": "words"}, path="/v1/messages"), []),
        (of({"type": "image_url", "image_url": 7}, {"type": "image"}, {}), []),
        (of(7), []),
        (of(), []),
    ],
)
def test_media_are_found_in_every_dialect(request_, expected):
    assert kinds(request_) == expected


def test_a_large_image_counts_as_an_image_and_not_as_text():
    picture = {"type": "image_url", "image_url": {"url": data_url(png(512, 512) + b"\x55" * 1_000_000)}}
    assert 256 <= of(picture).prompt_tokens < 400


def test_a_large_image_is_found_behind_much_text():
    picture = {"type": "image_url", "image_url": {"url": data_url(png(512, 512) + b"\x55" * 50_000)}}
    talk = [{"role": "user", "content": "so many words " * 10_000}, {"role": "user", "content": [picture]}]
    request = read(CHAT, json.dumps({"model": "m", "messages": talk}).encode())
    assert kinds(request) == [("image", 256)]


def test_a_chat_of_strings_is_not_searched():
    talk = [{"role": "user", "content": 'if a[0] == "image_url": print({"type": [1, 2]})'}] * 1000
    assert not may_hold_media(json.dumps({"model": "m", "messages": talk}).encode())


@pytest.mark.parametrize("escaped", [False, True])
def test_text_without_spaces_is_not_searched(escaped):
    talk = [{"role": "user", "content": "我能吞下玻璃而不伤身体。" * 10_000}]
    assert not may_hold_media(json.dumps({"model": "m", "messages": talk}, ensure_ascii=escaped).encode())
