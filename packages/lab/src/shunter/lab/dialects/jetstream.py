"""JetStream: one path that always streams, JSON behind JSON, and metrics on a port of their own."""

from collections.abc import Iterator

import msgspec

from shunter.lab.core.asks import parse_json
from shunter.lab.dialects.dialect import Dialect, Family, Json, Shape, View
from shunter.lab.errors import ApiError

__all__ = ["DIALECT"]

RELEASE = "0.3"
METRICS_PORT = 9988


def _families(view: View) -> Iterator[Family]:
    labels = {"id": "shunter-lab"}
    engine = {**labels, "idx": "0"}

    def gauge(name: str, about: str, labels: dict[str, str], value: float) -> Family:
        return Family(f"jetstream_{name}", "gauge", about, ((labels, value),))

    share = view.gauges.running / view.params.max_num_seqs
    yield gauge("prefill_backlog_size", "Size of prefill queue", labels, view.gauges.waiting)
    yield gauge("transfer_backlog_size", "Size of transfer queue", engine, 0)
    yield gauge("generate_backlog_size", "Size of generate queue", engine, 0)
    yield gauge("slots_used_percentage", "The percentage of decode slots currently being used", engine, share)
    about = "Number of requests successfully completed"
    yield Family("jetstream_request_success_count_total", "counter", about, ((labels, view.finished),))


def _error(error: ApiError) -> tuple[int, bytes]:
    """As FastAPI refuses what its schema does not take."""
    status = 422 if error.status == 400 else error.status
    return status, msgspec.json.encode({"detail": [{"type": error.kind, "loc": ["body"], "msg": error.message}]})


class _Text(msgspec.Struct):
    text: str


class _Tokens(msgspec.Struct):
    token_ids: list[int]


class _DecodeRequest(msgspec.Struct):
    max_tokens: int
    text_content: _Text | None = None
    token_content: _Tokens | None = None


def _read(body: bytes) -> Json:
    asked = parse_json(body, _DecodeRequest)
    prompt = asked.text_content.text if asked.text_content else asked.token_content and asked.token_content.token_ids
    return {"prompt": prompt, "max_tokens": asked.max_tokens, "temperature": 0, "stream": True}


def _sample(body: Json) -> Json:
    return {"streamContent": {"samples": [{"text": choice["text"]} for choice in body["choices"]]}}


def _frame(body: Json) -> bytes:
    """A message behind the other, which is no event stream though its content type says so."""
    return msgspec.json.format(msgspec.json.encode(body), indent=2) + b"\n"


DIALECT = Dialect(
    name="jetstream",
    release=RELEASE,
    basis="from its source: nothing of it was recorded",
    paths={"GET /v1/health": "health", "POST /v1/generate": "generate", "GET /metrics": "metrics"},
    facts={"/": lambda _: {"message": "JetStream HTTP Server"}},
    families=_families,
    process=True,
    well=b'{"is_live": "True"}',
    metrics_port=METRICS_PORT,
    error=_error,
    shapes={"generate": Shape(whole=_sample, event=_sample, frame=_frame, done=b"")},
    read=_read,
    families_of_vllm={
        "jetstream_prefill_backlog_size": "vllm:num_requests_waiting",
        "jetstream_slots_used_percentage": "vllm:kv_cache_usage_perc",
    },
)
