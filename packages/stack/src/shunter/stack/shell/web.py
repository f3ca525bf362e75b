"""One small HTTP client for readiness, the first request and the debug pages."""

import http.client
import json
from typing import Any

__all__ = ["Answer", "get", "post"]

TIMEOUT_S = 5.0


class Answer:
    """An HTTP response, read whole."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        """Header names in lower case."""
        self.status = status
        self.headers = headers
        self.body = body

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
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()
