"""Put the client's model name back into a response, as its bytes pass.

A rewritten request asks the engine for another model, and the engine answers in that one's name. ``"model":"<target>"``
(also with one space after the colon) becomes the client's name wherever it stands, also when it is cut in two. Inside a
JSON string the pattern cannot appear, because there its quotes are escaped.
"""

import re

import msgspec

__all__ = ["Restorer"]


class Restorer:
    """Feed it a response piece by piece; it returns the bytes that can go on."""

    __slots__ = ("_held", "_model", "_pattern", "_spellings")

    def __init__(self, target_model: str, model: str) -> None:
        old = msgspec.json.encode(target_model)
        self._model = msgspec.json.encode(model)
        self._spellings = (b'"model":' + old, b'"model": ' + old)
        self._pattern = re.compile(b'("model": ?)' + re.escape(old))
        self._held = b""  # the end of what was fed, if it may be the beginning of a match

    def feed(self, data: bytes, *, last: bool = False) -> bytes:
        """Return what can go on; with ``last`` nothing is held back."""
        data = self._held + data
        done: list[bytes] = []
        start = 0
        for match in self._pattern.finditer(data):
            done += (data[start : match.end(1)], self._model)
            start = match.end()
        cut = len(data) if last else self._beginning(data, start)
        self._held = data[cut:]
        return b"".join((*done, data[start:cut]))

    def _beginning(self, data: bytes, start: int) -> int:
        """Return where the end of the data may begin a match, not before ``start``; the data's length if nowhere."""
        start = max(start, len(data) - len(self._spellings[1]) + 1)
        while (start := data.find(b'"', start)) >= 0:
            if any(spelling.startswith(data[start:]) for spelling in self._spellings):
                return start
            start += 1
        return len(data)
