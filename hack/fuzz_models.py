"""Fuzz what names models: a body router agrees with json and says nothing a header cannot; lists of models are read or not."""

import json

from shunter.picker.config.base_models import read_base_models
from shunter.picker.core.body_routing import ModelNamer
from shunter.picker.core.judgement import Ask, Pick, Refusal
from shunter.picker.core.listing import answer
from shunter.picker.core.tables import COUNTERS_BYTES, Counters
from shunter.picker.errors import ConfigError
from shunter.scraper.core.models import read_models

__all__ = ["CORPUS", "target"]

KINDS = ("application/json; charset=utf-8", "multipart/form-data; boundary=b", "text/plain")
CONFIG_MAP = b"""\
kind: ConfigMap
metadata: {name: a, labels: {inference.networking.k8s.io/bbr-managed: "true"}}
data: {baseModel: llama, adapters: "[m, n]"}
---
kind: Secret
"""

CORPUS = [
    b'{"model":"m","prompt":"hello"}',
    b'{"model":"\\u00e9\\n","model":"\xc3\xa9"}',
    b'{"model":null,"x":[[[[[]]]]]}',
    b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--b--',
    b'{"object":"list","data":[{"id":"m"},{"id":""}]}',
    CONFIG_MAP,
    b"/v1/models/org%2Fm?x",
]

counters = Counters(bytearray(COUNTERS_BYTES))
counters.begin(1, pid=0, now_ns=0)
namer = ModelNamer({"m": "llama"}, counters)


def target(data: bytes) -> None:
    for kind in KINDS:
        verdict = namer.decide(Ask({"content-type": kind}, data), 0.0)
        assert isinstance(verdict, Pick | Refusal)
        if isinstance(verdict, Refusal):
            assert verdict.status == 400
            continue
        assert not verdict.endpoints
        for _, value in verdict.set_headers:
            assert not set(value.encode("latin-1")) & {0, 10, 13}
        if kind == KINDS[0]:
            said = json.loads(data.decode("utf-8", "replace"), strict=False, parse_int=str).get("model")
            assert (said or None) == verdict.model
    if (models := read_models(data)) is not None:
        assert all(models.names)
        assert models.names == tuple(sorted(set(models.names)))
        assert set(models.adapters) <= set(models.names)
    listed = answer({":method": "GET", ":path": data.decode("latin-1")}, lambda: ("m", "org/m"))
    assert listed is None or listed.status in {200, 404}
    try:
        bases = read_base_models(data.decode("utf-8", "replace"))
    except ConfigError:
        return
    assert all(bases[base] == base for base in bases.values())
