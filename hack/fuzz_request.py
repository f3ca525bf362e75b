"""Fuzz what reads a client's body: it is read or refused, agrees with json, and only the model's value is ever rewritten."""

import json

from shunter.picker.core.judgement import Refusal
from shunter.picker.core.request import read, rewrite_model

__all__ = ["CORPUS", "target"]

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/other")
TARGET = "fuzz/target"

CORPUS = [
    b'{"model":"m","messages":[{"role":"user","content":"hello"}],"stream":true,"max_tokens":5}',
    b'{"model":"m","prompt":"hello","max_tokens":5,"cache_salt":"s"}',
    b'{"model":"m","prompt":[[1,2],[3]],"n":1.5e3}',
    b'{"model":"m","input":[{"type":"text"}],"instructions":"i","tools":[]}',
    b'{"mod\\u0065l":"m","model":"m","messages":["m","\\"model\\":\\"m\\""],"system":"\\ud83d\\ude00"}',
    b' { "messages" : [ { } , [ ] ] , "model" : "\xc3\xa9" , "model" : "m" } ',
    b'{"model":null,"messages":[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]}',
    b'{"n":' + b"9" * 4400 + b',"model":"m","messages":["m"]}',  # more digits than int() takes
]


def target(data: bytes) -> None:
    for path in PATHS:
        request = read({":path": path}, data)
        if isinstance(request, Refusal) or request.model is None:
            continue
        text = data.decode("utf-8", "replace")  # bytes that are not UTF-8 inside other members are the engine's affair
        before = json.loads(text, strict=False, parse_int=str)
        assert before["model"] == request.model
        after = json.loads(rewrite_model(data, TARGET).decode("utf-8", "replace"), strict=False, parse_int=str)
        assert after.pop("model") == TARGET
        del before["model"]
        assert after == before
