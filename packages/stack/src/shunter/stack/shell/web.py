"""One small HTTP client for readiness, the first request and the debug pages."""

import http.client
import json
from typing import Any

import msgspec

__all__ = ["Answer", "get", "post"]

TIMEOUT_S = 5.0


class Answer(msgspec.Struct, frozen=True):
    """An HTTP response, read whole."""

    status: int
    body: bytes

    def json(self) -> Any:
        """Decode the body; raises ValueError."""
        return json.loads(self.body)


def get(authority: str, path: str) -> Answer:
    """GET ``path``; raises OSError or http.client.HTTPException."""
    return _ask(authority, "GET", path, None)


def post(authority: str, path: str, body: bytes) -> Answer:
    """POST JSON; raises OSError or http.client.HTTPException."""
    return _ask(authority, "POST", path, body)


def _ask(authority: str, method: str, path: str, body: bytes | None) -> Answer:
    connection = http.client.HTTPConnection(authority, timeout=TIMEOUT_S)
    try:
        connection.request(method, path, body, {"content-type": "application/json"} if body is not None else {})
        response = connection.getresponse()
        return Answer(response.status, response.read())
    finally:
        connection.close()
