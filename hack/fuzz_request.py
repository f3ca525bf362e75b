"""Fuzz what reads a client's body: it is read or refused, agrees with json, and only the model's value is ever rewritten."""

import json

from shunter.picker.core.formats import FORMATS, SGLANG
from shunter.picker.core.judgement import Refusal
from shunter.picker.core.multipart import find_boundary, find_field
from shunter.picker.core.request import read
from shunter.picker.core.splice import rewrite_model

__all__ = ["CORPUS", "target"]

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/generate", "/v1/rerank", "/other")
FORM = {":path": "/v1/audio/transcriptions", "content-type": "multipart/form-data; boundary=b"}
TARGET = "fuzz/target"
MODEL_PART = b'Content-Disposition: form-data; name="model"\r\n\r\nm\r\n--b--'

CORPUS = [
    b'{"model":"m","messages":[{"role":"user","content":"hello"}],"stream":true,"max_tokens":5}',
    b'{"model":"m","prompt":"hello","max_tokens":5,"cache_salt":"s"}',
    b'{"model":"m","prompt":[[1,2],[3]],"n":1.5e3}',
    b'{"model":"m","input":[{"type":"text"}],"instructions":"i","tools":[]}',
    b'{"mod\\u0065l":"m","model":"m","messages":["m","\\"model\\":\\"m\\""],"system":"\\ud83d\\ude00"}',
    b' { "messages" : [ { } , [ ] ] , "model" : "\xc3\xa9" , "model" : "m" } ',
    b'{"model":null,"messages":[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]}',
    b'{"model":"m","token_ids":[1, 2],"input_ids":[[3]],"text":"","sampling_params":{"max_tokens":1,"max_new_tokens":2}}',
    b'{"model":"m","messages":[{"content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,iVBORw0KGgo="}}]}]}',
    b'{"model":"m","messages":[{"content":[{"type":"image","source":{"data":"/9j/wAAL"}},{"input_audio":{"data":"AA"}}]}]}',
    b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n\x00\r\n--b\r\n' + MODEL_PART,
    b'{"n":' + b"9" * 4400 + b',"model":"m","messages":["m"]}',  # more digits than int() takes
]


def target(data: bytes) -> None:
    target_form(data)
    for path in PATHS:
        request = read({":path": path}, data, formats=FORMATS + SGLANG)
        if isinstance(request, Refusal) or request.model is None:
            continue
        text = data.decode("utf-8", "replace")  # bytes that are not UTF-8 inside other members are the engine's affair
        before = json.loads(text, strict=False, parse_int=str)
        assert before["model"] == request.model
        after = json.loads(rewrite_model(data, TARGET).decode("utf-8", "replace"), strict=False, parse_int=str)
        assert after.pop("model") == TARGET
        del before["model"]
        assert after == before


def target_form(data: bytes) -> None:
    request = read(FORM, data)
    if isinstance(request, Refusal):
        return
    boundary = find_boundary(FORM["content-type"])
    start, end = find_field(data, boundary, "model")
    assert data[start:end].decode() == request.model
    rewritten = rewrite_model(data, TARGET, FORM["content-type"])
    assert rewritten == data[:start] + TARGET.encode() + data[end:]
